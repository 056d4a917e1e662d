/* The device that tests of whole networks run on: $MABN_TEST_DEVICE, by default the CPU. Tests use
 * float32 on every device, so that one set of expectations holds for all. */
#ifndef MABN_TESTS_DEVICE_H
#define MABN_TESTS_DEVICE_H

#include <stdbool.h>
#include <stdlib.h>

#include "device/device.h"

static inline mabn_status test_device_open(struct mabn_device **device, int threads)
{
    const char *word = getenv("MABN_TEST_DEVICE");
    return mabn_device_open(device, word && *word ? word : "cpu", threads);
}

static inline bool test_device_is_cpu(const struct mabn_device *device)
{
    return mabn_device_kind_of(device) == MABN_DEVICE_CPU;
}

#endif
