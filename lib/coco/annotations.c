/* Reading COCO files: one pass, one record at a time into growing arrays. */
#include "coco/annotations.h"

#include <ctype.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/pages.h"
#include "base/progress.h"

/* A mask string longer than this is no mask: 2^32 pixels in runs of one need less. */
#define MAX_MASK_BYTES ((size_t)1 << 30)

struct reading {
    struct mabn_json *json;
    struct mabn_coco *out;
    unsigned keep;
    bool results;
    bool faults; /* results need neither boxes nor anything else to draw or score */
    struct mabn_progress *progress;
    size_t n_repeated;      /* objects that have a field twice */
    uint32_t repeated_line; /* line of the first such object */
    const char *repeated;   /* its field */
    const char *list;       /* the key under which the results stand; NULL: they stand alone */
    size_t documents;       /* of results */
    struct told {
        size_t n;
        uint32_t line;
        char value[24];
    } text_sizes, odd_sizes, python_masks, odd_bones;
    size_t room_images, room_categories, room_records, room_numbers, room_lengths, room_bytes,
        room_bones /* pairs */, room_texts, room_listed;
    size_t *table; /* (room_table) of texts: place + 1, by hash of the id */
    size_t room_table;
};

/* ---- places ---- */

static uint32_t line_of(struct mabn_json *j)
{
    uint64_t line = mabn_json_line(j);
    return line <= UINT32_MAX ? (uint32_t)line : 0;
}

/* ---- ids ---- */

int64_t mabn_coco_text_id(const char *text, size_t length)
{
    return (int64_t)(XXH3_64bits(text, length) | (uint64_t)1 << 63);
}

/* Keep the text of an id, once. */
static void keep_text(struct reading *r, int64_t id, struct mabn_json_text text)
{
    struct mabn_coco *c = r->out;
    if (2 * (c->n_texts + 1) > r->room_table) {
        size_t room = r->room_table ? 2 * r->room_table : 64;
        free(r->table);
        r->table = mabn_xcalloc(room, sizeof *r->table);
        r->room_table = room;
        for (size_t i = 0; i < c->n_texts; i++) {
            size_t at = mabn_hash_i64(c->texts[i].id) & (room - 1);
            while (r->table[at])
                at = (at + 1) & (room - 1);
            r->table[at] = i + 1;
        }
    }
    size_t at = mabn_hash_i64(id) & (r->room_table - 1);
    for (; r->table[at]; at = (at + 1) & (r->room_table - 1))
        if (c->texts[r->table[at] - 1].id == id) return;
    MABN_GROW(c->texts, c->n_texts, r->room_texts);
    c->texts[c->n_texts].id = id;
    c->texts[c->n_texts++].text = mabn_xstrndup(text.bytes, text.length);
    r->table[at] = c->n_texts;
}

/* An image's or category's id. */
static void read_id(struct reading *r, int64_t *out)
{
    struct mabn_json_text text;
    if (mabn_json_read_id(r->json, out, &text) || !text.bytes) return;
    if (memchr(text.bytes, 0, text.length)) {
        mabn_json_fail(r->json, "an id with a zero byte");
        return;
    }
    *out = mabn_coco_text_id(text.bytes, text.length);
    keep_text(r, *out, text);
}

/* An annotation's id: any value is accepted, and none; true and false are 1 and 0, as in Python. */
static void read_annotation_id(struct reading *r, struct mabn_coco_record *record)
{
    struct mabn_json_text text;
    enum mabn_json_kind kind = mabn_json_peek(r->json);
    if (kind == MABN_JSON_BOOL) {
        bool truth = false;
        mabn_json_read_bool(r->json, &truth);
        record->id = truth;
        record->no_id = record->odd_id = false;
        return;
    }
    if (kind != MABN_JSON_NUMBER && kind != MABN_JSON_STRING) {
        mabn_json_skip(r->json);
        return;
    }
    if (mabn_json_read_id(r->json, &record->id, &text)) return;
    record->no_id = false;
    if (!text.bytes) {
        record->odd_id = false;
        return;
    }
    record->id = mabn_coco_text_id(text.bytes, text.length);
}

static int compare_texts(const void *a, const void *b)
{
    int64_t x = ((const struct mabn_coco_text *)a)->id, y = ((const struct mabn_coco_text *)b)->id;
    return (x > y) - (x < y);
}

static const char *text_of(const struct mabn_coco *c, int64_t id)
{
    struct mabn_coco_text key = {id, NULL};
    if (c->n_texts == 0 || id >= 0) return NULL;
    const struct mabn_coco_text *found =
        bsearch(&key, c->texts, c->n_texts, sizeof key, compare_texts);
    return found ? found->text : NULL;
}

const char *mabn_coco_id_text(const struct mabn_coco *c, int64_t id, char buffer[24])
{
    const char *text = text_of(c, id);
    if (!text) snprintf(buffer, 24, "%lld", (long long)id);
    return text ? text : buffer;
}

void mabn_coco_add_id(struct mabn_str *out, const struct mabn_coco *c, int64_t id)
{
    const char *text = text_of(c, id);
    if (!text)
        mabn_str_printf(out, "%lld", (long long)id);
    else
        mabn_str_add_json(out, text);
}

void mabn_coco_put_id(struct mabn_json_writer *w, const char *key, const struct mabn_coco *c,
                      int64_t id)
{
    const char *text = text_of(c, id);
    if (text)
        mabn_json_put_string(w, key, text);
    else
        mabn_json_put_int(w, key, id);
}

int mabn_coco_compare_ids(const struct mabn_coco *c, int64_t a, int64_t b)
{
    const char *x = text_of(c, a), *y = text_of(c, b);
    if (x && y) return strcmp(x, y);
    if (x || y) return x ? 1 : -1;
    return (a > b) - (a < b);
}

/* ---- the parts of a record ---- */

/* A number or a boolean as truth; *odd: neither, nor null. */
static bool read_flag(struct mabn_json *j, bool *odd)
{
    bool truth = false;
    double number = 0;
    enum mabn_json_kind kind = mabn_json_peek(j);
    *odd = false;
    if (kind == MABN_JSON_BOOL)
        mabn_json_read_bool(j, &truth);
    else if (kind == MABN_JSON_NULL)
        mabn_json_read_null(j);
    else
        *odd = !mabn_json_try_double(j, &number);
    return truth || number != 0;
}

static void add_length(struct reading *r, size_t n)
{
    struct mabn_coco *c = r->out;
    MABN_GROW(c->lengths, c->n_lengths, r->room_lengths);
    c->lengths[c->n_lengths++] = (uint32_t)n;
}

static void add_bytes(struct reading *r, const char *bytes, size_t n)
{
    struct mabn_coco *c = r->out;
    if (c->n_bytes + n > r->room_bytes) {
        r->room_bytes = (c->n_bytes + n) * 3 / 2 + (64 << 10);
        c->bytes = mabn_xrealloc(c->bytes, r->room_bytes);
    }
    memcpy(c->bytes + c->n_bytes, bytes, n);
    c->n_bytes += n;
}

