/* The description of a model: defaults, norms by part, JSON. */
#include "model/model.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "model/fields.h"
#include "model/resnet_shapes.h"

/* Bit p stands for part p. */
static const struct mabn_word parts[] = {{(1 << MABN_MODEL_PARTS) - 1, "body"},
                                         {1 << MABN_PART_STEM, "stem"},
                                         {1 << MABN_PART_LAYER1, "layer1"},
                                         {1 << MABN_PART_LAYER2, "layer2"},
                                         {1 << MABN_PART_LAYER3, "layer3"},
                                         {1 << MABN_PART_LAYER4, "layer4"},
                                         {0, NULL}};
const struct mabn_word mabn_model_stems[] = {
    {MABN_STEM_LARGE, "large"}, {MABN_STEM_SMALL, "small"}, {0, NULL}};
const struct mabn_word mabn_model_centralizing[] = {{MABN_CENTRALIZE_AUTO, "auto"},
                                                    {MABN_CENTRALIZE_ON, "on"},
                                                    {MABN_CENTRALIZE_OFF, "off"},
                                                    {0, NULL}};

mabn_status mabn_model_init(struct mabn_model *model, const char *arch)
{
    const struct mabn_resnet_shape *shape = mabn_resnet_find(arch);
    if (!shape) {
        struct mabn_str list;
        mabn_str_init(&list);
        for (const char *const *a = mabn_resnet_archs(); *a; a++)
            mabn_str_printf(&list, "%s%s", list.length ? ", " : "", *a);
        mabn_status status = mabn_word_unknown("architecture", arch, list.text);
        mabn_str_release(&list);
        return status;
    }
    *model = (struct mabn_model){.classes = shape->cifar ? 10 : 1000,
                                 .channels = 3,
                                 .height = shape->cifar ? 32 : 224,
                                 .width = shape->cifar ? 32 : 224,
                                 .base_width = shape->cifar ? 16 : 64,
                                 .expansion = 4,
                                 .stem = shape->cifar ? MABN_STEM_SMALL : MABN_STEM_LARGE};
    memcpy(model->arch, shape->arch, strlen(shape->arch) + 1);
    for (int p = 0; p < MABN_MODEL_PARTS; p++)
        mabn_norm_options_init(&model->norm[p], MABN_NORM_BN);
    return MABN_OK;
}

/* ---- norms by part ---- */

static mabn_status set_part(struct mabn_model *model, const struct mabn_norm_options *before,
                            const char *part, const char *kind_name)
{
    enum mabn_norm_kind kind;
    int chosen;
    MABN_TRY(mabn_norm_kind_parse(&kind, kind_name));
    MABN_TRY(mabn_word_parse(&chosen, parts, "part", part));
    for (int p = 0; p < MABN_MODEL_PARTS; p++)
        if (chosen >> p & 1) mabn_norm_options_choose(&model->norm[p], &before[p], kind);
    return MABN_OK;
}

mabn_status mabn_model_set_norm(struct mabn_model *model, const char *spec)
{
    struct mabn_norm_options before[MABN_MODEL_PARTS];
    char *copy = mabn_xstrdup(spec), *rest = copy, *item;
    mabn_status status = MABN_OK;
    memcpy(before, model->norm, sizeof before);
    while (!status && (item = strsep(&rest, ","))) {
        char *equals = strchr(item, '=');
        if (equals) *equals = 0;
        status = set_part(model, before, equals ? item : "body", equals ? equals + 1 : item);
    }
    free(copy);
    return status;
}

void mabn_model_norm_text(const struct mabn_model *model, struct mabn_str *text)
{
    bool same = true;
    for (int p = 1; p < MABN_MODEL_PARTS; p++)
        same = same && model->norm[p].kind == model->norm[0].kind;
    if (same) {
        mabn_str_add(text, mabn_norm_kind_name(model->norm[0].kind));
        return;
    }
    for (int p = 0; p < MABN_MODEL_PARTS; p++)
        mabn_str_printf(text, "%s%s=%s", p ? "," : "", mabn_word_name(parts, 1 << p),
                        mabn_norm_kind_name(model->norm[p].kind));
}

bool mabn_model_centralizes(const struct mabn_model *model, enum mabn_model_part part)
{
    if (model->centralize != MABN_CENTRALIZE_AUTO) return model->centralize == MABN_CENTRALIZE_ON;
    return model->norm[part].kind == MABN_NORM_MABN;
}

/* ---- class names ---- */

struct kept {
    struct kept *next;
    size_t length;
    char text[];
};

/* A kept copy of the text: an existing one with the same bytes, or a new one. */
static const char *keep_text(const char *text, size_t length)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static struct kept *all;
    pthread_mutex_lock(&lock);
    struct kept *k = all;
    while (k && (k->length != length || memcmp(k->text, text, length)))
        k = k->next;
    if (!k) {
        k = mabn_xmalloc(sizeof *k + length + 1);
        k->next = all;
        k->length = length;
        memcpy(k->text, text, length);
        all = k;
    }
    pthread_mutex_unlock(&lock);
    return k->text;
}

void mabn_model_set_class_names(struct mabn_model *model, const char *const *names)
{
    struct mabn_str text;
    model->class_names = NULL;
    if (!names || model->classes < 1) return;
    mabn_str_init(&text);
    for (int c = 0; c < model->classes; c++)
        mabn_str_add_bytes(&text, names[c], strlen(names[c]) + 1);
    model->class_names = keep_text(text.text, text.length);
    mabn_str_release(&text);
}

const char *mabn_model_class_name(const struct mabn_model *model, int class_index)
{
    const char *name = model->class_names;
    if (!name || class_index < 0 || class_index >= model->classes) return NULL;
    while (class_index-- > 0)
        name += strlen(name) + 1;
    return name;
}

