/* ONNX: protobuf and initialisers. */
#include "fuzz_weights.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    fuzz_open(bytes, size);
    return 0;
}