/* A segmentation that cannot be used: keep why. */
MABN_PRINTF(3, 4)
static void be_odd(struct reading *r, struct mabn_segmentation *s, const char *format, ...)
{
    char text[160];
    va_list args;
    if (mabn_json_status(r->json)) return;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    *s = (struct mabn_segmentation){
        .kind = MABN_SEGMENTATION_ODD, .at = r->out->n_bytes, .n = (uint32_t)strlen(text)};
    add_bytes(r, text, s->n);
}

/* Read a list of n numbers into v. Anything else is passed over, and the result is false. *empty (unless
 * NULL): it is an empty list. */
static bool read_few(struct reading *r, double *v, size_t n, bool *empty)
{
    struct mabn_coco *c = r->out;
    size_t before = c->n_numbers, odd = 0;
    if (empty) *empty = false;
    if (mabn_json_peek(r->json) != MABN_JSON_ARRAY) {
        mabn_json_skip(r->json);
        return false;
    }
    if (mabn_json_append_finite(r->json, &c->numbers, &c->n_numbers, &r->room_numbers, &odd))
        return false;
    size_t found = c->n_numbers - before;
    c->n_numbers = before;
    if (empty) *empty = !odd && !found;
    if (odd || found != n) return false;
    memcpy(v, c->numbers + before, n * sizeof *v);
    return true;
}

/* A polygon is x, y of three corners at least. */
static void read_polygons(struct reading *r, struct mabn_segmentation *s)
{
    struct mabn_coco *c = r->out;
    struct mabn_json *j = r->json;
    size_t strange = 0, odd = 0, bad = 0, bad_size = 0;
    s->at = c->n_numbers;
    s->sizes = c->n_lengths;
    mabn_json_begin_array(j);
    while (mabn_json_next_item(j)) {
        size_t before = c->n_numbers;
        if (mabn_json_peek(j) != MABN_JSON_ARRAY) {
            mabn_json_skip(j);
            strange++;
            continue;
        }
        if (mabn_json_append_finite(j, &c->numbers, &c->n_numbers, &r->room_numbers, &odd)) return;
        size_t n = c->n_numbers - before;
        if ((n < 6 || n % 2) && !bad++) bad_size = n;
        add_length(r, n);
        s->n++;
    }
    if (s->n) s->kind = MABN_SEGMENTATION_POLYGONS;
    if (strange)
        be_odd(r, s, "\"segmentation\" is not a list of polygons (a list is expected for each)");
    else if (odd)
        be_odd(r, s,
               "\"segmentation\" has a corner that is not a finite number (a polygon is one list: "
               "x, y, "
               "x, y, ...)");
    else if (bad && bad_size == 4)
        be_odd(r, s,
               "a polygon of 4 numbers: expected x, y of three corners or more "
               "(two corners of a box are no polygon)");
    else if (bad)
        be_odd(r, s, "a polygon of %zu numbers: expected x, y of three corners or more", bad_size);
}

/* False if an item is no count. */
static bool read_counts(struct reading *r, struct mabn_segmentation *s)
{
    struct mabn_json *j = r->json;
    bool fine = true;
    s->kind = MABN_SEGMENTATION_COUNTS;
    s->at = r->out->n_lengths;
    s->n = 0;
    mabn_json_begin_array(j);
    while (mabn_json_next_item(j)) {
        double v = -1;
        bool number = mabn_json_try_double(j, &v);
        if (mabn_json_status(j)) return false;
        fine &= number && v >= 0 && v <= UINT32_MAX && v == floor(v);
        if (!fine) continue;
        add_length(r, (size_t)v);
        s->n++;
    }
    return fine;
}

/* Count a thing and keep where the first was. */
static void note(struct told *t, uint32_t line, struct mabn_json_text value)
{
    if (t->n++) return;
    t->line = line;
    snprintf(t->value, sizeof t->value, "%.*s", value.length < 20 ? (int)value.length : 20,
             value.bytes ? value.bytes : "");
}

/* Bytes as Python prints them, b'...': no mask string has a quote. The backslash, which one may
 * have, is doubled there. */
static bool is_python_bytes(struct mabn_json_text text)
{
    const char *p = text.bytes;
    return text.length >= 3 && p[0] == 'b' && (p[1] == '\'' || p[1] == '"') &&
           p[text.length - 1] == p[1];
}

static void add_python_bytes(struct reading *r, struct mabn_segmentation *s,
                             struct mabn_json_text text)
{
    struct mabn_coco *c = r->out;
    note(&r->python_masks, line_of(r->json), text);
    add_bytes(r, text.bytes + 2, text.length - 3);
    size_t kept = s->at;
    for (size_t i = s->at; i < c->n_bytes; i++) {
        if (c->bytes[i] == '\\' && i + 1 < c->n_bytes && c->bytes[i + 1] == '\\') i++;
        c->bytes[kept++] = c->bytes[i];
    }
    c->n_bytes = kept;
    s->n = (uint32_t)(kept - s->at);
}

static void read_mask_string(struct reading *r, struct mabn_segmentation *s)
{
    struct mabn_json_text text;
    if (mabn_json_read_string(r->json, &text)) return;
    if (text.length > MAX_MASK_BYTES) {
        mabn_json_fail(r->json, "mask string of %zu bytes is too long", text.length);
        return;
    }
    s->kind = MABN_SEGMENTATION_STRING;
    s->at = r->out->n_bytes;
    s->n = (uint32_t)text.length;
    if (is_python_bytes(text))
        add_python_bytes(r, s, text);
    else
        add_bytes(r, text.bytes, text.length);
}

static void read_mask(struct reading *r, struct mabn_segmentation *s)
{
    struct mabn_json *j = r->json;
    struct mabn_json_text key;
    double size[2] = {-1, -1};
    bool counts = true, sized = false;
    mabn_json_begin_object(j);
    while (mabn_json_next_key(j, &key)) {
        bool is_size = mabn_json_is(key, "size"), is_counts = mabn_json_is(key, "counts");
        enum mabn_json_kind kind = mabn_json_peek(j); /* the key is gone from here on */
        if (is_size)
            sized = read_few(r, size, 2, NULL);
        else if (is_counts && kind == MABN_JSON_ARRAY)
            counts = read_counts(r, s);
        else if (is_counts && kind == MABN_JSON_STRING)
            read_mask_string(r, s);
        else
            mabn_json_skip(j);
    }
    for (int i = 0; i < 2; i++)
        if (!(size[i] >= 0 && size[i] <= INT32_MAX && size[i] == floor(size[i])) ||
            size[0] * size[1] > UINT32_MAX) {
            if (!sized)
                be_odd(r, s, "expected \"size\": [height, width], two numbers, in a mask");
            else
                be_odd(r, s, "bad mask size [%.10g, %.10g]: expected \"size\": [height, width]",
                       size[0], size[1]);
            return;
        }
    if (!counts)
        be_odd(r, s, "expected counts in [0, 2^32) in a mask");
    else if (s->kind == MABN_SEGMENTATION_NONE)
        be_odd(r, s, "expected \"counts\" in a mask");
    s->height = (uint32_t)size[0];
    s->width = (uint32_t)size[1];
}

