/* Descriptions as JSON: tables of the fields of a struct, for both directions. For this room. */
#ifndef MABN_MODEL_FIELDS_H
#define MABN_MODEL_FIELDS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/json.h"
#include "base/json_write.h"
#include "norm/norm.h"

MABN_BEGIN_DECLS

struct mabn_field {
    const char *name;
    enum {
        MABN_FIELD_INT,
        MABN_FIELD_INT64,
        MABN_FIELD_DOUBLE,
        MABN_FIELD_BOOL,
        MABN_FIELD_INTS,    /* an array of `count` */
        MABN_FIELD_DOUBLES, /* likewise */
    } type;
    size_t offset;
    int count;
};
#define MABN_FIELDS(a) (sizeof(a) / sizeof *(a))

/* Put the value of each under its name. */
void mabn_fields_write(struct mabn_json_writer *w, const void *base,
                       const struct mabn_field *fields, size_t count);
/* Read the value of a known key; false when the key is not in the table. */
bool mabn_fields_read(struct mabn_json *j, struct mabn_json_text key, void *base,
                      const struct mabn_field *fields, size_t count);

/* The options of one norm as an object. */
void mabn_fields_write_norm(struct mabn_json_writer *w, const char *key,
                            const struct mabn_norm_options *norm);
void mabn_fields_read_norm(struct mabn_json *j, struct mabn_norm_options *norm);

MABN_END_DECLS
#endif
