#include "model/fields.h"

#define NORM_FIELD(type, name)                                                \
    {                                                                         \
#name, MABN_FIELD_##type, offsetof(struct mabn_norm_options, name), 0 \
    }
static const struct mabn_field norm_fields[] = {
    NORM_FIELD(INT, norm_batch),   NORM_FIELD(DOUBLE, eps),          NORM_FIELD(DOUBLE, momentum),
    NORM_FIELD(INT, groups),       NORM_FIELD(INT, window),          NORM_FIELD(INT, warmup),
    NORM_FIELD(INT, r_start),      NORM_FIELD(DOUBLE, lambda),       NORM_FIELD(DOUBLE, r_max),
    NORM_FIELD(DOUBLE, d_max),     NORM_FIELD(INT64, ramp_start),    NORM_FIELD(INT64, r_ramp_end),
    NORM_FIELD(INT64, d_ramp_end), NORM_FIELD(BOOL, sync_reference),
};

static void write_array(struct mabn_json_writer *w, const struct mabn_field *field, const char *at)
{
    mabn_json_put_array(w, field->name);
    for (int i = 0; i < field->count; i++)
        if (field->type == MABN_FIELD_INTS)
            mabn_json_put_int(w, NULL, ((const int *)at)[i]);
        else
            mabn_json_put_double(w, NULL, ((const double *)at)[i]);
    mabn_json_put_end(w);
}

static void write_field(struct mabn_json_writer *w, const struct mabn_field *field, const char *at)
{
    switch (field->type) {
    case MABN_FIELD_INT:
        mabn_json_put_int(w, field->name, *(const int *)at);
        break;
    case MABN_FIELD_INT64:
        mabn_json_put_int(w, field->name, *(const int64_t *)at);
        break;
    case MABN_FIELD_DOUBLE:
        mabn_json_put_double(w, field->name, *(const double *)at);
        break;
    case MABN_FIELD_BOOL:
        mabn_json_put_bool(w, field->name, *(const bool *)at);
        break;
    case MABN_FIELD_INTS:
    case MABN_FIELD_DOUBLES:
        write_array(w, field, at);
        break;
    }
}

void mabn_fields_write(struct mabn_json_writer *w, const void *base,
                       const struct mabn_field *fields, size_t count)
{
    for (size_t i = 0; i < count; i++)
        write_field(w, &fields[i], (const char *)base + fields[i].offset);
}

static void read_array(struct mabn_json *j, const struct mabn_field *field, char *at)
{
    int i = 0;
    mabn_json_begin_array(j);
    while (mabn_json_next_item(j)) {
        if (i == field->count) {
            mabn_json_fail(j, "'%s' has %d values", field->name, field->count);
            return;
        }
        if (field->type == MABN_FIELD_INTS)
            mabn_json_read_int(j, (int *)at + i++, 0, 1 << 30);
        else
            mabn_json_read_double(j, (double *)at + i++);
    }
}

bool mabn_fields_read(struct mabn_json *j, struct mabn_json_text key, void *base,
                      const struct mabn_field *fields, size_t count)
{
    size_t i = 0;
    while (i < count && !mabn_json_is(key, fields[i].name))
        i++;
    if (i == count) return false;
    char *at = (char *)base + fields[i].offset;
    switch (fields[i].type) {
    case MABN_FIELD_INT:
        mabn_json_read_int(j, (int *)at, 0, 1 << 30);
        break;
    case MABN_FIELD_INT64:
        mabn_json_read_int64(j, (int64_t *)at);
        break;
    case MABN_FIELD_DOUBLE:
        mabn_json_read_double(j, (double *)at);
        break;
    case MABN_FIELD_BOOL:
        mabn_json_read_bool(j, (bool *)at);
        break;
    case MABN_FIELD_INTS:
    case MABN_FIELD_DOUBLES:
        read_array(j, &fields[i], at);
        break;
    }
    return true;
}

void mabn_fields_write_norm(struct mabn_json_writer *w, const char *key,
                            const struct mabn_norm_options *norm)
{
    mabn_json_put_object(w, key);
    mabn_json_put_string(w, "kind", mabn_norm_kind_name(norm->kind));
    mabn_json_put_string(w, "window_rule", mabn_window_rule_name(norm->window_rule));
    mabn_fields_write(w, norm, norm_fields, MABN_FIELDS(norm_fields));
    mabn_json_put_end(w);
}

void mabn_fields_read_norm(struct mabn_json *j, struct mabn_norm_options *norm)
{
    struct mabn_json_text key;
    mabn_json_begin_object(j);
    while (mabn_json_next_key(j, &key)) {
        int value;
        if (mabn_json_is(key, "kind")) {
            if (!mabn_json_read_word(j, &value, mabn_norm_kinds, "norm")) /* comes first */
                mabn_norm_options_init(norm, (enum mabn_norm_kind)value);
        } else if (mabn_json_is(key, "window_rule")) {
            if (!mabn_json_read_word(j, &value, mabn_window_rules, "window rule"))
                norm->window_rule = (enum mabn_window_rule)value;
        } else if (!mabn_fields_read(j, key, norm, norm_fields, MABN_FIELDS(norm_fields))) {
            mabn_json_skip(j);
        }
    }
}