static void read_segmentation(struct reading *r, struct mabn_segmentation *s)
{
    struct mabn_json *j = r->json;
    memset(s, 0, sizeof *s);
    switch (r->keep & MABN_COCO_KEEP_SEGMENTATIONS ? mabn_json_peek(j) : MABN_JSON_NULL) {
    case MABN_JSON_ARRAY:
        read_polygons(r, s);
        break;
    case MABN_JSON_OBJECT:
        read_mask(r, s);
        break;
    case MABN_JSON_NULL:
        mabn_json_skip(j);
        break;
    default:
        be_odd(r, s, "\"segmentation\" is %s, not polygons or a mask",
               mabn_json_kind_name(mabn_json_peek(j)));
        mabn_json_skip(j);
        break;
    }
}

/* An empty list is none. */
static void read_keypoints(struct reading *r, struct mabn_coco_record *record)
{
    struct mabn_coco *c = r->out;
    size_t odd = 0;
    record->odd_keypoints = record->has_keypoints = false;
    record->n_keypoints = 0;
    if (!(r->keep & MABN_COCO_KEEP_KEYPOINTS) || mabn_json_peek(r->json) != MABN_JSON_ARRAY) {
        record->odd_keypoints =
            r->keep & MABN_COCO_KEEP_KEYPOINTS && mabn_json_peek(r->json) != MABN_JSON_NULL;
        mabn_json_skip(r->json);
        return;
    }
    record->keypoints = c->n_numbers;
    if (mabn_json_append_finite(r->json, &c->numbers, &c->n_numbers, &r->room_numbers, &odd))
        return;
    size_t n = c->n_numbers - record->keypoints;
    record->odd_keypoints = odd || n % 3;
    record->n_keypoints = record->odd_keypoints ? 0 : (uint32_t)(n / 3);
    record->has_keypoints = record->n_keypoints > 0;
}

/* [x, y, w, h]; an empty list counts as none, as COCO's tools take it. Not every task needs it. */
static void read_box(struct reading *r, struct mabn_coco_record *record)
{
    double v[4];
    bool empty = false;
    enum mabn_json_kind kind = MABN_JSON_ARRAY;
    record->has_box = mabn_json_try_doubles(r->json, v, 4);
    if (!record->has_box) {
        kind = mabn_json_peek(r->json);
        record->has_box = read_few(r, v, 4, &empty);
    }
    record->odd_box = !record->has_box && !empty && kind != MABN_JSON_NULL;
    if (record->has_box) record->box = (struct mabn_box){v[0], v[1], v[2], v[3]};
}

static void read_num_keypoints(struct reading *r, struct mabn_coco_record *record)
{
    double n = -1;
    if (mabn_json_peek(r->json) == MABN_JSON_BOOL) { /* 0 or 1, as in Python */
        bool odd;
        n = read_flag(r->json, &odd);
    } else {
        mabn_json_try_double(r->json, &n);
    }
    record->has_num_keypoints = n >= 0 && n <= INT32_MAX && n == floor(n);
    if (record->has_num_keypoints) record->num_keypoints = (uint32_t)n;
}

/* ---- records ---- */

/* The first three are required. */
enum {
    SEEN_IMAGE = 1,
    SEEN_CATEGORY = 2,
    SEEN_SCORE = 4,
    SEEN_SEGMENTATION = 8,
    SEEN_BOX = 16,
    SEEN_KEYPOINTS = 32,
    SEEN_ID = 64,
    SEEN_AREA = 128,
    SEEN_CROWD = 256,
    TRUTH_NEEDS = SEEN_IMAGE | SEEN_CATEGORY,
    RESULT_NEEDS = SEEN_IMAGE | SEEN_CATEGORY | SEEN_SCORE,
};
static const char *const seen_names[] = {"image_id",     "category_id", "score",
                                         "segmentation", "bbox",        "keypoints",
                                         "id",           "area",        "iscrowd"};

/* JSON leaves open which value counts if an object has a field twice. Here it is the last, as in Python. */
static void note_repeated(struct reading *r, const char *name, uint32_t line)
{
    if (r->n_repeated++) return;
    r->repeated = name;
    r->repeated_line = line;
}

static void note_repeated_fields(struct reading *r, unsigned fields, uint32_t line)
{
    if (fields) note_repeated(r, seen_names[__builtin_ctz(fields)], line);
}

static unsigned read_field(struct reading *r, struct mabn_coco_record *record,
                           struct mabn_json_text key)
{
    struct mabn_json *j = r->json;
    if (mabn_json_is(key, "image_id")) {
        read_id(r, &record->image_id);
        return SEEN_IMAGE;
    }
    if (mabn_json_is(key, "category_id")) {
        read_id(r, &record->category_id);
        return SEEN_CATEGORY;
    }
    if (mabn_json_is(key, "bbox")) {
        read_box(r, record);
        return SEEN_BOX;
    } else if (mabn_json_is(key, "score") && r->results) {
        mabn_json_read_double(j, &record->score);
        return SEEN_SCORE;
    } else if (mabn_json_is(key, "segmentation")) {
        read_segmentation(r, &record->segmentation);
        return SEEN_SEGMENTATION;
    } else if (mabn_json_is(key, "keypoints")) {
        read_keypoints(r, record);
        return SEEN_KEYPOINTS;
    } else if (r->results) { /* the rest is not asked for */
        mabn_json_skip(j);
    } else if (mabn_json_is(key, "id")) {
        read_annotation_id(r, record);
        return SEEN_ID;
    } else if (mabn_json_is(key, "area")) {
        bool given = mabn_json_peek(j) != MABN_JSON_NULL;
        record->has_area = mabn_json_try_double(j, &record->area);
        record->odd_area = given && !record->has_area;
        return SEEN_AREA;
    } else if (mabn_json_is(key, "iscrowd")) {
        record->crowd = read_flag(j, &record->odd_crowd);
        return SEEN_CROWD;
    } else if (mabn_json_is(key, "ignore")) {
        bool odd; /* nothing depends on it unless it is asked for */
        record->ignore = read_flag(j, &odd);
    } else if (mabn_json_is(key, "num_keypoints")) {
        read_num_keypoints(r, record);
    } else {
        mabn_json_skip(j);
    }
    return 0;
}

/* Room for a record more. When the first ones have shown how long one is, the size of the file tells
 * how many there will be; it is believed up to 64 times those that were read. */
