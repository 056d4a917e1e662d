#include "exchange/info.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/mem.h"
#include "store/checkpoint.h"
#include "store/dataset.h"
#include "exchange/weights.h"

/* ---- lines for people ---- */

/* Text from a file, safe for a terminal: control characters become '?'. */
static void add_clean(struct mabn_str *out, const char *text)
{
    for (; *text; text++)
        mabn_str_add_char(out, (unsigned char)*text < 32 || *text == 127 ? '?' : *text);
}

/* "  name        value" */
static void line(struct mabn_str *out, const char *name, const char *format, ...) MABN_PRINTF(3, 4);
static void line(struct mabn_str *out, const char *name, const char *format, ...)
{
    char value[512], padded[512];
    va_list args;
    va_start(args, format);
    vsnprintf(value, sizeof value, format, args);
    va_end(args);
    snprintf(padded, sizeof padded, "  %-12s  ", name);
    add_clean(out, padded);
    add_clean(out, value);
    mabn_str_add_char(out, '\n');
}

static void title(struct mabn_str *out, const char *path, const char *what, uint64_t bytes)
{
    mabn_str_printf(out, "%s: %s, %.1f MB\n", path, what, (double)bytes / 1e6);
}

/* "(64,3,7,7)", as Python prints it. */
static void add_dims(struct mabn_str *out, int rank, const uint64_t *dims)
{
    mabn_str_add_char(out, '(');
    for (int i = 0; i < rank; i++)
        mabn_str_printf(out, i ? ",%llu" : "%llu", (unsigned long long)dims[i]);
    mabn_str_add_char(out, ')');
}

static void list_items(struct mabn_str *out, const struct mabn_h5_file *f)
{
    for (int i = 0; i < mabn_h5_item_count(f); i++) {
        const struct mabn_h5_item *item = mabn_h5_item_at(f, i);
        mabn_str_printf(out, "  %-8s  ", mabn_h5_type_name(item->type));
        size_t start = out->length;
        add_dims(out, item->rank, item->dims);
        mabn_str_printf(out, "%*s  %s\n",
                        (int)(out->length - start < 20 ? 20 - (out->length - start) : 0), "",
                        item->name);
    }
}

/* ---- JSON ---- */

static void key(struct mabn_str *out, const char *name)
{
    if (out->text[out->length - 1] != '{') mabn_str_add(out, ", ");
    mabn_str_add_json(out, name);
    mabn_str_add(out, ": ");
}

static void key_text(struct mabn_str *out, const char *name, const char *value)
{
    key(out, name);
    mabn_str_add_json(out, value);
}

static void key_number(struct mabn_str *out, const char *name, uint64_t value)
{
    key(out, name);
    mabn_str_printf(out, "%llu", (unsigned long long)value);
}

static void json_dims(struct mabn_str *out, int rank, const uint64_t *dims)
{
    key(out, "shape");
    mabn_str_add_char(out, '[');
    for (int i = 0; i < rank; i++)
        mabn_str_printf(out, i ? ", %llu" : "%llu", (unsigned long long)dims[i]);
    mabn_str_add_char(out, ']');
}

static void json_attributes(struct mabn_str *out, const struct mabn_h5_file *f)
{
    key(out, "attributes");
    mabn_str_add_char(out, '{');
    for (int i = 0; i < mabn_h5_attribute_count(f); i++) {
        const char *name = mabn_h5_attribute_name(f, i), *text;
        int64_t integer;
        double real;
        key(out, name);
        if (!mabn_h5_get_string(f, name, &text))
            mabn_str_add_json(out, text);
        else if (!mabn_h5_get_int64(f, name, &integer))
            mabn_str_printf(out, "%lld", (long long)integer);
        else if (!mabn_h5_get_double(f, name, &real))
            mabn_str_add_double(out, real);
    }
    mabn_error_clear();
    mabn_str_add_char(out, '}');
}

static void json_items(struct mabn_str *out, const struct mabn_h5_file *f)
{
    key(out, "arrays");
    mabn_str_add_char(out, '[');
    for (int i = 0; i < mabn_h5_item_count(f); i++) {
        const struct mabn_h5_item *item = mabn_h5_item_at(f, i);
        mabn_str_add(out, i ? ", {" : "{");
        key_text(out, "name", item->name);
        key_text(out, "type", mabn_h5_type_name(item->type));
        json_dims(out, item->rank, item->dims);
        key_number(out, "offset", item->offset);
        key_number(out, "bytes", item->bytes);
        mabn_str_add_char(out, '}');
    }
    mabn_str_add_char(out, ']');
}

