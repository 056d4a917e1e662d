/* Writing a pickle of numpy arrays, as detectron2's model zoo has them:
 *     {"model": {name: array, …}, "__author__": "mabn", note: text, …}
 * Protocol 4 without frames, so that every array's bytes have a place that is known beforehand and
 * are written there, in any order. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "exchange/pickle_ops.h"
#include "exchange/weights_impl.h"

struct sink {
    uint64_t *offsets; /* (count) of the arrays' bytes */
};

/* ---- one array ---- */

static const char *numpy_type(enum mabn_dtype dtype)
{
    static const char *const names[] = {
        [MABN_DTYPE_F32] = "f4", [MABN_DTYPE_F64] = "f8", [MABN_DTYPE_F16] = "f2",
        [MABN_DTYPE_I8] = "i1",  [MABN_DTYPE_U8] = "u1",  [MABN_DTYPE_I16] = "i2",
        [MABN_DTYPE_I32] = "i4", [MABN_DTYPE_I64] = "i8", [MABN_DTYPE_BOOL] = "b1",
    };
    return (size_t)dtype < sizeof names / sizeof *names ? names[dtype] : NULL;
}

/* dtype(name, False, True), then its state (3, order, None, None, None, -1, -1, 0) */
static void put_dtype(struct mabn_str *p, enum mabn_dtype dtype)
{
    mabn_pickle_put_global(p, "numpy", "dtype");
    mabn_str_add_char(p, '(');
    mabn_pickle_put_text(p, numpy_type(dtype));
    mabn_pickle_op(p, 0x89);
    mabn_pickle_op(p, 0x88);
    mabn_str_add(p, "tR(");
    mabn_pickle_put_int(p, 3);
    mabn_pickle_put_text(p, mabn_dtype_size(dtype) > 1 ? "<" : "|");
    mabn_str_add(p, "NNN");
    mabn_pickle_put_int(p, -1);
    mabn_pickle_put_int(p, -1);
    mabn_pickle_put_int(p, 0);
    mabn_str_add(p, "tb");
}

/* _reconstruct(ndarray, (0,), b"b"), and its state (1, shape, dtype, False, bytes) up to them. */
static void put_array_head(struct mabn_str *p, const struct mabn_weight *t)
{
    mabn_pickle_put_global(p, "numpy.core.multiarray", "_reconstruct");
    mabn_str_add_char(p, '(');
    mabn_pickle_put_global(p, "numpy", "ndarray");
    mabn_str_add_char(p, '(');
    mabn_pickle_put_int(p, 0);
    mabn_str_add_bytes(p, "tC\001btR(", 7);
    mabn_pickle_put_int(p, 1);
    mabn_str_add_char(p, '(');
    for (int i = 0; i < t->shape.rank; i++)
        mabn_pickle_put_int(p, t->shape.dim[i]);
    mabn_str_add_char(p, 't');
    put_dtype(p, t->dtype);
    mabn_pickle_op(p, 0x89);
    mabn_pickle_op(p, 0x8e); /* BINBYTES8 */
    mabn_pickle_put_le(p, t->bytes, 8);
}

/* ---- the file ---- */

struct position {
    struct mabn_weights_writer *writer;
    uint64_t at;
};

static mabn_status write_text(struct position *p, struct mabn_str *text)
{
    const mabn_status status =
        mabn_pwrite_all(p->writer->out.fd, text->text, text->length, p->at, p->writer->path);
    p->at += text->length;
    mabn_str_clear(text);
    return status;
}

/* A note stands beside "model" and "__author__". One of their names would replace them, since the last
 * of two equal keys counts, and gets "note_" before it. */
static void put_note(struct mabn_str *text, const struct mabn_weights_note *note)
{
    const bool taken = !strcmp(note->key, "model") || !strcmp(note->key, "__author__");
    char *key = mabn_xasprintf("%s%s", taken ? "note_" : "", note->key);
    mabn_pickle_put_text(text, key);
    mabn_pickle_put_text(text, note->value);
    free(key);
}

static mabn_status write_frame(struct mabn_weights_writer *writer, struct sink *s,
                               struct mabn_str *text)
{
    struct position p = {.writer = writer};
    mabn_pickle_op(text, 0x80);
    mabn_pickle_op(text, 4);
    mabn_str_add(text, "}(");
    mabn_pickle_put_text(text, "model");
    mabn_str_add(text, "}(");
    for (size_t i = 0; i < writer->count; i++) {
        const struct mabn_weight *t = &writer->items[i];
        mabn_pickle_put_text(text, t->name);
        put_array_head(text, t);
        MABN_TRY(write_text(&p, text));
        s->offsets[i] = p.at;
        p.at += t->bytes;
        mabn_str_add(text, "tb");
    }
    mabn_str_add_char(text, 'u');
    mabn_pickle_put_text(text, "__author__");
    mabn_pickle_put_text(text, "mabn");
    for (size_t i = 0; i < writer->notes.count; i++)
        put_note(text, &writer->notes.items[i]);
    mabn_str_add(text, "u.");
    return write_text(&p, text);
}

static mabn_status begin_pickle(struct mabn_weights_writer *writer)
{
    struct sink *s = mabn_xcalloc(1, sizeof *s);
    struct mabn_str text;
    writer->backend = s;
    s->offsets = mabn_xcalloc(writer->count + 1, sizeof *s->offsets);
    for (size_t i = 0; i < writer->count; i++) {
        const struct mabn_weight *t = &writer->items[i];
        if (t->part != MABN_WEIGHT_MODEL)
            return mabn_fail(MABN_ERR_UNSUPPORTED,
                             "a pickle of arrays has no place for an optimizer's state ('%s')",
                             t->name);
        if (!numpy_type(t->dtype))
            return mabn_fail(MABN_ERR_UNSUPPORTED, "numpy has no type for '%s', which is %s",
                             t->name, mabn_dtype_name(t->dtype));
    }
    MABN_TRY(mabn_outfile_open(&writer->out, writer->path, writer->force));
    mabn_str_init(&text);
    const mabn_status status = write_frame(writer, s, &text);
    mabn_str_release(&text);
    return status;
}

static mabn_status put_pickle(struct mabn_weights_writer *writer, size_t index, const void *data)
{
    const struct sink *s = writer->backend;
    return mabn_pwrite_all(writer->out.fd, data, writer->items[index].bytes, s->offsets[index],
                           writer->path);
}

static mabn_status finish_pickle(struct mabn_weights_writer *writer)
{
    (void)writer;
    return MABN_OK;
}

static void free_pickle(void *backend)
{
    struct sink *s = backend;
    if (!s) return;
    free(s->offsets);
    free(s);
}

const struct mabn_weights_sink mabn_pickle_sink = {begin_pickle, put_pickle, finish_pickle,
                                                   free_pickle};