static void make_room(struct reading *r)
{
    enum { FEW = 1024, MOST_TIMES = 64 };
    struct mabn_coco *c = r->out;
    if (c->n_records < r->room_records) return;
    size_t room = r->room_records ? 2 * r->room_records : 16;
    if (c->n_records >= FEW) {
        double parts = (double)mabn_json_size(r->json) / (double)mabn_json_offset(r->json);
        size_t all = (size_t)((double)c->n_records * fmin(1.02 * parts, MOST_TIMES));
        if (all > room) room = all;
    }
    r->room_records = room;
    c->records = mabn_xrealloc(c->records, room * sizeof *c->records);
    mabn_expect_use(c->records, room * sizeof *c->records);
}

/* The next record, all its fields absent; NULL: there are too many. */
static struct mabn_coco_record *new_record(struct reading *r)
{
    struct mabn_coco *c = r->out;
    if (c->n_records == UINT32_MAX) {
        mabn_json_fail(r->json, "more than 2^32 records");
        return NULL;
    }
    make_room(r);
    struct mabn_coco_record *record = &c->records[c->n_records];
    memset(record, 0, sizeof *record);
    record->odd_id = record->no_id = !r->results;
    record->id = r->results ? (int64_t)c->n_records + 1 : INT64_MIN + (int64_t)c->n_records;
    return record;
}

/* A record's fields have been read: those in `seen`, those in `twice` more than once. */
static void add_record(struct reading *r, unsigned seen, unsigned twice, unsigned needed)
{
    struct mabn_coco *c = r->out;
    note_repeated_fields(r, twice, c->records[c->n_records].line);
    for (int i = 0; i < 3; i++)
        if (needed & ~seen & 1u << i)
            mabn_json_fail(r->json, "no \"%s\"%s", seen_names[i],
                           r->list && 1u << i == SEEN_SCORE
                               ? ": are these annotations in place of results?"
                               : "");
    if (mabn_json_status(r->json)) return;
    c->n_records++;
    if (c->n_records % 4096 == 0) mabn_progress_set(r->progress, mabn_json_offset(r->json));
}

static void read_record(struct reading *r, unsigned needed)
{
    struct mabn_json *j = r->json;
    struct mabn_json_text key;
    unsigned seen = 0, twice = 0;
    struct mabn_coco_record *record = new_record(r);
    if (!record) return;
    mabn_json_begin_object(j);
    record->line = line_of(j);
    while (mabn_json_next_key(j, &key)) {
        const unsigned one = read_field(r, record, key);
        twice |= seen & one;
        seen |= one;
    }
    add_record(r, seen, twice, needed);
}

static void read_annotations(struct reading *r)
{
    mabn_json_begin_array(r->json);
    while (mabn_json_next_item(r->json))
        read_record(r, TRUTH_NEEDS);
}

/* A size is a positive whole number, also as a text; anything else is not given. */
static uint32_t read_size(struct reading *r)
{
    struct mabn_json *j = r->json;
    struct mabn_json_text text;
    char copy[24] = "", *end = copy;
    double v = 0;
    const enum mabn_json_kind kind = mabn_json_peek(j);
    if (kind == MABN_JSON_STRING) {
        if (mabn_json_read_string(j, &text)) return 0;
        snprintf(copy, sizeof copy, "%.*s", text.length < 20 ? (int)text.length : 20, text.bytes);
        v = isdigit((unsigned char)*copy) ? (double)strtoul(copy, &end, 10) : 0;
    } else {
        mabn_json_try_double(j, &v);
    }
    const bool fine = v >= 1 && v <= INT32_MAX && v == floor(v) && !*end;
    if (kind == MABN_JSON_NUMBER && !fine) snprintf(copy, sizeof copy, "%.10g", v);
    if (fine && kind == MABN_JSON_STRING)
        note(&r->text_sizes, line_of(j), (struct mabn_json_text){copy, strlen(copy)});
    else if (!fine && kind != MABN_JSON_NULL)
        note(&r->odd_sizes, line_of(j), (struct mabn_json_text){copy, strlen(copy)});
    return fine ? (uint32_t)v : 0;
}

/* A string as a new C string; NULL where it has a zero byte. */
static char *read_text(struct mabn_json *j)
{
    struct mabn_json_text text;
    if (mabn_json_read_string(j, &text) || memchr(text.bytes, 0, text.length)) return NULL;
    return mabn_xstrndup(text.bytes, text.length);
}

static void read_file_name(struct mabn_json *j, struct mabn_coco_image *image)
{
    enum mabn_json_kind kind = mabn_json_peek(j);
    free(image->file_name); /* the last counts */
    image->file_name = NULL;
    image->odd_name = 0;
    if (kind == MABN_JSON_STRING) {
        image->file_name = read_text(j);
        if (!image->file_name) image->odd_name = MABN_JSON_STRING;
        return;
    }
    if (kind != MABN_JSON_NULL) image->odd_name = (uint8_t)kind;
    mabn_json_skip(j);
}

/* Category ids into the pool; how many. */
static uint32_t read_listed(struct reading *r)
{
    struct mabn_coco *c = r->out;
    size_t before = c->n_listed;
    mabn_json_begin_array(r->json);
    while (mabn_json_next_item(r->json)) {
        enum mabn_json_kind kind = mabn_json_peek(r->json);
        if (kind != MABN_JSON_NUMBER && kind != MABN_JSON_STRING) {
            mabn_json_skip(r->json);
            continue;
        }
        MABN_GROW(c->listed, c->n_listed, r->room_listed);
        c->listed[c->n_listed] = 0;
        read_id(r, &c->listed[c->n_listed++]);
    }
    return (uint32_t)(c->n_listed - before);
}

/* The lists of an image may come in either order: the negatives are to be first. */
static void read_list(struct reading *r, struct mabn_coco_image *image, bool negative,
                      unsigned *seen)
{
    struct mabn_coco *c = r->out;
    if (mabn_json_peek(r->json) != MABN_JSON_ARRAY) {
        mabn_json_skip(r->json);
        return;
    }
    if (*seen == 0) image->listed = c->n_listed;
    if (*seen & (negative ? 1u : 2u)) {
        mabn_json_fail(r->json, "a second list of this name");
        return;
    }
    uint32_t n = read_listed(r);
    *(negative ? &image->n_negatives : &image->n_partial) = n;
    if (negative && *seen == 2) { /* swap the two parts */
        size_t old = image->n_partial, bytes = old * sizeof *c->listed;
        int64_t *part = mabn_xmalloc(bytes + 1), *list = c->listed + image->listed;
        memcpy(part, list, bytes);
        memmove(list, list + old, n * sizeof *list);
        memcpy(list + n, part, bytes);
        free(part);
    }
    *seen |= negative ? 1 : 2;
    image->has_lists = *seen == 3;
}