static void json_start(struct mabn_str *out, const char *path, const char *format, uint64_t bytes)
{
    mabn_str_add_char(out, '{');
    key_text(out, "file", path);
    key_text(out, "format", format);
    key_number(out, "bytes", bytes);
}

static void json_end(struct mabn_str *out, bool verified)
{
    if (verified) {
        key(out, "verified");
        mabn_str_add(out, "true");
    }
    mabn_str_add(out, "}\n");
}

/* ---- datasets ---- */

struct image_facts {
    int64_t by_format[3]; /* enum mabn_dataset_format */
    int height_low, height_high, width_low, width_high;
    uint64_t bytes;
    int64_t *by_class; /* (classes), NULL without labels */
};

static mabn_status gather(struct image_facts *facts, const struct mabn_dataset *ds)
{
    int64_t n = mabn_dataset_count(ds);
    const struct mabn_h5_item *bytes;
    *facts = (struct image_facts){.height_low = INT32_MAX, .width_low = INT32_MAX};
    MABN_TRY(mabn_h5_need(mabn_dataset_file(ds), "/images/bytes", MABN_H5_U8, 1, &bytes));
    facts->bytes = bytes->bytes;
    if (mabn_dataset_has_labels(ds)) {
        void *counts;
        MABN_TRY(mabn_alloc_zero(&counts, (size_t)mabn_dataset_classes(ds) * sizeof(int64_t)));
        facts->by_class = (int64_t *)counts;
    }
    for (int64_t i = 0; i < n; i++) {
        int h = mabn_dataset_image_height(ds, i), w = mabn_dataset_image_width(ds, i);
        facts->by_format[mabn_dataset_image_format(ds, i)]++;
        if (h < facts->height_low) facts->height_low = h;
        if (h > facts->height_high) facts->height_high = h;
        if (w < facts->width_low) facts->width_low = w;
        if (w > facts->width_high) facts->width_high = w;
        if (facts->by_class) facts->by_class[mabn_dataset_label(ds, i)]++;
    }
    return MABN_OK;
}

static void range(char text[48], int low, int high)
{
    if (low == high)
        snprintf(text, 48, "%d", low);
    else
        snprintf(text, 48, "%d to %d", low, high);
}

static void class_range(const struct image_facts *facts, int classes, int64_t *low, int64_t *high)
{
    *low = INT64_MAX;
    *high = 0;
    for (int k = 0; k < classes; k++) {
        if (facts->by_class[k] < *low) *low = facts->by_class[k];
        if (facts->by_class[k] > *high) *high = facts->by_class[k];
    }
}

static void tell_classes(struct mabn_str *out, const struct mabn_dataset *ds,
                         const struct image_facts *facts)
{
    int classes = mabn_dataset_classes(ds);
    int64_t low, high;
    char each[64] = "";
    if (facts->by_class) {
        class_range(facts, classes, &low, &high);
        snprintf(each, sizeof each,
                 low == high ? ", %lld images each" : ", %lld to %lld images each", (long long)low,
                 (long long)high);
    }
    line(out, "classes", "%d%s", classes, each);
    if (!mabn_dataset_class_name(ds, 0)) return;
    mabn_str_printf(out, "  %-12s  ", "");
    for (int k = 0; k < classes && k < 5; k++) {
        mabn_str_add(out, k ? ", " : "");
        add_clean(out, mabn_dataset_class_name(ds, k));
    }
    mabn_str_add(out, classes > 5 ? ", …\n" : "\n");
}

static void tell_text(struct mabn_str *out, const char *name, const char *text)
{
    mabn_str_add(out, "  ");
    add_clean(out, name);
    mabn_str_printf(out, "%*s  ", (int)(strlen(name) < 12 ? 12 - strlen(name) : 0), "");
    add_clean(out, text);
    mabn_str_add_char(out, '\n');
}

static void tell_attribute(struct mabn_str *out, const struct mabn_h5_file *f, const char *name)
{
    const char *text;
    if (!mabn_h5_get_string(f, name, &text) && *text) tell_text(out, name, text);
    mabn_error_clear();
}

