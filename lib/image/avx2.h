/* For files with AVX2 loops beside portable ones: WITH_AVX2 says whether there are any, AVX2 marks
 * their functions, and the caller asks the processor. Internal. */
#ifndef MABN_IMAGE_AVX2_H
#define MABN_IMAGE_AVX2_H

#if defined(__x86_64__) && defined(__GNUC__)
#define WITH_AVX2 1
#include <immintrin.h>
#define AVX2 __attribute__((target("avx2")))
#else
#define WITH_AVX2 0
#endif

#endif