static void read_images(struct reading *r)
{
    struct mabn_coco *c = r->out;
    struct mabn_json *j = r->json;
    struct mabn_json_text key;
    mabn_json_begin_array(j);
    while (mabn_json_next_item(j)) {
        bool seen = false;
        MABN_GROW(c->images, c->n_images, r->room_images);
        struct mabn_coco_image *image = &c->images[c->n_images++];
        memset(image, 0, sizeof *image);
        mabn_json_begin_object(j);
        image->line = line_of(j);
        unsigned lists = 0;
        bool lvis = r->keep & MABN_COCO_KEEP_LVIS;
        while (mabn_json_next_key(j, &key)) {
            if (mabn_json_is(key, "id")) {
                if (seen) note_repeated(r, "id", image->line);
                read_id(r, &image->id);
                seen = true;
            } else if (mabn_json_is(key, "height")) {
                image->height = read_size(r);
            } else if (mabn_json_is(key, "width")) {
                image->width = read_size(r);
            } else if (mabn_json_is(key, "file_name")) {
                if (image->file_name) note_repeated(r, "file_name", image->line);
                read_file_name(j, image);
            } else if (lvis && mabn_json_is(key, "neg_category_ids")) {
                read_list(r, image, true, &lists);
            } else if (lvis && mabn_json_is(key, "not_exhaustive_category_ids")) {
                read_list(r, image, false, &lists);
            } else {
                mabn_json_skip(j);
            }
        }
        image->unsized = !image->height || !image->width;
        if (!seen) mabn_json_fail(j, "no \"id\"");
    }
}

/* Pairs of keypoints; what is none is passed over. */
static void read_skeleton(struct reading *r, struct mabn_coco_category *category)
{
    struct mabn_coco *c = r->out;
    struct mabn_json *j = r->json;
    category->bones = c->n_bones;
    category->n_bones = 0;
    if (mabn_json_peek(j) != MABN_JSON_ARRAY) {
        mabn_json_skip(j);
        return;
    }
    mabn_json_begin_array(j);
    while (mabn_json_next_item(j)) {
        double v[2];
        if (!read_few(r, v, 2, NULL) ||
            !(v[0] >= 1 && v[1] >= 1 && v[0] <= 65535 && v[1] <= 65535)) {
            note(&r->odd_bones, line_of(j), (struct mabn_json_text){NULL, 0});
            continue;
        }
        if (c->n_bones + 1 >= r->room_bones) {
            r->room_bones = 2 * c->n_bones + 64;
            c->bones = mabn_xrealloc(c->bones, 2 * r->room_bones * sizeof *c->bones);
        }
        c->bones[2 * c->n_bones] = (uint32_t)v[0];
        c->bones[2 * c->n_bones++ + 1] = (uint32_t)v[1];
        category->n_bones++;
    }
}

static void read_frequency(struct mabn_json *j, struct mabn_coco_category *category)
{
    struct mabn_json_text text;
    if (mabn_json_peek(j) != MABN_JSON_STRING)
        mabn_json_skip(j);
    else if (mabn_json_read_string(j, &text) == MABN_OK && text.length == 1)
        category->frequency = *text.bytes;
}

/* A number is a name too. */
static void read_name(struct mabn_json *j, struct mabn_coco_category *category)
{
    struct mabn_json_text text;
    int64_t number = 0;
    enum mabn_json_kind kind = mabn_json_peek(j);
    free(category->name); /* the last counts */
    category->name = NULL;
    if (kind != MABN_JSON_STRING && kind != MABN_JSON_NUMBER)
        mabn_json_skip(j);
    else if (kind == MABN_JSON_STRING)
        category->name = read_text(j);
    else if (!mabn_json_read_id(j, &number, &text))
        category->name = text.bytes ? mabn_xstrndup(text.bytes, text.length)
                                    : mabn_xasprintf("%lld", (long long)number);
}

static void read_categories(struct reading *r)
{
    struct mabn_coco *c = r->out;
    struct mabn_json *j = r->json;
    struct mabn_json_text key;
    mabn_json_begin_array(j);
    while (mabn_json_next_item(j)) {
        bool seen = false;
        MABN_GROW(c->categories, c->n_categories, r->room_categories);
        struct mabn_coco_category *category = &c->categories[c->n_categories++];
        memset(category, 0, sizeof *category);
        mabn_json_begin_object(j);
        category->line = line_of(j);
        while (mabn_json_next_key(j, &key)) {
            if (mabn_json_is(key, "id")) {
                if (seen) note_repeated(r, "id", category->line);
                read_id(r, &category->id);
                seen = true;
            } else if (mabn_json_is(key, "skeleton")) {
                read_skeleton(r, category);
            } else if ((r->keep & MABN_COCO_KEEP_LVIS) && mabn_json_is(key, "frequency")) {
                read_frequency(j, category);
            } else if (mabn_json_is(key, "name")) {
                if (category->name) note_repeated(r, "name", category->line);
                read_name(j, category);
            } else {
                mabn_json_skip(j);
            }
        }
        if (!seen) mabn_json_fail(j, "no \"id\"");
    }
}

/* ---- ids that occur twice ---- */

struct placed_id {
    int64_t id;
    size_t place;
};

static int compare_placed(const void *a, const void *b)
{
    const struct placed_id *x = a, *y = b;
    if (x->id != y->id) return x->id < y->id ? -1 : 1;
    return x->place < y->place ? -1 : x->place > y->place;
}

static mabn_status check_images(const struct mabn_coco *c)
{
    struct placed_id *list = mabn_xcalloc(c->n_images + 1, sizeof *list);
    mabn_status status = MABN_OK;
    char buffer[24];
    for (size_t i = 0; i < c->n_images; i++)
        list[i] = (struct placed_id){c->images[i].id, i};
    qsort(list, c->n_images, sizeof *list, compare_placed);
    for (size_t i = 1; i < c->n_images && !status; i++) {
        const struct mabn_coco_image *a = &c->images[list[i - 1].place],
                                     *b = &c->images[list[i].place];
        if (a->id == b->id)
            status = mabn_fail(MABN_ERR_FORMAT,
                               "'%s': two images have the id %s: '%s' (line %u) and '%s' (line %u)",
                               c->name, mabn_coco_id_text(c, a->id, buffer),
                               a->file_name ? a->file_name : "", a->line,
                               b->file_name ? b->file_name : "", b->line);
    }
    free(list);
    return status;
}

/* Two categories with one id and one name are one, with a warning; with two names it is unclear
 * which one is meant. */
static mabn_status check_categories(struct mabn_coco *c)
{
    struct placed_id *list = mabn_xcalloc(c->n_categories + 1, sizeof *list);
    bool *again = mabn_xcalloc(c->n_categories + 1, sizeof *again);
    size_t n = 0, kept = 0;
    mabn_status status = MABN_OK;
    char buffer[24];
    for (size_t i = 0; i < c->n_categories; i++)
        list[i] = (struct placed_id){c->categories[i].id, i};
    qsort(list, c->n_categories, sizeof *list, compare_placed);
    for (size_t i = 1; i < c->n_categories && !status; i++) {
        const struct mabn_coco_category *a = &c->categories[list[i - 1].place],
                                        *b = &c->categories[list[i].place];
        const char *x = a->name ? a->name : "", *y = b->name ? b->name : "";
        if (a->id != b->id) continue;
        mabn_coco_id_text(c, a->id, buffer);
        if (strcmp(x, y) != 0)
            status =
                mabn_fail(MABN_ERR_FORMAT,
                          "'%s': two categories have the id %s: '%s' (line %u) and '%s' "
                          "(line %u)",
                          c->name, mabn_coco_id_text(c, a->id, buffer), x, a->line, y, b->line);
        else if (!n++)
            mabn_warn("'%s': category %s ('%s') is listed twice", c->name,
                      mabn_coco_id_text(c, a->id, buffer), x);
        again[list[i].place] = true;
    }
    for (size_t i = 0; i < c->n_categories && n && !status; i++) {
        if (again[i])
            free(c->categories[i].name);
        else
            c->categories[kept++] = c->categories[i];
    }
    if (n && !status) c->n_categories = kept;
    free(list);
    free(again);
    return status;
}

