/* The description of a model: defaults, norms by part, JSON. */
#include "model/model.h"

#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "model/resnet.h"

static const char *const part_names[MABN_MODEL_PARTS] = {"stem", "layer1", "layer2", "layer3",
                                                         "layer4"};
static const char *const stem_names[] = {"large", "small"};
static const char *const centralize_names[] = {"auto", "on", "off"};

mabn_status mabn_model_init(struct mabn_model *model, const char *arch)
{
    const struct mabn_resnet_shape *shape = mabn_resnet_find(arch);
    if (!shape) {
        struct mabn_str list;
        mabn_str_init(&list);
        for (const char *const *a = mabn_model_archs(); *a; a++)
            mabn_str_printf(&list, " %s", *a);
        mabn_status status =
            mabn_fail(MABN_ERR_ARG, "there is no architecture '%s'; there are%s", arch, list.text);
        mabn_str_release(&list);
        return status;
    }
    *model = (struct mabn_model){.classes = shape->cifar ? 10 : 1000,
                                 .channels = 3,
                                 .height = shape->cifar ? 32 : 224,
                                 .width = shape->cifar ? 32 : 224,
                                 .base_width = shape->cifar ? 16 : 64,
                                 .stem = shape->cifar ? MABN_STEM_SMALL : MABN_STEM_LARGE};
    memcpy(model->arch, shape->arch, strlen(shape->arch) + 1);
    for (int p = 0; p < MABN_MODEL_PARTS; p++)
        mabn_norm_options_init(&model->norm[p], MABN_NORM_BN);
    return MABN_OK;
}

/* ---- norms by part ---- */

static mabn_status set_part(struct mabn_model *model, const char *part, const char *kind_name)
{
    enum mabn_norm_kind kind;
    bool all = !strcmp(part, "body"), found = all;
    MABN_TRY(mabn_norm_kind_parse(&kind, kind_name));
    for (int p = 0; p < MABN_MODEL_PARTS; p++)
        if (all || !strcmp(part, part_names[p])) {
            mabn_norm_options_init(&model->norm[p], kind);
            found = true;
        }
    if (!found)
        return mabn_fail(MABN_ERR_ARG,
                         "there is no part '%s'; there are body, stem, layer1 … layer4", part);
    return MABN_OK;
}

mabn_status mabn_model_set_norm(struct mabn_model *model, const char *spec)
{
    char *copy = mabn_xstrdup(spec), *rest = copy, *item;
    mabn_status status = MABN_OK;
    while (!status && (item = strsep(&rest, ","))) {
        char *equals = strchr(item, '=');
        if (equals) *equals = 0;
        status = set_part(model, equals ? item : "body", equals ? equals + 1 : item);
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
        mabn_str_printf(text, "%s%s=%s", p ? "," : "", part_names[p],
                        mabn_norm_kind_name(model->norm[p].kind));
}

bool mabn_model_centralizes(const struct mabn_model *model, enum mabn_model_part part)
{
    if (model->centralize != MABN_CENTRALIZE_AUTO) return model->centralize == MABN_CENTRALIZE_ON;
    return model->norm[part].kind == MABN_NORM_MABN;
}

/* ---- JSON ---- */

/* One table for both directions: what an options struct holds besides kind and window rule. */
struct field {
    const char *name;
    enum { FIELD_INT, FIELD_INT64, FIELD_DOUBLE, FIELD_BOOL } type;
    size_t offset;
};
#define NORM_FIELD(type, name)                                \
    {                                                         \
#name, type, offsetof(struct mabn_norm_options, name) \
    }
static const struct field norm_fields[] = {
    NORM_FIELD(FIELD_INT, norm_batch),   NORM_FIELD(FIELD_DOUBLE, eps),
    NORM_FIELD(FIELD_DOUBLE, momentum),  NORM_FIELD(FIELD_INT, groups),
    NORM_FIELD(FIELD_INT, window),       NORM_FIELD(FIELD_INT, warmup),
    NORM_FIELD(FIELD_INT, r_start),      NORM_FIELD(FIELD_DOUBLE, lambda),
    NORM_FIELD(FIELD_DOUBLE, r_max),     NORM_FIELD(FIELD_DOUBLE, d_max),
    NORM_FIELD(FIELD_INT64, ramp_start), NORM_FIELD(FIELD_INT64, r_ramp_end),
    NORM_FIELD(FIELD_INT64, d_ramp_end), NORM_FIELD(FIELD_BOOL, sync_reference),
};
#define MODEL_FIELD(type, name)                        \
    {                                                  \
#name, type, offsetof(struct mabn_model, name) \
    }
static const struct field model_fields[] = {
    MODEL_FIELD(FIELD_INT, classes),    MODEL_FIELD(FIELD_INT, channels),
    MODEL_FIELD(FIELD_INT, height),     MODEL_FIELD(FIELD_INT, width),
    MODEL_FIELD(FIELD_INT, base_width), MODEL_FIELD(FIELD_BOOL, stride_in_1x1),
};
#define COUNT(a) (sizeof(a) / sizeof *(a))

static void add_fields(struct mabn_str *json, const void *base, const struct field *fields,
                       size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const char *at = (const char *)base + fields[i].offset;
        mabn_str_printf(json, ",\"%s\":", fields[i].name);
        switch (fields[i].type) {
        case FIELD_INT:
            mabn_str_printf(json, "%d", *(const int *)at);
            break;
        case FIELD_INT64:
            mabn_str_printf(json, "%lld", (long long)*(const int64_t *)at);
            break;
        case FIELD_DOUBLE:
            mabn_str_add_double(json, *(const double *)at);
            break;
        case FIELD_BOOL:
            mabn_str_add(json, *(const bool *)at ? "true" : "false");
            break;
        }
    }
}

