/* NVIDIA's libraries on the executor: there are none. */
#include "device/internal.h"

mabn_status mabn_cuda_libraries_open(struct mabn_cuda_libraries *libraries, void *)
{
    *libraries = {};
    return MABN_OK;
}

void mabn_cuda_libraries_close(struct mabn_cuda_libraries *)
{
}
