/* dlopen for the executor: NVIDIA's libraries are what libraries.cpp has in their places. */
#ifndef MABN_TESTS_GPU_EXECUTOR_DLFCN_H
#define MABN_TESTS_GPU_EXECUTOR_DLFCN_H

enum { RTLD_NOW = 2, RTLD_LOCAL = 0 };
#ifdef __cplusplus
extern "C" {
#endif
void *executor_dlopen(const char *name, int flags);
void *executor_dlsym(void *library, const char *name);
const char *executor_dlerror(void);
#ifdef __cplusplus
}
#endif
#define dlopen executor_dlopen
#define dlsym executor_dlsym
#define dlerror executor_dlerror

#endif