/* Read the value of a known key; false when the key is not in the table. */
static bool read_field(struct mabn_json *j, struct mabn_json_text key, void *base,
                       const struct field *fields, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (!mabn_json_is(key, fields[i].name)) continue;
        char *at = (char *)base + fields[i].offset;
        switch (fields[i].type) {
        case FIELD_INT:
            mabn_json_read_int(j, (int *)at, 0, 1 << 30);
            break;
        case FIELD_INT64:
            mabn_json_read_int64(j, (int64_t *)at);
            break;
        case FIELD_DOUBLE:
            mabn_json_read_double(j, (double *)at);
            break;
        case FIELD_BOOL:
            mabn_json_read_bool(j, (bool *)at);
            break;
        }
        return true;
    }
    return false;
}

void mabn_model_to_json(const struct mabn_model *model, struct mabn_str *json)
{
    mabn_str_add(json, "{\"arch\":");
    mabn_str_add_json(json, model->arch);
    add_fields(json, model, model_fields, COUNT(model_fields));
    mabn_str_printf(json, ",\"stem\":\"%s\",\"centralize\":\"%s\",\"norm\":{",
                    stem_names[model->stem], centralize_names[model->centralize]);
    for (int p = 0; p < MABN_MODEL_PARTS; p++) {
        const struct mabn_norm_options *o = &model->norm[p];
        mabn_str_printf(json, "%s\"%s\":{\"kind\":\"%s\",\"window_rule\":\"%s\"", p ? "," : "",
                        part_names[p], mabn_norm_kind_name(o->kind),
                        mabn_window_rule_name(o->window_rule));
        add_fields(json, o, norm_fields, COUNT(norm_fields));
        mabn_str_add_char(json, '}');
    }
    mabn_str_add(json, "}}");
}

/* A string value that must be one of `names`; the index is returned, 0 on an error. */
static int read_choice(struct mabn_json *j, const char *const *names, size_t count)
{
    struct mabn_json_text text;
    if (mabn_json_read_string(j, &text)) return 0;
    for (size_t i = 0; i < count; i++)
        if (mabn_json_is(text, names[i])) return (int)i;
    mabn_json_fail(j, "unknown value '%.*s'", (int)text.length, text.bytes);
    return 0;
}

static void read_norm(struct mabn_json *j, struct mabn_norm_options *o)
{
    struct mabn_json_text key;
    mabn_json_begin_object(j);
    while (mabn_json_next_key(j, &key)) {
        char *name = NULL;
        if (mabn_json_is(key, "kind")) {
            enum mabn_norm_kind kind;
            if (mabn_json_read_strdup(j, &name)) continue;
            if (mabn_norm_kind_parse(&kind, name))
                mabn_json_fail(j, "there is no norm '%s'", name);
            else
                mabn_norm_options_init(o, kind); /* written first, so nothing is lost */
        } else if (mabn_json_is(key, "window_rule")) {
            if (mabn_json_read_strdup(j, &name)) continue;
            if (mabn_window_rule_parse(&o->window_rule, name))
                mabn_json_fail(j, "there is no window rule '%s'", name);
        } else if (!read_field(j, key, o, norm_fields, COUNT(norm_fields))) {
            mabn_json_skip(j);
        }
        free(name);
    }
}

static void read_norms(struct mabn_json *j, struct mabn_model *model)
{
    struct mabn_json_text key;
    mabn_json_begin_object(j);
    while (mabn_json_next_key(j, &key)) {
        int part = 0;
        while (part < MABN_MODEL_PARTS && !mabn_json_is(key, part_names[part]))
            part++;
        if (part < MABN_MODEL_PARTS)
            read_norm(j, &model->norm[part]);
        else
            mabn_json_skip(j);
    }
}

/* The architecture decides the defaults of all else, so it is looked up before the rest. */
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
    mabn_json_begin_object(j);
    while (mabn_json_next_key(j, &key)) {
        if (mabn_json_is(key, "stem"))
            model->stem = (enum mabn_model_stem)read_choice(j, stem_names, COUNT(stem_names));
        else if (mabn_json_is(key, "centralize"))
            model->centralize = (enum mabn_model_centralize)read_choice(j, centralize_names,
                                                                        COUNT(centralize_names));
        else if (mabn_json_is(key, "norm"))
            read_norms(j, model);
        else if (!read_field(j, key, model, model_fields, COUNT(model_fields)))
            mabn_json_skip(j);
    }
    mabn_status status = mabn_json_end(j);
    mabn_json_free(j);
    return status;
}

/* ---- building ---- */

mabn_status mabn_model_build(struct mabn_net **out, struct mabn_device *device,
                             const struct mabn_model *model, const struct mabn_net_options *options)
{
    struct mabn_net_options o = *options;
    struct mabn_net *net;
    *out = NULL;
    if (!mabn_resnet_find(model->arch) || model->classes < 1 || model->base_width < 1 ||
        model->base_width > 1 << 12 || model->classes > 1 << 24)
        return mabn_fail(MABN_ERR_ARG, "a model '%s' of width %d with %d classes cannot be built",
                         model->arch, model->base_width, model->classes);
    if (!o.height) o.height = model->height;
    if (!o.width) o.width = model->width;
    o.channels = model->channels;
    MABN_TRY(mabn_net_new(&net, device, &o));
    mabn_status status = mabn_net_plan(net, mabn_resnet_add_classifier(net, model));
    if (status) {
        mabn_net_free(net);
        return status;
    }
    *out = net;
    return MABN_OK;
}
