/* --device and --precision: the same for every tool that computes. */
#include "cli/cli.h"

#include <string.h>

#include "device/device.h"
#include "net/net.h"

void mabn_cli_check_machine(const char *device, int precision)
{
    if (mabn_device_word_check(device)) mabn_cli_usage_error("--device: %s", mabn_error_message());
    if (!strcmp(device, "cpu") && precision > MABN_NET_FP32 && precision != MABN_NET_BF16)
        mabn_cli_usage_error("--precision %s needs a GPU: the CPU computes in fp32 and bf16",
                             mabn_word_name(mabn_net_precisions, precision));
}

int mabn_cli_infer_precision(const struct mabn_device *device, int precision, bool exact)
{
    if (precision != MABN_NET_AUTO || mabn_device_kind_of(device) != MABN_DEVICE_CPU)
        return precision;
    return !exact && mabn_device_bf16(device) == MABN_BF16_NATIVE ? MABN_NET_BF16 : MABN_NET_FP32;
}