static void tell_dataset(struct mabn_str *out, const struct mabn_dataset *ds,
                         const struct image_facts *facts)
{
    const struct mabn_h5_file *f = mabn_dataset_file(ds);
    int64_t n = mabn_dataset_count(ds);
    char height[48], width[48];
    title(out, mabn_dataset_path(ds), "dataset", mabn_h5_file_size(f));
    line(out, "kind", "%s", mabn_dataset_kind(ds));
    if (mabn_dataset_is_raw(ds))
        line(out, "images", "%lld raw, %d channel%s", (long long)n,
             mabn_dataset_image_channels(ds, 0),
             mabn_dataset_image_channels(ds, 0) == 1 ? "" : "s");
    else
        line(out, "images", "%lld: %lld JPEG, %lld PNG; %.0f bytes each", (long long)n,
             (long long)facts->by_format[MABN_DATASET_JPEG],
             (long long)facts->by_format[MABN_DATASET_PNG], (double)facts->bytes / (double)n);
    range(height, facts->height_low, facts->height_high);
    range(width, facts->width_low, facts->width_high);
    line(out, "pixels", "height %s, width %s", height, width);
    if (mabn_dataset_classes(ds)) tell_classes(out, ds, facts);
    tell_attribute(out, f, "command");
    tell_attribute(out, f, "tool");
    if (mabn_h5_foreign(f)) line(out, "checksums", "none: written or changed by another program");
}

static void json_dataset(struct mabn_str *out, const struct mabn_dataset *ds,
                         const struct image_facts *facts)
{
    const struct mabn_h5_file *f = mabn_dataset_file(ds);
    json_start(out, mabn_dataset_path(ds), "mabn-dataset", mabn_h5_file_size(f));
    json_attributes(out, f);
    key_number(out, "images", (uint64_t)mabn_dataset_count(ds));
    key_number(out, "jpeg", (uint64_t)facts->by_format[MABN_DATASET_JPEG]);
    key_number(out, "png", (uint64_t)facts->by_format[MABN_DATASET_PNG]);
    key_number(out, "min_height", (uint64_t)facts->height_low);
    key_number(out, "max_height", (uint64_t)facts->height_high);
    key_number(out, "min_width", (uint64_t)facts->width_low);
    key_number(out, "max_width", (uint64_t)facts->width_high);
    if (facts->by_class) {
        key(out, "images_per_class");
        for (int k = 0; k < mabn_dataset_classes(ds); k++)
            mabn_str_printf(out, "%s%lld", k ? ", " : "[", (long long)facts->by_class[k]);
        mabn_str_add_char(out, ']');
    }
    json_items(out, f);
}

static mabn_status describe_dataset(struct mabn_str *out, const char *path,
                                    const struct mabn_info_options *o)
{
    struct mabn_dataset *ds;
    struct image_facts facts = {0};
    MABN_TRY(mabn_dataset_open(&ds, path));
    mabn_status status = gather(&facts, ds);
    if (!status && o->verify) status = mabn_dataset_verify(ds, o->threads);
    if (!status && o->json) {
        json_dataset(out, ds, &facts);
        json_end(out, o->verify);
    } else if (!status) {
        tell_dataset(out, ds, &facts);
        if (o->verify)
            line(out, "checked", "all %lld images and %d arrays are whole",
                 (long long)mabn_dataset_count(ds), mabn_h5_item_count(mabn_dataset_file(ds)));
        if (o->list) list_items(out, mabn_dataset_file(ds));
    }
    mabn_free(facts.by_class);
    mabn_dataset_free(ds);
    return status;
}

/* ---- checkpoints ---- */

static void tell_part(struct mabn_str *out, const struct mabn_checkpoint *c, const char *name,
                      const char *prefix)
{
    uint64_t tensors = 0, elements = 0, bytes = 0;
    for (size_t i = 0; i < mabn_checkpoint_count(c); i++) {
        const struct mabn_checkpoint_tensor *t = mabn_checkpoint_at(c, i);
        if (strncmp(t->name, prefix, strlen(prefix))) continue;
        tensors++;
        elements += t->count;
        bytes += t->bytes;
    }
    if (tensors)
        line(out, name, "%llu tensor%s, %llu numbers, %.1f MB", (unsigned long long)tensors,
             tensors == 1 ? "" : "s", (unsigned long long)elements, (double)bytes / 1e6);
}