/* ---- files ---- */

static void read_truth(struct reading *r)
{
    struct mabn_json *j = r->json;
    struct mabn_json_text key;
    unsigned seen = 0;
    mabn_json_begin_object(j);
    while (mabn_json_next_key(j, &key)) {
        unsigned part = mabn_json_is(key, "images")        ? 1
                        : mabn_json_is(key, "annotations") ? 2
                        : mabn_json_is(key, "categories")  ? 4
                                                           : 0;
        if (seen & part) {
            mabn_json_fail(j, "a second list of this name");
            return;
        }
        if (part == 2 && mabn_json_peek(j) == MABN_JSON_NULL) part = 0; /* none are given */
        seen |= part;
        if (part == 1)
            read_images(r);
        else if (part == 2)
            read_annotations(r);
        else if (part == 4)
            read_categories(r);
        else
            mabn_json_skip(j);
    }
    if (!(seen & 1)) mabn_json_fail(j, "no \"images\": is this a COCO annotation file?");
    if (!(seen & 4)) mabn_json_fail(j, "no \"categories\": is this a COCO annotation file?");
    r->out->annotated = seen & 2;
}

bool mabn_coco_results_are_boxes(const struct mabn_coco_record *first)
{
    return first->has_box ||
           (first->odd_box && first->segmentation.kind == MABN_SEGMENTATION_NONE &&
            !first->has_keypoints && !first->odd_keypoints);
}

/* A result was read. If it is the first, choose what to keep of the others: boxes need nothing else. */
static void check_result(struct reading *r, unsigned keep)
{
    struct mabn_json *j = r->json;
    if (mabn_json_status(j) || r->faults || r->out->n_records != 1) return;
    const struct mabn_coco_record *first = r->out->records;
    if (mabn_coco_results_are_boxes(first))
        r->keep = keep;
    else if (first->segmentation.kind == MABN_SEGMENTATION_NONE && !first->has_keypoints &&
             !first->odd_keypoints)
        mabn_json_fail(j, "no \"bbox\", \"segmentation\" or \"keypoints\"");
}

static void read_result_list(struct reading *r, unsigned keep)
{
    mabn_json_begin_array(r->json);
    while (mabn_json_next_item(r->json) && !mabn_json_status(r->json)) {
        read_record(r, RESULT_NEEDS);
        check_result(r, keep);
    }
}

