/* Writing PyTorch's zip form, so that torch.load(weights_only=True) takes it.
 *
 * Without training state the file is the state dict itself, which torchvision's load_state_dict and
 * the reference take; with momentum it is
 *     {"model": state dict, "optimizer": {"state", "param_groups"}, "iteration": step,
 *      "mabn_other": {…}}
 * as the reference writes. The optimizer's group lists the parameters that have momentum, in the
 * model's order, and their names. Notes travel in the state dict's _metadata under "mabn", where
 * PyTorch does not look. Every tensor has a storage of its own. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "exchange/pickle_ops.h"
#include "exchange/pickle_weights.h"

#define FOLDER "archive/"

struct sink {
    struct mabn_zip_writer zip;
    char **names; /* of the zip entries data/N */
    size_t count;
    struct mabn_str pickle;
};
enum { FIRST_STORAGE = 2 }; /* zip entries before the storages: data.pkl, byteorder */

/* ---- pickle opcodes ---- */

static void put_float(struct mabn_str *p, double v)
{
    uint64_t bits;
    memcpy(&bits, &v, 8);
    mabn_pickle_op(p, 'G');
    for (int i = 7; i >= 0; i--)
        mabn_pickle_op(p, (int)(bits >> (8 * i) & 0xff));
}

static void put_empty_ordered_dict(struct mabn_str *p)
{
    mabn_pickle_put_global(p, "collections", "OrderedDict");
    mabn_str_add(p, ")R");
}

/* ---- tensors ---- */

static const char *storage_class(enum mabn_dtype dtype)
{
    static const char *const names[] = {
        [MABN_DTYPE_F32] = "FloatStorage", [MABN_DTYPE_F64] = "DoubleStorage",
        [MABN_DTYPE_F16] = "HalfStorage",  [MABN_DTYPE_BF16] = "BFloat16Storage",
        [MABN_DTYPE_I8] = "CharStorage",   [MABN_DTYPE_U8] = "ByteStorage",
        [MABN_DTYPE_I16] = "ShortStorage", [MABN_DTYPE_I32] = "IntStorage",
        [MABN_DTYPE_I64] = "LongStorage",  [MABN_DTYPE_BOOL] = "BoolStorage",
    };
    return names[dtype];
}

/* _rebuild_tensor_v2(storage, 0, shape, strides, False, OrderedDict()) */
static void put_tensor(struct mabn_str *p, const struct mabn_weight *t, size_t key)
{
    char text[24];
    int64_t strides[MABN_MAX_RANK], step = 1;
    for (int i = t->shape.rank - 1; i >= 0; i--) {
        strides[i] = step;
        step *= t->shape.dim[i] > 0 ? t->shape.dim[i] : 1;
    }
    mabn_pickle_put_global(p, "torch._utils", "_rebuild_tensor_v2");
    mabn_str_add(p, "((");
    mabn_pickle_put_text(p, "storage");
    mabn_pickle_put_global(p, "torch", storage_class(t->dtype));
    snprintf(text, sizeof text, "%zu", key);
    mabn_pickle_put_text(p, text);
    mabn_pickle_put_text(p, "cpu");
    mabn_pickle_put_int(p, (int64_t)t->count);
    mabn_str_add(p, "tQ");
    mabn_pickle_put_int(p, 0);
    mabn_pickle_op(p, '(');
    for (int i = 0; i < t->shape.rank; i++)
        mabn_pickle_put_int(p, t->shape.dim[i]);
    mabn_str_add(p, "t(");
    for (int i = 0; i < t->shape.rank; i++)
        mabn_pickle_put_int(p, strides[i]);
    mabn_pickle_op(p, 't');
    mabn_pickle_op(p, 0x89);
    put_empty_ordered_dict(p);
    mabn_str_add(p, "tR");
}

static size_t count_part(const struct mabn_weights_writer *writer, enum mabn_weight_part part)
{
    size_t n = 0;
    for (size_t i = 0; i < writer->count; i++)
        n += writer->items[i].part == part;
    return n;
}

