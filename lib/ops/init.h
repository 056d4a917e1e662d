/* Initial weights. Counter-based: element i of tensor `tensor` under `seed` has the same value on
 * any machine with any number of threads. `tensor` is any number that names the tensor (its
 * position in the model, or mabn_init_id of its name). */
#ifndef MABN_OPS_INIT_H
#define MABN_OPS_INIT_H

#include <stdint.h>

#include "base/attr.h"

MABN_BEGIN_DECLS

/* 64-bit FNV-1a of a tensor's name. Initial values then depend on the name, not on the rest of the
 * model. */
uint64_t mabn_init_id(const char *name);

/* Common bounds and deviations (fan_in = in/groups·kh·kw, fan_out = out·kh·kw):
 *   detection convolutions       uniform ±sqrt(3/fan_in)     ("kaiming uniform, a = 1")
 *   classification convolutions  normal, sqrt(2/fan_out)
 *   PyTorch's default, also bias uniform ±1/sqrt(fan_in) */
void mabn_init_fill(float *x, int64_t count, float value);
void mabn_init_normal(float *x, int64_t count, double mean, double deviation, uint64_t seed,
                      uint64_t tensor);
void mabn_init_uniform(float *x, int64_t count, double low, double high, uint64_t seed,
                       uint64_t tensor);

MABN_END_DECLS
#endif
