/* Hashes for tables whose keys come from files. A file cannot be made so that its keys collide:
 * the seed is drawn once a process. So nothing that is printed or saved may depend on a hash, or on
 * the order of such a table. */
#ifndef MABN_BASE_HASH_H
#define MABN_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"

MABN_BEGIN_DECLS

uint64_t mabn_hash_bytes(const void *bytes, size_t n);
uint64_t mabn_hash_i64(int64_t key);

MABN_END_DECLS
#endif
