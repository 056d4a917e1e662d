/* The fixed binary tree that sums over shards follow.
 *
 * Adding floating-point numbers in another order gives other bits. So a sum over V shards always
 * follows one tree of V leaves, however many ranks carry them. The tree of V leaves: its left
 * branch is a tree of the largest power of two below V, its right branch one of the rest.
 *
 *     V = 4: (0+1)+(2+3)        V = 6: ((0+1)+(2+3))+(4+5)
 *
 * A rank carries neighbouring shards and can add up by itself the nodes that lie wholly among them:
 * its *parts*. With V/R shards a rank there is one part where V/R is a power of two, otherwise a
 * few (V = 12 on 4 ranks: 2 a rank). The parts of all ranks, in order, are then added along the
 * rest of the tree. Nothing of this depends on the numbers, so every rank knows all ranks' parts.
 */
#ifndef MABN_DIST_TREE_H
#define MABN_DIST_TREE_H

#include <stddef.h>

#include "base/attr.h"

MABN_BEGIN_DECLS

enum { MABN_MAX_SHARDS = 4096, MABN_TREE_MAX_PARTS = 24 };

enum mabn_dist_type { MABN_DIST_F32, MABN_DIST_F64, MABN_DIST_I64 };
size_t mabn_dist_type_bytes(enum mabn_dist_type type);

/* Shards first … first+count−1; as a node of the tree, all its leaves. */
struct mabn_span {
    int first, count;
};

/* The parts of the shards [first, first+count), in order: the largest nodes that lie within.
 * Returns how many. */
int mabn_tree_parts(struct mabn_span parts[MABN_TREE_MAX_PARTS], int shards, int first, int count);

/* Adding up as shards come, in order, on a stack of buffers: after `shard` has been put on top, add
 * the top to the one below it, and drop the top, this many times. After the last shard of the rank
 * (whose first one is `first`) the stack holds the parts. */
int mabn_tree_merges(int shards, int first, int shard);
/* Buffers that this takes at most. */
int mabn_tree_depth(int shards, int first, int count);

/* into[i] += other[i] for i < n. */
void mabn_tree_add(enum mabn_dist_type type, void *into, const void *other, size_t n);

/* Add up parts that cover all shards: buffers[i] (n) holds parts[i]. The sum is left in buffers[0];
 * the others are overwritten. */
void mabn_tree_sum(enum mabn_dist_type type, void *const *buffers, const struct mabn_span *parts,
                   int shards, size_t n);

MABN_END_DECLS
#endif