static void tell_checkpoint(struct mabn_str *out, const struct mabn_checkpoint *c)
{
    const struct mabn_h5_file *f = mabn_checkpoint_file(c);
    struct mabn_checkpoint_meta m;
    mabn_checkpoint_get_meta(c, &m);
    title(out, mabn_h5_path(f), "checkpoint", mabn_h5_file_size(f));
    tell_attribute(out, f, "architecture");
    if (*m.norm)
        line(out, "norm", "%s%s%s", m.norm,
             m.centralized ? ", weights are centralized when used" : "",
             m.folded ? ", folded into the convolutions" : "");
    line(out, "input", "%s, mean %g %g %g, std %g %g %g", m.bgr ? "BGR" : "RGB", m.mean[0],
         m.mean[1], m.mean[2], m.std[0], m.std[1], m.std[2]);
    line(out, "training", "step %lld, epoch %lld, seed %lld", (long long)m.step, (long long)m.epoch,
         (long long)m.seed);
    tell_part(out, c, "model", "model/");
    tell_part(out, c, "optimizer", "optimizer/");
    tell_part(out, c, "state", "state/");
    if (strcmp(m.config, "{}")) tell_attribute(out, f, "config");
    tell_attribute(out, f, "command");
    tell_attribute(out, f, "tool");
    if (mabn_h5_foreign(f)) line(out, "checksums", "none: written or changed by another program");
}

static mabn_status describe_checkpoint(struct mabn_str *out, const char *path,
                                       const struct mabn_info_options *o)
{
    struct mabn_checkpoint *c;
    MABN_TRY(mabn_checkpoint_open(&c, path));
    const struct mabn_h5_file *f = mabn_checkpoint_file(c);
    mabn_status status = o->verify ? mabn_checkpoint_verify(c, o->threads) : MABN_OK;
    if (!status && o->json) {
        json_start(out, path, "mabn-checkpoint", mabn_h5_file_size(f));
        json_attributes(out, f);
        json_items(out, f);
        json_end(out, o->verify);
    } else if (!status) {
        tell_checkpoint(out, c);
        if (o->verify)
            line(out, "checked", "all %d tensors are whole", (int)mabn_checkpoint_count(c));
        if (o->list) list_items(out, f);
    }
    mabn_checkpoint_free(c);
    return status;
}

/* ---- HDF5 of others ---- */

static void tell_hdf5(struct mabn_str *out, const struct mabn_h5_file *f)
{
    title(out, mabn_h5_path(f), "HDF5", mabn_h5_file_size(f));
    for (int i = 0; i < mabn_h5_attribute_count(f); i++) {
        const char *name = mabn_h5_attribute_name(f, i);
        int64_t integer;
        double real;
        if (!mabn_h5_get_int64(f, name, &integer))
            line(out, name, "%lld", (long long)integer);
        else if (!mabn_h5_get_double(f, name, &real))
            line(out, name, "%g", real);
        else
            tell_attribute(out, f, name);
    }
    mabn_error_clear();
    list_items(out, f);
}

static mabn_status describe_hdf5(struct mabn_str *out, const char *path,
                                 const struct mabn_info_options *o)
{
    struct mabn_h5_file *f;
    MABN_TRY(mabn_h5_open(&f, path));
    mabn_status status = o->verify ? mabn_h5_verify(f, o->threads) : MABN_OK;
    if (!status && o->json) {
        json_start(out, path, "HDF5", mabn_h5_file_size(f));
        json_attributes(out, f);
        json_items(out, f);
        json_end(out, o->verify);
    } else if (!status) {
        tell_hdf5(out, f);
    }
    mabn_h5_free(f);
    return status;
}

/* ---- weights of others ---- */

static const char *part_name(enum mabn_weight_part part)
{
    return part == MABN_WEIGHT_MODEL      ? "model"
           : part == MABN_WEIGHT_MOMENTUM ? "momentum"
                                          : "other";
}

static void tell_weights(struct mabn_str *out, const struct mabn_weights *w, uint64_t bytes,
                         bool list)
{
    char shape[160];
    const char *value;
    title(out, mabn_weights_path(w), mabn_weights_format_name(mabn_weights_format_of(w)), bytes);
    for (int part = MABN_WEIGHT_MODEL; part <= MABN_WEIGHT_OTHER; part++) {
        uint64_t tensors = 0, numbers = 0;
        for (size_t i = 0; i < mabn_weights_count(w); i++) {
            const struct mabn_weight *t = mabn_weights_at(w, i);
            if (t->part != (enum mabn_weight_part)part) continue;
            tensors++;
            numbers += t->count;
        }
        if (tensors)
            line(out, part_name((enum mabn_weight_part)part), "%llu tensor%s, %llu numbers",
                 (unsigned long long)tensors, tensors == 1 ? "" : "s", (unsigned long long)numbers);
    }
    for (size_t i = 0; i < mabn_weights_note_count(w); i++) {
        const char *name = mabn_weights_note_at(w, i, &value);
        tell_text(out, name, value);
    }
    for (size_t i = 0; list && i < mabn_weights_count(w); i++) {
        const struct mabn_weight *t = mabn_weights_at(w, i);
        mabn_str_printf(out, "  %-8s  %-20s  %s/%s\n", mabn_dtype_name(t->dtype),
                        mabn_shape_text(&t->shape, shape), part_name(t->part), t->name);
    }
}

