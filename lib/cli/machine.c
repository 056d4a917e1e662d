/* --device and --precision: the same for every tool that computes. */
#include "cli/cli.h"

#include <string.h>

#include "device/device.h"
#include "net/net.h"

/* As enum mabn_net_precision counts. */
const char *const mabn_cli_precisions[] = {"auto", "fp32", "tf32", "bf16", "fp16", NULL};
_Static_assert(MABN_NET_AUTO == 0 && MABN_NET_FP32 == 1 && MABN_NET_TF32 == 2 &&
                   MABN_NET_BF16 == 3 && MABN_NET_FP16 == 4,
               "the order of mabn_cli_precisions");

void mabn_cli_check_machine(const char *device, int precision)
{
    if (mabn_device_word_check(device)) mabn_cli_usage_error("--device: %s", mabn_error_message());
    if (!strcmp(device, "cpu") && precision > MABN_NET_FP32)
        mabn_cli_usage_error("--precision %s needs a GPU: the CPU computes in fp32",
                             mabn_cli_precisions[precision]);
}
