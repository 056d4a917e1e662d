/* Weights in blocks, against oneDNN's own conversions: sizes that fill their blocks and sizes that do not. */
#include "ops/centralize.h"
#include "ops/weight_blocks.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "draw.h"
#include "tap.h"

static struct mabn_device *device;

struct order {
    const char *name;
    dnnl_format_tag_t tag;
    dnnl_data_type_t type;
};

static mabn_status convert(void *to, const mabn_dnnl_layout *layout, const float *from,
                           const mabn_dnnl_layout *ours)
{
    struct mabn_dnnl_op op = {0};
    void *scratch;
    mabn_status status = mabn_dnnl_reorder_init(&op, device, ours, layout, false);
    if (!status) status = mabn_device_scratch(device, &scratch, op.scratch + 64);
    if (!status) status = mabn_dnnl_op_run(&op, device, (void *[]){(void *)from, to}, scratch);
    mabn_dnnl_op_release(&op);
    return status;
}

static void check(const struct order *order, int64_t out, int64_t in, int64_t side, bool flat)
{
    const dnnl_dims_t dims = {out, in, side, side};
    mabn_dnnl_layout *layout = NULL, *ours = NULL;
    struct mabn_weight_blocks blocks;
    const int n = flat ? 2 : 4;
    if (mabn_dnnl_layout_new(&layout, n, dims, order->type, order->tag) ||
        mabn_dnnl_layout_new(&ours, n, dims, dnnl_f32, flat ? dnnl_ab : dnnl_acdb))
        abort();
    const size_t bytes = dnnl_memory_desc_get_size(layout);
    float *from = draw_uniform((size_t)(out * in * side * side), 7);
    float *means = draw_uniform((size_t)out, 8);
    float *less = mabn_xmalloc((size_t)(out * in * side * side) * sizeof *less);
    char *want = mabn_xcalloc(bytes, 1), *got = mabn_xmalloc(bytes);
    memset(got, 0xab, bytes);
    if (!tap_ok(mabn_weight_blocks_of(&blocks, layout), "%s: blocks of weights", order->name))
        goto done;
    mabn_weight_blocks_fill(got, from, NULL, out, in, &blocks);
    if (convert(want, layout, from, ours))
        tap_skip("oneDNN does not convert to it here");
    else
        tap_ok(!memcmp(got, want, bytes), "%s: %d×%d, %d taps", order->name, (int)out, (int)in,
               (int)(side * side));
    mabn_subtract_means(less, from, means, out, in * side * side);
    mabn_weight_blocks_fill(want, less, NULL, out, in, &blocks);
    mabn_weight_blocks_fill(got, from, means, out, in, &blocks);
    tap_ok(!memcmp(got, want, bytes), "%s: less means", order->name);
done:
    mabn_dnnl_layout_free(layout);
    mabn_dnnl_layout_free(ours);
    free(from);
    free(means);
    free(less);
    free(want);
    free(got);
}

static void check_others(void)
{
    static const struct order others[] = {{"our own order", dnnl_acdb, dnnl_f32},
                                          {"fours of inputs inside", dnnl_ABcd16b16a4b, dnnl_bf16},
                                          {"eights of inputs", dnnl_aBcd8b, dnnl_f32}};
    const dnnl_dims_t dims = {32, 32, 3, 3};
    for (size_t k = 0; k < sizeof others / sizeof *others; k++) {
        mabn_dnnl_layout *layout = NULL;
        struct mabn_weight_blocks blocks;
        if (mabn_dnnl_layout_new(&layout, 4, dims, others[k].type, others[k].tag)) abort();
        tap_ok(!mabn_weight_blocks_of(&blocks, layout), "%s are not such blocks", others[k].name);
        mabn_dnnl_layout_free(layout);
    }
}

int main(void)
{
    static const struct order orders[] = {
        {"Acdb16a", dnnl_Acdb16a, dnnl_f32},          {"Acdb64a", dnnl_Acdb64a, dnnl_f32},
        {"ABcd16b16a", dnnl_ABcd16b16a, dnnl_f32},    {"ABcd16a16b", dnnl_ABcd16a16b, dnnl_f32},
        {"BAcd16a16b", dnnl_BAcd16a16b, dnnl_f32},    {"AcdB16a2b", dnnl_AcdB16a2b, dnnl_bf16},
        {"AcdB64a2b", dnnl_AcdB64a2b, dnnl_bf16},     {"ABcd8b16a2b", dnnl_ABcd8b16a2b, dnnl_bf16},
        {"ABcd8a16b2a", dnnl_ABcd8a16b2a, dnnl_bf16}, {"BAcd8a16b2a", dnnl_BAcd8a16b2a, dnnl_bf16}};
    static const struct order flat[] = {{"BA16a64b2a", dnnl_BA16a64b2a, dnnl_bf16},
                                        {"BA16a64b", dnnl_BA16a64b, dnnl_f32}};
    if (mabn_device_new(&device, MABN_DEVICE_CPU, 2)) return 1;
    for (size_t k = 0; k < sizeof orders / sizeof *orders; k++) {
        check(&orders[k], 64, 64, 1, false);
        check(&orders[k], 65, 49, 3, false);
        check(&orders[k], 7, 3, 2, false);
    }
    for (size_t k = 0; k < sizeof flat / sizeof *flat; k++) {
        check(&flat[k], 64, 128, 1, true);
        check(&flat[k], 49, 67, 1, true);
    }
    check_others();
    mabn_device_free(device);
    return tap_done();
}