static void put_items(struct mabn_str *p, const struct mabn_weights_writer *writer,
                      enum mabn_weight_part part)
{
    mabn_pickle_op(p, '(');
    for (size_t i = 0; i < writer->count; i++)
        if (writer->items[i].part == part) {
            mabn_pickle_put_text(p, writer->items[i].name);
            put_tensor(p, &writer->items[i], i);
        }
    mabn_pickle_op(p, 'u');
}

static void put_state_dict(struct mabn_str *p, const struct mabn_weights_writer *writer)
{
    put_empty_ordered_dict(p);
    put_items(p, writer, MABN_WEIGHT_MODEL);
    if (!writer->notes.count) return;
    mabn_str_add(p, "}(");
    mabn_pickle_put_text(p, "_metadata");
    mabn_str_add(p, "}(");
    mabn_pickle_put_text(p, MABN_TORCH_NOTES);
    mabn_str_add(p, "}(");
    for (size_t i = 0; i < writer->notes.count; i++) {
        mabn_pickle_put_text(p, writer->notes.items[i].key);
        mabn_pickle_put_text(p, writer->notes.items[i].value);
    }
    mabn_str_add(p, "uuub");
}

/* ---- the optimizer ---- */

static const struct mabn_weight *model_at(const struct mabn_weights_writer *writer, size_t i)
{
    return writer->items[i].part == MABN_WEIGHT_MODEL ? &writer->items[i] : NULL;
}

struct named {
    const char *name;
    size_t index;
};

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct named *)a)->name, ((const struct named *)b)->name);
}

/* The indices of *count momenta, in the order of the model's parameters. */
static size_t *order_momenta(const struct mabn_weights_writer *writer, size_t *count)
{
    struct named *all = mabn_xmalloc((writer->count + 1) * sizeof *all);
    size_t *order = mabn_xmalloc((writer->count + 1) * sizeof *order), n = 0;
    *count = 0;
    for (size_t i = 0; i < writer->count; i++)
        if (writer->items[i].part == MABN_WEIGHT_MOMENTUM)
            all[n++] = (struct named){writer->items[i].name, i};
    qsort(all, n, sizeof *all, by_name);
    for (size_t i = 0; i < writer->count; i++) {
        const struct mabn_weight *t = model_at(writer, i);
        struct named key = {t ? t->name : "", 0};
        struct named *found = t ? bsearch(&key, all, n, sizeof *all, by_name) : NULL;
        if (found) order[(*count)++] = found->index;
    }
    free(all);
    return order;
}

static double note_number(const struct mabn_weights_writer *writer, const char *key, double other)
{
    const char *text = mabn_weights_writer_note(writer, key);
    return text ? strtod(text, NULL) : other;
}

static void put_optimizer(struct mabn_str *p, const struct mabn_weights_writer *writer)
{
    static const struct {
        const char *key, *note;
        double other;
    } numbers[] = {
        {"lr", "optimizer.lr", 0.1},
        {"momentum", "optimizer.momentum", 0.9},
        {"dampening", "optimizer.dampening", 0},
        {"weight_decay", "optimizer.weight_decay", 1e-4},
    };
    size_t count, *order = order_momenta(writer, &count);
    const char *nesterov = mabn_weights_writer_note(writer, "optimizer.nesterov");
    mabn_str_add(p, "}(");
    mabn_pickle_put_text(p, "state");
    mabn_str_add(p, "}(");
    for (size_t i = 0; i < count; i++) {
        mabn_pickle_put_int(p, (int64_t)i);
        mabn_str_add(p, "}(");
        mabn_pickle_put_text(p, "momentum_buffer");
        put_tensor(p, &writer->items[order[i]], order[i]);
        mabn_pickle_op(p, 'u');
    }
    mabn_pickle_op(p, 'u');
    mabn_pickle_put_text(p, "param_groups");
    mabn_str_add(p, "](}(");
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        mabn_pickle_put_text(p, numbers[i].key);
        put_float(p, note_number(writer, numbers[i].note, numbers[i].other));
    }
    mabn_pickle_put_text(p, "nesterov");
    mabn_pickle_op(p, nesterov && !strcmp(nesterov, "true") ? 0x88 : 0x89);
    mabn_pickle_put_text(p, "params");
    mabn_str_add(p, "](");
    for (size_t i = 0; i < count; i++)
        mabn_pickle_put_int(p, (int64_t)i);
    mabn_pickle_op(p, 'e');
    mabn_pickle_put_text(p, "param_names");
    mabn_str_add(p, "](");
    for (size_t i = 0; i < count; i++)
        mabn_pickle_put_text(p, writer->items[order[i]].name);
    mabn_str_add(p, "eueu");
    free(order);
}