static void json_weights(struct mabn_str *out, const struct mabn_weights *w, uint64_t bytes)
{
    uint64_t dims[MABN_MAX_RANK];
    const char *value;
    json_start(out, mabn_weights_path(w), mabn_weights_format_name(mabn_weights_format_of(w)),
               bytes);
    key(out, "attributes");
    mabn_str_add_char(out, '{');
    for (size_t i = 0; i < mabn_weights_note_count(w); i++) {
        const char *name = mabn_weights_note_at(w, i, &value);
        key_text(out, name, value);
    }
    mabn_str_add_char(out, '}');
    key(out, "arrays");
    mabn_str_add_char(out, '[');
    for (size_t i = 0; i < mabn_weights_count(w); i++) {
        const struct mabn_weight *t = mabn_weights_at(w, i);
        for (int d = 0; d < t->shape.rank; d++)
            dims[d] = (uint64_t)t->shape.dim[d];
        mabn_str_add(out, i ? ", {" : "{");
        key_text(out, "name", t->name);
        key_text(out, "part", part_name(t->part));
        key_text(out, "type", mabn_dtype_name(t->dtype));
        json_dims(out, t->shape.rank, dims);
        key_number(out, "bytes", t->bytes);
        mabn_str_add_char(out, '}');
    }
    mabn_str_add_char(out, ']');
}

static mabn_status describe_weights(struct mabn_str *out, const char *path,
                                    const struct mabn_info_options *o)
{
    struct mabn_weights *w;
    struct stat info;
    MABN_TRY(mabn_weights_open(&w, path));
    uint64_t bytes = stat(path, &info) ? 0 : (uint64_t)info.st_size;
    mabn_status status = MABN_OK;
    for (size_t i = 0; o->verify && !status && i < mabn_weights_count(w); i++) {
        void *data;
        status = mabn_alloc(&data, mabn_weights_at(w, i)->bytes);
        if (!status) status = mabn_weights_read(w, i, data);
        mabn_free(data);
    }
    if (!status && o->json) {
        json_weights(out, w, bytes);
        json_end(out, o->verify);
    } else if (!status) {
        tell_weights(out, w, bytes, o->list);
        if (o->verify) line(out, "checked", "all %zu tensors can be read", mabn_weights_count(w));
    }
    mabn_weights_free(w);
    return status;
}

/* ---- which is it ---- */

enum kind { WEIGHTS, HDF5, DATASET, CHECKPOINT };
static const struct {
    const char *format; /* attribute of an HDF5 file */
    mabn_status (*describe)(struct mabn_str *, const char *, const struct mabn_info_options *);
} kinds[] = {
    [WEIGHTS] = {"", describe_weights}, /* everything but HDF5 */
    [HDF5] = {"", describe_hdf5},
    [DATASET] = {"mabn-dataset", describe_dataset},
    [CHECKPOINT] = {"mabn-checkpoint", describe_checkpoint},
};

static mabn_status sniff(enum kind *kind, const char *path)
{
    struct mabn_input in;
    struct mabn_h5_file *f;
    const char *format;
    *kind = WEIGHTS;
    MABN_TRY(mabn_input_open(&in, path, 0));
    bool hdf5 = mabn_h5_probe(in.bytes, in.size);
    mabn_input_release(&in);
    if (!hdf5) return MABN_OK;
    *kind = HDF5;
    MABN_TRY(mabn_h5_open(&f, path));
    if (mabn_h5_get_string(f, "format", &format))
        mabn_error_clear();
    else
        for (int k = DATASET; k <= CHECKPOINT; k++)
            if (!strcmp(format, kinds[k].format)) *kind = (enum kind)k;
    mabn_h5_free(f);
    return MABN_OK;
}

mabn_status mabn_info_describe(struct mabn_str *out, const char *path,
                               const struct mabn_info_options *options)
{
    enum kind kind;
    MABN_TRY(sniff(&kind, path));
    return kinds[kind].describe(out, path, options);
}
