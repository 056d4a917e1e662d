/* The table of all formats of weights. */
#include <string.h>

#include "base/mem.h"
#include "exchange/weights_impl.h"

/* ---- is it a file of this format? By the first n bytes, 16 at most ---- */

static bool is_hdf5(const uint8_t *head, size_t n, uint64_t size)
{
    (void)size;
    return n >= 8 && !memcmp(head, "\x89HDF\r\n\x1a\n", 8);
}

static bool is_zip(const uint8_t *head, size_t n, uint64_t size)
{
    (void)size;
    return n >= 4 && !memcmp(head, "PK\3\4", 4);
}

/* A pickle of PyTorch's magic number, from protocol 4 on in a frame (0x95 and its length). */
static bool is_torch_legacy(const uint8_t *head, size_t n, uint64_t size)
{
    static const uint8_t magic[] = {0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8};
    (void)size;
    const size_t at = n >= 3 && head[2] == 0x95 ? 11 : 2;
    return n >= at + sizeof magic && head[0] == 0x80 && !memcmp(head + at, magic, sizeof magic);
}

static bool is_safetensors(const uint8_t *head, size_t n, uint64_t size)
{
    return n >= 9 && head[8] == '{' && mabn_le64(head) <= size - 8;
}

/* With a protocol number (2 to 5), or protocol 0 or 1: a mark, an empty dict or a global. */
static bool is_pickle(const uint8_t *head, size_t n, uint64_t size)
{
    (void)size;
    return n >= 2 && (head[0] == 0x80 ? head[1] <= 5 : strchr("(}c", head[0]) && head[0]);
}

/* Field 1 of a ModelProto, ir_version. */
static bool is_onnx(const uint8_t *head, size_t n, uint64_t size)
{
    (void)size;
    return n >= 2 && head[0] == 0x08 && head[1] <= 20;
}

/* ---- the table ---- */

/* Formats are probed in this order, because PyTorch's legacy stream is a pickle too, and the length
 * at the beginning of a safetensors file may look like the beginning of a pickle. */
static const struct format {
    enum mabn_weights_format format;
    const char *name;
    const char *endings[3]; /* endings of its files' names, the usual one first */
    bool (*probe)(const uint8_t *head, size_t n, uint64_t size);
    mabn_status (*open)(struct mabn_weights *w);
    const struct mabn_weights_sink *sink; /* NULL: it is not written */
} formats[] = {
    {MABN_WEIGHTS_HDF5,
     "HDF5 checkpoint",
     {".h5", ".hdf5"},
     is_hdf5,
     mabn_weights_open_hdf5,
     &mabn_hdf5_sink},
    {MABN_WEIGHTS_TORCH, "PyTorch zip", {".pth", ".pt"}, is_zip, mabn_torch_open, &mabn_torch_sink},
    {MABN_WEIGHTS_TORCH_LEGACY,
     "PyTorch legacy stream",
     {0},
     is_torch_legacy,
     mabn_torch_legacy_open,
     NULL},
    {MABN_WEIGHTS_SAFETENSORS,
     "safetensors",
     {".safetensors"},
     is_safetensors,
     mabn_safetensors_open,
     &mabn_safetensors_sink},
    {MABN_WEIGHTS_PICKLE,
     "numpy pickle",
     {".pkl"},
     is_pickle,
     mabn_numpy_pickle_open,
     &mabn_pickle_sink},
    {MABN_WEIGHTS_ONNX, "ONNX", {".onnx"}, is_onnx, mabn_onnx_open, &mabn_onnx_sink},
};
enum { FORMATS = sizeof formats / sizeof *formats };

static const struct format *row_of(enum mabn_weights_format format)
{
    for (int i = 0; i < FORMATS; i++)
        if (formats[i].format == format) return &formats[i];
    MABN_BUG("weights of format %d", (int)format);
}

const char *mabn_weights_format_name(enum mabn_weights_format format)
{
    return row_of(format)->name;
}

bool mabn_weights_format_by_ending(enum mabn_weights_format *format, const char *path)
{
    const size_t n = strlen(path);
    for (int i = 0; i < FORMATS; i++)
        for (const char *const *ending = formats[i].endings; *ending; ending++) {
            const size_t k = strlen(*ending);
            if (n <= k || strcmp(path + n - k, *ending)) continue;
            *format = formats[i].format;
            return true;
        }
    return false;
}

/* ---- reading ---- */

static mabn_status unknown_format(const char *name)
{
    struct mabn_str known;
    mabn_str_init(&known);
    for (int i = 0; i < FORMATS; i++)
        mabn_str_printf(&known, "%s%s", i ? ", " : "", formats[i].name);
    const mabn_status status =
        mabn_fail(MABN_ERR_FORMAT, "'%s' is not in a known format (%s)", name, known.text);
    mabn_str_release(&known);
    return status;
}

static mabn_status open_format(struct mabn_weights *w)
{
    uint8_t head[32] = {0};
    const size_t n = w->source.size < sizeof head ? (size_t)w->source.size : sizeof head;
    MABN_TRY(mabn_source_read(&w->source, 0, head, n));
    MABN_TRY(mabn_weights_check_foreign(&w->source));
    for (int i = 0; i < FORMATS; i++)
        if (formats[i].probe(head, n, w->source.size)) {
            w->format = formats[i].format;
            return formats[i].open(w);
        }
    return unknown_format(w->source.name);
}

/* Takes over the source, also when it fails. */
static mabn_status open_source(struct mabn_weights **out, const struct mabn_source *source)
{
    struct mabn_weights *w = mabn_weights_new(source);
    mabn_status status = open_format(w);
    if (!status) status = mabn_weights_settle(w);
    if (!status) status = mabn_weights_part_average(w);
    if (status)
        mabn_weights_free(w);
    else
        *out = w;
    return status;
}

mabn_status mabn_weights_open(struct mabn_weights **out, const char *path)
{
    struct mabn_source source;
    *out = NULL;
    MABN_TRY(mabn_source_open(&source, path));
    return open_source(out, &source);
}

mabn_status mabn_weights_open_memory(struct mabn_weights **out, const void *bytes, size_t size,
                                     const char *name)
{
    struct mabn_source source;
    *out = NULL;
    mabn_source_init_memory(&source, bytes, size, name);
    return open_source(out, &source);
}

/* ---- writing ---- */

mabn_status mabn_weights_create(struct mabn_weights_writer **out, const char *path,
                                enum mabn_weights_format format, bool force)
{
    const struct format *row = row_of(format);
    *out = NULL;
    if (!row->sink)
        return mabn_fail(MABN_ERR_UNSUPPORTED, "'%s': %s is read but not written", path, row->name);
    *out = mabn_weights_writer_new(row->sink, path, force);
    return MABN_OK;
}
