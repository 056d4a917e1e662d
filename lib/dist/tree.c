#include "dist/tree.h"

#include <stdbool.h>
#include <stdint.h>

size_t mabn_dist_type_bytes(enum mabn_dist_type type)
{
    return type == MABN_DIST_F32 ? sizeof(float) : sizeof(double);
}

/* Leaves of the left branch of a node of `count` > 1 leaves. */
static int left_count(int count)
{
    int left = 1;
    while (2 * left < count)
        left *= 2;
    return left;
}

static void branches(struct mabn_span node, struct mabn_span *left, struct mabn_span *right)
{
    int n = left_count(node.count);
    *left = (struct mabn_span){node.first, n};
    *right = (struct mabn_span){node.first + n, node.count - n};
}

static int add_parts(struct mabn_span *parts, int n, struct mabn_span node, int first, int end)
{
    if (node.first >= end || node.first + node.count <= first) return n;
    if (node.first >= first && node.first + node.count <= end) {
        parts[n] = node;
        return n + 1;
    }
    struct mabn_span left, right;
    branches(node, &left, &right);
    n = add_parts(parts, n, left, first, end);
    return add_parts(parts, n, right, first, end);
}

int mabn_tree_parts(struct mabn_span parts[MABN_TREE_MAX_PARTS], int shards, int first, int count)
{
    return add_parts(parts, 0, (struct mabn_span){0, shards}, first, first + count);
}

int mabn_tree_merges(int shards, int first, int shard)
{
    struct mabn_span node = {0, shards}, left, right;
    int merges = 0;
    while (node.count > 1) {
        merges += node.first >= first && node.first + node.count == shard + 1;
        branches(node, &left, &right);
        node = shard < right.first ? left : right;
    }
    return merges;
}

int mabn_tree_depth(int shards, int first, int count)
{
    int depth = 0, most = 0;
    for (int i = 0; i < count; i++) {
        if (++depth > most) most = depth;
        depth -= mabn_tree_merges(shards, first, first + i);
    }
    return most;
}

void mabn_tree_add(enum mabn_dist_type type, void *into, const void *other, size_t n)
{
    if (type == MABN_DIST_F32) {
        float *a = (float *)into;
        const float *b = (const float *)other;
        for (size_t i = 0; i < n; i++)
            a[i] += b[i];
    } else if (type == MABN_DIST_F64) {
        double *a = (double *)into;
        const double *b = (const double *)other;
        for (size_t i = 0; i < n; i++)
            a[i] += b[i];
    } else {
        uint64_t *a = (uint64_t *)into; /* wraps, where signed numbers may not */
        const uint64_t *b = (const uint64_t *)other;
        for (size_t i = 0; i < n; i++)
            a[i] += b[i];
    }
}

struct sum {
    enum mabn_dist_type type;
    void *const *buffers;
    const struct mabn_span *parts;
    int next; /* part */
    size_t n;
};

/* The buffer that now holds the node. */
static void *sum_node(struct sum *sum, struct mabn_span node)
{
    struct mabn_span left, right;
    if (sum->parts[sum->next].count == node.count) return sum->buffers[sum->next++];
    branches(node, &left, &right);
    void *a = sum_node(sum, left);
    mabn_tree_add(sum->type, a, sum_node(sum, right), sum->n);
    return a;
}

void mabn_tree_sum(enum mabn_dist_type type, void *const *buffers, const struct mabn_span *parts,
                   int shards, size_t n)
{
    struct sum sum = {type, buffers, parts, 0, n};
    sum_node(&sum, (struct mabn_span){0, shards});
}
