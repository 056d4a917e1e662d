/* See conv_fast.cpp. */
#ifndef MABN_TESTS_GPU_EXECUTOR_CONV_FAST_H
#define MABN_TESTS_GPU_EXECUTOR_CONV_FAST_H

extern bool executor_pretends_convolutions;

#endif