int mabn_model_other_class(const struct mabn_model *a, const struct mabn_model *b)
{
    const char *x = a->class_names, *y = b->class_names;
    if (!x || !y || x == y) return -1;
    for (int c = 0; c < a->classes && c < b->classes; c++) {
        if (!mabn_same_in_json(x, y)) return c;
        x += strlen(x) + 1;
        y += strlen(y) + 1;
    }
    return -1;
}

/* ---- JSON ---- */

#define MODEL_FIELD(type, name)                                        \
    {                                                                  \
#name, MABN_FIELD_##type, offsetof(struct mabn_model, name), 0 \
    }
static const struct mabn_field model_fields[] = {
    MODEL_FIELD(INT, classes), MODEL_FIELD(INT, channels),   MODEL_FIELD(INT, height),
    MODEL_FIELD(INT, width),   MODEL_FIELD(INT, base_width), MODEL_FIELD(BOOL, stride_in_1x1),
};

static void write_class_names(struct mabn_json_writer *w, const struct mabn_model *model)
{
    const char *name = model->class_names;
    if (!name) return;
    mabn_json_put_array(w, "class_names");
    for (int c = 0; c < model->classes; c++, name += strlen(name) + 1)
        mabn_json_put_string(w, NULL, name);
    mabn_json_put_end(w);
}

/* Append the names one after the other; returns their number. */
static int read_class_names(struct mabn_json *j, struct mabn_str *names)
{
    struct mabn_json_text text;
    int count = 0;
    mabn_json_begin_array(j);
    while (mabn_json_next_item(j)) {
        if (mabn_json_read_string(j, &text)) break;
        mabn_str_add_bytes(names, text.bytes, strnlen(text.bytes, text.length));
        mabn_str_add_bytes(names, "", 1);
        count++;
    }
    return count;
}

void mabn_model_to_json(const struct mabn_model *model, struct mabn_str *json)
{
    struct mabn_json_writer w;
    mabn_json_writer_init(&w, json);
    mabn_json_put_object(&w, NULL);
    mabn_json_put_string(&w, "arch", model->arch);
    mabn_fields_write(&w, model, model_fields, MABN_FIELDS(model_fields));
    mabn_json_put_string(&w, "stem", mabn_word_name(mabn_model_stems, model->stem));
    mabn_json_put_string(&w, "centralize",
                         mabn_word_name(mabn_model_centralizing, model->centralize));
    mabn_json_put_object(&w, "norm");
    for (int p = 0; p < MABN_MODEL_PARTS; p++)
        mabn_fields_write_norm(&w, mabn_word_name(parts, 1 << p), &model->norm[p]);
    mabn_json_put_end(&w);
    write_class_names(&w, model);
    mabn_json_put_end(&w);
}

static void read_norms(struct mabn_json *j, struct mabn_model *model)
{
    struct mabn_json_text key;
    mabn_json_begin_object(j);
    while (mabn_json_next_key(j, &key)) {
        int part = 0;
        while (part < MABN_MODEL_PARTS && !mabn_json_is(key, mabn_word_name(parts, 1 << part)))
            part++;
        if (part < MABN_MODEL_PARTS)
            mabn_fields_read_norm(j, &model->norm[part]);
        else
            mabn_json_skip(j);
    }
}

/* The architecture determines all other defaults, so it is read first. */
static mabn_status read_arch(struct mabn_model *model, const char *json)
{
    struct mabn_json *j = mabn_json_new_bytes(json, strlen(json), "model description");
    struct mabn_json_text key;
    char *arch = NULL;
    mabn_json_begin_object(j);
    while (mabn_json_next_key(j, &key)) {
        if (mabn_json_is(key, "arch") && !arch)
            mabn_json_read_strdup(j, &arch);
        else
            mabn_json_skip(j);
    }
    mabn_status status = mabn_json_end(j);
    mabn_json_free(j);
    if (!status)
        status = arch ? mabn_model_init(model, arch)
                      : mabn_fail(MABN_ERR_FORMAT, "the model description names no architecture");
    free(arch);
    return status;
}

mabn_status mabn_model_from_json(struct mabn_model *model, const char *json)
{
    MABN_TRY(read_arch(model, json));
    struct mabn_json *j = mabn_json_new_bytes(json, strlen(json), "model description");
    struct mabn_json_text key;
    struct mabn_str names;
    int count = -1, stem = model->stem, centralize = model->centralize;
    mabn_str_init(&names);
    mabn_json_begin_object(j);
    while (mabn_json_next_key(j, &key)) {
        if (mabn_json_is(key, "class_names") && count < 0)
            count = read_class_names(j, &names);
        else if (mabn_json_is(key, "stem"))
            mabn_json_read_word(j, &stem, mabn_model_stems, "stem");
        else if (mabn_json_is(key, "centralize"))
            mabn_json_read_word(j, &centralize, mabn_model_centralizing, "centralization");
        else if (mabn_json_is(key, "norm"))
            read_norms(j, model);
        else if (!mabn_fields_read(j, key, model, model_fields, MABN_FIELDS(model_fields)))
            mabn_json_skip(j);
    }
    mabn_status status = mabn_json_end(j);
    mabn_json_free(j);
    model->stem = (enum mabn_model_stem)stem;
    model->centralize = (enum mabn_model_centralize)centralize;
    if (!status && count >= 0 && count != model->classes)
        status = mabn_fail(MABN_ERR_FORMAT, "the model description names %d classes of %d", count,
                           model->classes);
    if (!status && count >= 0) model->class_names = keep_text(names.text, names.length);
    mabn_str_release(&names);
    return status;
}