static void put_object(struct mabn_str *p, const struct mabn_weights_writer *writer)
{
    const char *step = mabn_weights_writer_note(writer, "step");
    int64_t iteration = step ? strtoll(step, NULL, 10) : 0;
    size_t momenta = count_part(writer, MABN_WEIGHT_MOMENTUM);
    size_t others = count_part(writer, MABN_WEIGHT_OTHER);
    mabn_pickle_op(p, 0x80);
    mabn_pickle_op(p, 2);
    if (!momenta && !others) {
        put_state_dict(p, writer);
        mabn_pickle_op(p, '.');
        return;
    }
    mabn_str_add(p, "}(");
    mabn_pickle_put_text(p, "model");
    put_state_dict(p, writer);
    if (momenta) {
        mabn_pickle_put_text(p, "optimizer");
        put_optimizer(p, writer);
    }
    if (iteration) {
        mabn_pickle_put_text(p, "iteration");
        mabn_pickle_put_int(p, iteration);
    }
    if (others) {
        mabn_pickle_put_text(p, "mabn_other");
        mabn_pickle_op(p, '}');
        put_items(p, writer, MABN_WEIGHT_OTHER);
    }
    mabn_str_add(p, "u.");
}

/* ---- the sink ---- */

static mabn_status begin_torch(struct mabn_weights_writer *writer)
{
    struct sink *s = mabn_xcalloc(1, sizeof *s);
    writer->backend = s;
    mabn_str_init(&s->pickle);
    MABN_TRY(mabn_outfile_open(&writer->out, writer->path, writer->force));
    mabn_zip_writer_init(&s->zip, writer->out.fd, writer->path);
    put_object(&s->pickle, writer);
    mabn_zip_writer_add(&s->zip, FOLDER "data.pkl", s->pickle.length);
    mabn_zip_writer_add(&s->zip, FOLDER "byteorder", strlen("little"));
    s->names = mabn_xcalloc(writer->count + 1, sizeof *s->names);
    for (; s->count < writer->count; s->count++) {
        s->names[s->count] = mabn_xasprintf(FOLDER "data/%zu", s->count);
        mabn_zip_writer_add(&s->zip, s->names[s->count], writer->items[s->count].bytes);
    }
    mabn_zip_writer_add(&s->zip, FOLDER "version", strlen("3\n"));
    MABN_TRY(mabn_zip_writer_put(&s->zip, 0, s->pickle.text));
    MABN_TRY(mabn_zip_writer_put(&s->zip, 1, "little"));
    return mabn_zip_writer_put(&s->zip, FIRST_STORAGE + writer->count, "3\n");
}

static mabn_status put_torch(struct mabn_weights_writer *writer, size_t index, const void *data)
{
    struct sink *s = writer->backend;
    return mabn_zip_writer_put(&s->zip, FIRST_STORAGE + index, data);
}

static mabn_status finish_torch(struct mabn_weights_writer *writer)
{
    struct sink *s = writer->backend;
    return mabn_zip_writer_finish(&s->zip);
}

static void free_torch(void *backend)
{
    struct sink *s = backend;
    if (!s) return;
    for (size_t i = 0; i < s->count; i++)
        free(s->names[i]);
    free(s->names);
    mabn_zip_writer_release(&s->zip);
    mabn_str_release(&s->pickle);
    free(s);
}

const struct mabn_weights_sink mabn_torch_sink = {begin_torch, put_torch, finish_torch, free_torch};