/* The key of the list of results in an object that holds one; NULL: it is another key. */
static const char *list_key(struct mabn_json_text key)
{
    static const char *const keys[] = {"annotations", "predictions", "results", "detections"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (mabn_json_is(key, keys[i])) return keys[i];
    return NULL;
}

/* An object is one result of several (JSON Lines), or holds the list of results under a key. */
static void read_result_object(struct reading *r, unsigned keep)
{
    struct mabn_json *j = r->json;
    struct mabn_json_text key;
    unsigned seen = 0, twice = 0;
    struct mabn_coco_record *record = new_record(r);
    if (!record) return;
    bool wrapped = false;
    mabn_json_begin_object(j);
    record->line = line_of(j);
    while (mabn_json_next_key(j, &key)) {
        const char *list = seen ? NULL : list_key(key);
        if (list && mabn_json_peek(j) != MABN_JSON_ARRAY) {
            mabn_json_skip(j);
        } else if (list) {
            if (r->list) mabn_json_fail(j, "a second list of results");
            r->list = list;
            wrapped = true;
            read_result_list(r, keep);
        } else if (wrapped) {
            mabn_json_skip(j);
        } else {
            const unsigned one = read_field(r, record, key);
            twice |= seen & one;
            seen |= one;
        }
    }
    if (wrapped || mabn_json_status(j)) return;
    if (!seen) {
        mabn_json_fail(j, "expected a list of results, found an object without \"image_id\"");
        return;
    }
    add_record(r, seen, twice, RESULT_NEEDS);
    check_result(r, keep);
}

/* One list; or, as other programs write it, an object that holds the list, or JSON Lines. */
static void read_detections(struct reading *r)
{
    const unsigned keep = r->keep;
    r->keep = MABN_COCO_KEEP_SEGMENTATIONS | MABN_COCO_KEEP_KEYPOINTS; /* at first */
    do {
        if (mabn_json_peek(r->json) == MABN_JSON_OBJECT)
            read_result_object(r, keep);
        else
            read_result_list(r, keep);
        r->documents++;
    } while (!mabn_json_status(r->json) && mabn_json_next_document(r->json));
}

static void tell_form(const struct reading *r)
{
    const char *name = r->out->name;
    char first[80];
    if (r->documents > 1)
        mabn_info("'%s': %zu JSON documents (JSON Lines), read one after another", name,
                  r->documents);
    if (r->list)
        mabn_info("'%s': the results are its list \"%s\"; other lists are passed over", name,
                  r->list);
    snprintf(first, sizeof first, "the first: line %u, %s", r->python_masks.line,
             r->python_masks.value);
    if (r->python_masks.n)
        mabn_warn("'%s': %zu mask string%s bytes as Python prints them (%s...): read without b''",
                  name, r->python_masks.n, r->python_masks.n == 1 ? " is" : "s are", first);
    if (!(r->keep & MABN_COCO_KEEP_SEGMENTATIONS)) return; /* boxes need no sizes */
    if (r->odd_bones.n && r->keep & MABN_COCO_KEEP_KEYPOINTS)
        mabn_warn(
            "'%s': %zu line%s of skeletons %s no two keypoints, which are numbered from 1 (the "
            "first: line %u): left out",
            name, r->odd_bones.n, r->odd_bones.n == 1 ? "" : "s",
            r->odd_bones.n == 1 ? "names" : "name", r->odd_bones.line);
    if (r->text_sizes.n)
        mabn_warn("'%s': %zu \"width\" or \"height\" of images %s a text (the first: line %u, "
                  "\"%s\"): taken as a number",
                  name, r->text_sizes.n, r->text_sizes.n == 1 ? "is" : "are", r->text_sizes.line,
                  r->text_sizes.value);
    if (r->odd_sizes.n)
        mabn_warn("'%s': %zu \"width\" or \"height\" of images %s no positive whole number (the "
                  "first: line %u%s%s): taken as not given",
                  name, r->odd_sizes.n, r->odd_sizes.n == 1 ? "is" : "are", r->odd_sizes.line,
                  *r->odd_sizes.value ? ", " : "", r->odd_sizes.value);
}

static void tell_odd_areas(const struct mabn_coco *c)
{
    size_t n = 0;
    const struct mabn_coco_record *first = NULL;
    for (size_t i = 0; i < c->n_records; i++)
        if (c->records[i].odd_area && !n++) first = &c->records[i];
    if (n)
        mabn_warn(
            "'%s': the \"area\" of %zu annotation%s is no finite number (the first: line %u): "
            "that of the box counts",
            c->name, n, n == 1 ? "" : "s", first->line);
}

static void tell_repeated(const struct reading *r)
{
    if (r->n_repeated)
        mabn_warn("'%s': %zu object%s a field twice (the first: \"%s\", line %u): the last counts",
                  r->out->name, r->n_repeated, r->n_repeated == 1 ? " has" : "s have", r->repeated,
                  r->repeated_line);
}

static mabn_status read_all(struct mabn_coco *out, struct mabn_json *json, const char *name,
                            bool results, unsigned keep)
{
    memset(out, 0, sizeof *out);
    out->name = mabn_xstrdup(name);
    mabn_json_allow_nan(json);
    struct reading r = {.json = json, .out = out, .keep = keep, .results = results};
    r.faults = keep & MABN_COCO_KEEP_FAULTS;
    /* The pools exist even when empty, so that offsets into them are always valid. */
    r.room_numbers = r.room_lengths = r.room_bytes = 16;
    out->numbers = mabn_xmalloc(r.room_numbers * sizeof *out->numbers);
    out->lengths = mabn_xmalloc(r.room_lengths * sizeof *out->lengths);
    out->bytes = mabn_xmalloc(r.room_bytes);
    char *what = mabn_xasprintf("reading %s", name);
    r.progress = mabn_progress_new(what, "bytes", mabn_json_size(json));
    if (results)
        read_detections(&r);
    else
        read_truth(&r);
    mabn_status status = mabn_json_end(json);
    mabn_progress_free(r.progress);
    free(what);
    free(r.table);
    mabn_json_free(json);
    if (out->n_texts) qsort(out->texts, out->n_texts, sizeof *out->texts, compare_texts);
    if (!status && !results && !(keep & MABN_COCO_KEEP_FAULTS)) {
        status = check_images(out);
        if (!status) status = check_categories(out);
        if (!status) tell_odd_areas(out);
    }
    if (!status) tell_repeated(&r);
    if (!status) tell_form(&r);
    if (status) mabn_coco_release(out);
    return status;
}

mabn_status mabn_coco_read(struct mabn_coco *out, const char *path, unsigned keep)
{
    struct mabn_json *json;
    memset(out, 0, sizeof *out);
    MABN_TRY(mabn_json_open(&json, path));
    return read_all(out, json, strcmp(path, "-") ? path : "standard input", false, keep);
}

mabn_status mabn_coco_read_results(struct mabn_coco *out, const char *path, unsigned keep)
{
    struct mabn_json *json;
    memset(out, 0, sizeof *out);
    MABN_TRY(mabn_json_open(&json, path));
    return read_all(out, json, strcmp(path, "-") ? path : "standard input", true, keep);
}

mabn_status mabn_coco_read_bytes(struct mabn_coco *out, const void *bytes, size_t size,
                                 bool results, unsigned keep)
{
    return read_all(out, mabn_json_new_bytes(bytes, size, "memory"), "memory", results, keep);
}

void mabn_coco_release(struct mabn_coco *c)
{
    for (size_t i = 0; i < c->n_images; i++)
        free(c->images[i].file_name);
    for (size_t i = 0; i < c->n_categories; i++)
        free(c->categories[i].name);
    free(c->name);
    free(c->images);
    free(c->categories);
    free(c->records);
    free(c->numbers);
    free(c->lengths);
    free(c->bytes);
    free(c->bones);
    free(c->stands_for);
    free(c->image_places);
    free(c->listed);
    for (size_t i = 0; i < c->n_texts; i++)
        free(c->texts[i].text);
    free(c->texts);
    memset(c, 0, sizeof *c);
}

static int compare_numbers(const void *a, const void *b)
{
    const int64_t *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

size_t mabn_coco_strays(const struct mabn_coco *truth, const struct mabn_coco *records,
                        const struct mabn_coco_record **first)
{
    int64_t *ids = mabn_xcalloc(truth->n_images + 1, sizeof *ids);
    size_t strays = 0;
    *first = NULL;
    for (size_t i = 0; i < truth->n_images; i++)
        ids[i] = truth->images[i].id;
    qsort(ids, truth->n_images, sizeof *ids, compare_numbers);
    for (size_t i = 0; i < records->n_records; i++) {
        const struct mabn_coco_record *r = &records->records[i];
        if (bsearch(&r->image_id, ids, truth->n_images, sizeof *ids, compare_numbers)) continue;
        if (!strays++) *first = r;
    }
    free(ids);
    return strays;
}

const char *mabn_coco_line(uint32_t line, char buffer[16])
{
    buffer[0] = 0;
    if (line) snprintf(buffer, 16, ":%u", line);
    return buffer;
}

const char *mabn_coco_record_place(const struct mabn_coco *c, const struct mabn_coco_record *record,
                                   char buffer[48])
{
    if (record->line)
        snprintf(buffer, 48, "line %u", record->line);
    else if (record->odd_id)
        snprintf(buffer, 48, "annotation [%zu]", (size_t)(record - c->records));
    else
        snprintf(buffer, 48, "annotation %lld", (long long)record->id);
    return buffer;
}

mabn_status mabn_coco_fail(const struct mabn_coco *c, const struct mabn_coco_record *record,
                           mabn_status status, const char *format, ...)
{
    char text[512], id[24], image[24], line[16];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    bool truth = c->n_categories || c->n_images;
    if (record->odd_id)
        snprintf(id, sizeof id, "[%zu]", (size_t)(record - c->records));
    else
        snprintf(id, sizeof id, "%lld", (long long)record->id);
    return mabn_fail(status, "'%s'%s: %s %s (image %s): %s", c->name,
                     mabn_coco_line(record->line, line), truth ? "annotation" : "result", id,
                     mabn_coco_id_text(c, record->image_id, image), text);
}

/* ---- file names ---- */

/* A name must not lead out of the folder. */
const char *mabn_coco_name_fault(const struct mabn_coco_image *image)
{
    const char *name = image->file_name;
    if (!name && image->odd_name == MABN_JSON_NUMBER)
        return "\"file_name\" is a number, not a text";
    if (!name && image->odd_name == MABN_JSON_STRING) return "\"file_name\" has a zero character";
    if (!name && image->odd_name) return "\"file_name\" is not a text";
    if (!name) return "it has no \"file_name\"";
    if (!*name) return "its \"file_name\" is empty";
    if (*name == '/') return "its \"file_name\" begins at the root; expected one within the folder";
    for (const char *p = name; *p; p += strcspn(p, "/"), p += *p == '/')
        if (p[0] == '.' && p[1] == '.' && (p[2] == '/' || !p[2]))
            return "its \"file_name\" leads out of the folder (..)";
    return NULL;
}

mabn_status mabn_coco_image_path(char **out, const struct mabn_coco *c,
                                 const struct mabn_coco_image *image, const char *folder)
{
    char id[24], line[16];
    const char *why = mabn_coco_name_fault(image);
    mabn_coco_line(image->line, line);
    *out = NULL;
    if (why)
        return mabn_fail(MABN_ERR_FORMAT, "'%s'%s: image %s ('%s'): %s", c->name, line,
                         mabn_coco_id_text(c, image->id, id),
                         image->file_name ? image->file_name : "", why);
    *out = mabn_path_join(folder, image->file_name);
    if (mabn_path_exists(*out)) return MABN_OK;
    mabn_fail(MABN_ERR_IO, "'%s'%s: image %s: no file '%s'%s", c->name, line,
              mabn_coco_id_text(c, image->id, id), *out,
              strchr(image->file_name, '\\') ? " (backslashes do not part folders here)" : "");
    free(*out);
    *out = NULL;
    return MABN_ERR_IO;
}

void mabn_coco_forget_crowds(struct mabn_coco *c)
{
    for (size_t i = 0; i < c->n_records; i++)
        c->records[i].crowd = c->records[i].odd_crowd = false;
}

mabn_status mabn_coco_wrong_size(const struct mabn_coco *c, const struct mabn_coco_image *image,
                                 int width, int height, int orientation)
{
    char id[24], exif[80] = "";
    bool turned = image->width == (uint32_t)height && image->height == (uint32_t)width;
    if (orientation > 4)
        snprintf(exif, sizeof exif, " (EXIF orientation %d turns the picture%s)", orientation,
                 turned ? "; --exif does so" : "");
    return mabn_fail(MABN_ERR_MISMATCH, "image %s: the file is %d x %d pixels, '%s' says %u x %u%s",
                     mabn_coco_id_text(c, image->id, id), width, height, c->name, image->width,
                     image->height, exif);
}

/* ---- masks ---- */

/* Union of masks as they come, in the order of a binary counter: level k holds 2^k of them, so each
 * run is merged only as often as there are levels. */
struct gathering {
    struct mabn_rle level[32];
    uint32_t count;
};

/* `one` is taken; another mask's room comes back in it. */
static mabn_status gather(struct gathering *g, struct mabn_rle *one)
{
    int k = 0;
    for (; g->count >> k & 1; k++) {
        struct mabn_rle both, pair[2] = {g->level[k], *one};
        mabn_rle_init(&both);
        mabn_status status = mabn_rle_merge(&both, pair, 2, false);
        mabn_rle_release(one);
        *one = both;
        if (status) return status;
    }
    struct mabn_rle swap = g->level[k];
    g->level[k] = *one;
    *one = swap;
    g->count++;
    return MABN_OK;
}

static mabn_status gathered(struct mabn_rle *out, struct gathering *g)
{
    struct mabn_rle both;
    bool any = false;
    mabn_status status = MABN_OK;
    mabn_rle_init(&both);
    for (int k = 0; k < 32 && !status; k++) {
        if (!(g->count >> k & 1)) continue;
        struct mabn_rle pair[2] = {g->level[k], *out}, *from = any ? &both : &g->level[k];
        if (any) status = mabn_rle_merge(&both, pair, 2, false);
        struct mabn_rle swap = *out;
        *out = *from;
        *from = swap;
        any = true;
    }
    mabn_rle_release(&both);
    return status;
}

static mabn_status polygons_mask(struct mabn_rle *out, const struct mabn_coco *c,
                                 const struct mabn_segmentation *s, uint32_t height, uint32_t width)
{
    const double *xy = c->numbers + s->at;
    const uint32_t *sizes = c->lengths + s->sizes;
    struct gathering g = {.count = 0};
    struct mabn_rle one;
    mabn_rle_init(&one);
    mabn_status status = MABN_OK;
    for (uint32_t i = 0; i < s->n; i++) {
        struct mabn_rle *into = s->n > 1 ? &one : out;
        MABN_TRY_GOTO(mabn_rle_from_polygon(into, xy, sizes[i], height, width), done);
        xy += sizes[i];
        if (s->n > 1) MABN_TRY_GOTO(gather(&g, &one), done);
    }
    if (s->n > 1) status = gathered(out, &g);
done:
    mabn_rle_release(&one);
    for (int k = 0; k < 32; k++)
        mabn_rle_release(&g.level[k]);
    return status;
}

/* Columns between two of an outline's points that lie in the image. */
static uint64_t columns_between(double a, double b, uint32_t width)
{
    double low = fmax(fmin(a, b), 0), high = fmin(fmax(a, b), width);
    return high > low ? (uint64_t)(high - low) + 1 : 1;
}

uint64_t mabn_coco_mask_columns(const struct mabn_coco *c, const struct mabn_coco_record *record,
                                uint32_t width)
{
    const struct mabn_segmentation *s = &record->segmentation;
    uint64_t sum = 0;
    if (s->kind != MABN_SEGMENTATION_POLYGONS) return 0;
    const double *xy = c->numbers + s->at;
    for (uint32_t i = 0; i < s->n; i++) {
        uint32_t n = c->lengths[s->sizes + i];
        for (uint32_t k = 0; k + 1 < n; k += 2)
            sum += columns_between(xy[k], xy[k + 3 < n ? k + 2 : 0], width);
        xy += n;
    }
    return sum;
}

mabn_status mabn_coco_mask(struct mabn_rle *out, const struct mabn_coco *c,
                           const struct mabn_coco_record *record, uint32_t height, uint32_t width)
{
    const struct mabn_segmentation *s = &record->segmentation;
    mabn_status status = MABN_ERR_FORMAT;
    switch (s->kind) {
    case MABN_SEGMENTATION_POLYGONS:
        status = polygons_mask(out, c, s, height, width);
        break;
    case MABN_SEGMENTATION_STRING:
        status = mabn_rle_from_string(out, c->bytes + s->at, s->n, s->height, s->width);
        break;
    case MABN_SEGMENTATION_COUNTS:
        status = mabn_rle_from_counts(out, c->lengths + s->at, s->n, s->height, s->width);
        break;
    case MABN_SEGMENTATION_ODD:
        mabn_fail(status, "%.*s", (int)s->n, c->bytes + s->at);
        break;
    default:
        if (record->has_box)
            status = mabn_rle_from_box(out, record->box, height, width);
        else
            mabn_fail(status, "no segmentation");
    }
    if (!status) return MABN_OK;
    char text[256];
    snprintf(text, sizeof text, "%s", mabn_error_message());
    return mabn_coco_fail(c, record, status, "%s", text);
}
