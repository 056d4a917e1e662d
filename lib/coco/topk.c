/* Top-1 and top-k accuracy, by class, and what is taken for what. */
#include "coco/topk.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/json_write.h"
#include "base/log.h"
#include "base/mem.h"

enum { MAX_K = 1000 };

struct sample {
    int label, n, top[MAX_K];
    bool has_label, has_loss, has_number;
    double loss, number; /* number: "sample" */
};

/* A prediction's "sample", and which prediction of the file it is, from 1 on. */
struct numbered {
    double number;
    int64_t at;
};

/* A field that a prediction has twice, and which prediction. */
struct repeated {
    const char *field;
    int64_t at;
};

struct reading {
    struct mabn_topk *out;
    struct mabn_json *json;
    int64_t room_classes;
    uint64_t *errors; /* label, prediction */
    size_t n_errors, room_errors;
    struct numbered *numbers;
    size_t n_numbers, room_numbers;
    size_t repeated; /* predictions that have a field twice */
    struct repeated first_repeated;
};

static void need_class(struct reading *r, int64_t c)
{
    struct mabn_topk *t = r->out;
    if (c < t->n_classes) return;
    if (c >= r->room_classes) {
        int64_t room = c + c / 2 + 64;
        t->classes = mabn_xrealloc(t->classes, (size_t)room * sizeof *t->classes);
        memset(t->classes + r->room_classes, 0,
               (size_t)(room - r->room_classes) * sizeof *t->classes);
        r->room_classes = room;
    }
    t->n_classes = c + 1;
}

static void read_top(struct mabn_json *j, struct sample *s)
{
    s->n = 0;
    mabn_json_begin_array(j);
    while (mabn_json_next_item(j)) {
        if (s->n == MAX_K) {
            mabn_json_fail(j, "more than %d classes", MAX_K);
            return;
        }
        mabn_json_read_int(j, &s->top[s->n++], 0, MABN_TOPK_MAX_CLASS);
    }
}

/* A field may come twice: the last counts, as in Python. */
static void read_sample(struct reading *r, struct sample *s)
{
    static const char *const fields[] = {"label", "top", "loss", "sample"};
    enum { LABEL, TOP, LOSS, SAMPLE, FIELDS };
    struct mabn_json *j = r->json;
    struct mabn_json_text key;
    unsigned seen = 0, twice = 0;
    s->n = 0;
    s->has_label = s->has_loss = s->has_number = false;
    mabn_json_begin_object(j);
    while (mabn_json_next_key(j, &key)) {
        int field = 0;
        while (field < FIELDS && !mabn_json_is(key, fields[field]))
            field++;
        twice |= field < FIELDS ? seen & 1u << field : 0;
        seen |= 1u << field;
        if (field == LABEL)
            s->has_label = mabn_json_read_int(j, &s->label, 0, MABN_TOPK_MAX_CLASS) == MABN_OK;
        else if (field == TOP)
            read_top(j, s);
        else if (field == LOSS && (s->has_loss = mabn_json_peek(j) != MABN_JSON_NULL))
            mabn_json_read_double(j, &s->loss);
        else if (field == SAMPLE)
            s->has_number = mabn_json_try_double(j, &s->number);
        else
            mabn_json_skip(j);
    }
    if (!s->has_label) mabn_json_fail(j, "no \"label\"");
    if (s->n == 0) mabn_json_fail(j, "no \"top\"");
    if (twice && !r->repeated++)
        r->first_repeated = (struct repeated){fields[__builtin_ctz(twice)], r->out->samples + 1};
}

static void count_sample(struct reading *r, const struct sample *s)
{
    struct mabn_topk *t = r->out;
    int place = 0, most = s->label;
    while (place < s->n && s->top[place] != s->label)
        place++;
    for (int i = 0; i < s->n; i++)
        most = s->top[i] > most ? s->top[i] : most;
    need_class(r, most);
    struct mabn_topk_class *c = &t->classes[s->label];
    bool first = place == 0, within = place < s->n && place < t->k;
    t->samples++;
    c->samples++;
    t->first += first;
    c->first += first;
    t->within += within;
    c->within += within;
    t->classes[s->top[0]].predicted++;
    if (s->has_loss) {
        t->loss += s->loss;
        t->losses++;
    }
    if (s->has_number) {
        MABN_GROW(r->numbers, r->n_numbers, r->room_numbers);
        r->numbers[r->n_numbers++] = (struct numbered){s->number, t->samples};
    }
    if (first) return;
    MABN_GROW(r->errors, r->n_errors, r->room_errors);
    r->errors[r->n_errors++] = (uint64_t)s->label << 32 | (uint32_t)s->top[0];
}

static int compare_u64(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static int compare_numbered(const void *a, const void *b)
{
    const struct numbered *x = a, *y = b;
    if (x->number != y->number) return x->number < y->number ? -1 : 1;
    return (x->at > y->at) - (x->at < y->at);
}

/* A file that joins those of several ranks or runs may have samples twice, and each counts: warn. */
static void tell_again(struct reading *r, const char *path)
{
    const struct numbered *first = NULL;
    size_t again = 0;
    if (r->n_numbers) qsort(r->numbers, r->n_numbers, sizeof *r->numbers, compare_numbered);
    for (size_t i = 1; i < r->n_numbers; i++) {
        const struct numbered *n = &r->numbers[i];
        if (n->number != n[-1].number) continue;
        again++;
        if (!first || n->at < first->at) first = n;
    }
    if (again)
        mabn_warn("'%s': %zu of %lld predictions are of samples that were there before (the first: "
                  "prediction %lld, sample %.15g): each counts",
                  path, again, (long long)r->out->samples, (long long)first->at, first->number);
}

static void tell_repeated(const struct reading *r, const char *path)
{
    if (r->repeated)
        mabn_warn("'%s': %zu prediction%s a field twice (the first: \"%s\", prediction %lld): the "
                  "last counts",
                  path, r->repeated, r->repeated == 1 ? " has" : "s have", r->first_repeated.field,
                  (long long)r->first_repeated.at);
}

static int compare_confusions(const void *a, const void *b)
{
    const struct mabn_topk_confusion *x = a, *y = b;
    if (x->count != y->count) return x->count > y->count ? -1 : 1;
    if (x->label != y->label) return x->label < y->label ? -1 : 1;
    return (x->predicted > y->predicted) - (x->predicted < y->predicted);
}

static void count_confusions(struct reading *r)
{
    struct mabn_topk *t = r->out;
    if (r->n_errors == 0) return;
    qsort(r->errors, r->n_errors, sizeof *r->errors, compare_u64);
    t->confusions = mabn_xcalloc(r->n_errors, sizeof *t->confusions);
    for (size_t i = 0; i < r->n_errors; i++) {
        if (i == 0 || r->errors[i] != r->errors[i - 1])
            t->confusions[t->n_confusions++] = (struct mabn_topk_confusion){
                (int32_t)(r->errors[i] >> 32), (int32_t)(uint32_t)r->errors[i], 0};
        t->confusions[t->n_confusions - 1].count++;
    }
    qsort(t->confusions, (size_t)t->n_confusions, sizeof *t->confusions, compare_confusions);
}

mabn_status mabn_topk_read(struct mabn_topk *out, const char *path, int k)
{
    struct reading r = {.out = out};
    struct sample s;
    int narrow = 0; /* the shortest "top" */
    memset(out, 0, sizeof *out);
    out->k = k;
    MABN_TRY(mabn_json_open(&r.json, path));
    while (mabn_json_next_document(r.json)) {
        read_sample(&r, &s);
        if (mabn_json_status(r.json)) break;
        count_sample(&r, &s);
        if (narrow == 0 || s.n < narrow) narrow = s.n;
    }
    mabn_status status = mabn_json_status(r.json);
    mabn_json_free(r.json);
    if (!status && out->samples == 0)
        status = mabn_fail(MABN_ERR_FORMAT, "no predictions in '%s'", path);
    if (!status && narrow < k && narrow < out->n_classes)
        status = mabn_fail(MABN_ERR_FORMAT, "'%s': \"top\" names %d classes; top-%d needs more",
                           path, narrow, k);
    if (!status) {
        count_confusions(&r);
        tell_again(&r, path);
        tell_repeated(&r, path);
    }
    free(r.errors);
    free(r.numbers);
    if (status) mabn_topk_release(out);
    return status;
}

mabn_status mabn_topk_read_names(struct mabn_topk *t, const char *path)
{
    struct mabn_input in;
    int64_t room = 0;
    MABN_TRY(mabn_input_open_text(&in, path, 1 << 30));
    const char *p = (const char *)in.bytes, *end = p + in.size;
    while (p < end) {
        const char *stop = memchr(p, '\n', (size_t)(end - p));
        if (!stop) stop = end;
        MABN_GROW(t->names, t->n_names, room);
        t->names[t->n_names++] =
            mabn_xstrndup(p, (size_t)(stop - p) - (stop > p && stop[-1] == '\r'));
        p = stop + 1;
    }
    mabn_input_release(&in);
    if (t->n_names < t->n_classes)
        return mabn_fail(MABN_ERR_MISMATCH, "'%s' names %lld classes, the predictions have %lld",
                         path, (long long)t->n_names, (long long)t->n_classes);
    return MABN_OK;
}

void mabn_topk_release(struct mabn_topk *t)
{
    for (int64_t i = 0; i < t->n_names; i++)
        free(t->names[i]);
    free(t->names);
    free(t->classes);
    free(t->confusions);
    memset(t, 0, sizeof *t);
}

/* ---- reports ---- */

static double share(int64_t part, int64_t whole)
{
    return whole ? (double)part / (double)whole : 0;
}

static void add_name(struct mabn_str *out, const struct mabn_topk *t, int64_t c)
{
    if (c < t->n_names)
        mabn_str_add(out, t->names[c]);
    else
        mabn_str_printf(out, "%lld", (long long)c);
}

void mabn_topk_report(struct mabn_str *out, const struct mabn_topk *t, int confusions)
{
    char k[32];
    snprintf(k, sizeof k, "top-%d", t->k);
    mabn_str_printf(out, "%-10s %lld\n", "samples", (long long)t->samples);
    mabn_str_printf(out, "%-10s %.2f %%  (%lld)\n", "top-1", 100 * share(t->first, t->samples),
                    (long long)t->first);
    mabn_str_printf(out, "%-10s %.2f %%  (%lld)\n", k, 100 * share(t->within, t->samples),
                    (long long)t->within);
    if (t->losses) mabn_str_printf(out, "%-10s %.4f\n", "loss", t->loss / (double)t->losses);
    if (confusions && t->n_confusions)
        mabn_str_add(out,
                     "most frequent confusions (label, taken for, times, share of the label):\n");
    for (int64_t i = 0; i < t->n_confusions && i < confusions; i++) {
        const struct mabn_topk_confusion *c = &t->confusions[i];
        mabn_str_add(out, "  ");
        add_name(out, t, c->label);
        mabn_str_add(out, " -> ");
        add_name(out, t, c->predicted);
        mabn_str_printf(out, "  %lld  %.1f %%\n", (long long)c->count,
                        100 * share(c->count, t->classes[c->label].samples));
    }
}

void mabn_topk_report_classes(struct mabn_str *out, const struct mabn_topk *t, bool tsv)
{
    if (tsv)
        mabn_str_printf(out, "class\tname\tsamples\tpredicted\ttop1\ttop%d\n", t->k);
    else
        mabn_str_printf(out, "%6s %8s %9s %7s top-%-3d  name\n", "class", "samples", "predicted",
                        "top-1", t->k);
    for (int64_t i = 0; i < t->n_classes; i++) {
        const struct mabn_topk_class *c = &t->classes[i];
        double first = share(c->first, c->samples), within = share(c->within, c->samples);
        if (tsv) {
            mabn_str_printf(out, "%lld\t", (long long)i);
            add_name(out, t, i);
            mabn_str_printf(out, "\t%lld\t%lld\t", (long long)c->samples, (long long)c->predicted);
            mabn_str_add_double(out, first);
            mabn_str_add_char(out, '\t');
            mabn_str_add_double(out, within);
        } else {
            mabn_str_printf(out, "%6lld %8lld %9lld %7.2f %7.2f  ", (long long)i,
                            (long long)c->samples, (long long)c->predicted, 100 * first,
                            100 * within);
            add_name(out, t, i);
        }
        mabn_str_add_char(out, '\n');
    }
}

static void put_class(struct mabn_json_writer *w, const struct mabn_topk *t, int64_t index)
{
    const struct mabn_topk_class *c = &t->classes[index];
    struct mabn_str name;
    mabn_str_init(&name);
    add_name(&name, t, index);
    mabn_json_put_line(w, 2);
    mabn_json_put_object(w, NULL);
    mabn_json_put_string(w, "name", name.text);
    mabn_json_put_int(w, "samples", c->samples);
    mabn_json_put_int(w, "predicted", c->predicted);
    mabn_json_put_double(w, "top1", share(c->first, c->samples));
    mabn_json_put_double(w, t->k == 5 ? "top5" : "topk", share(c->within, c->samples));
    mabn_json_put_end(w);
    mabn_str_release(&name);
}

static void put_confusion(struct mabn_json_writer *w, const struct mabn_topk_confusion *c)
{
    mabn_json_put_line(w, 2);
    mabn_json_put_object(w, NULL);
    mabn_json_put_int(w, "label", c->label);
    mabn_json_put_int(w, "predicted", c->predicted);
    mabn_json_put_int(w, "count", c->count);
    mabn_json_put_end(w);
}

void mabn_topk_report_json(struct mabn_str *out, const struct mabn_topk *t, int confusions)
{
    struct mabn_json_writer w;
    mabn_json_writer_init_spaced(&w, out);
    mabn_json_put_object(&w, NULL);
    mabn_json_put_int(&w, "samples", t->samples);
    mabn_json_put_int(&w, "k", t->k);
    mabn_json_put_line(&w, 1);
    mabn_json_put_double(&w, "top1", share(t->first, t->samples));
    mabn_json_put_double(&w, t->k == 5 ? "top5" : "topk", share(t->within, t->samples));
    mabn_json_put_double(&w, "loss", t->losses ? t->loss / (double)t->losses : NAN);
    mabn_json_put_line(&w, 1);
    mabn_json_put_array(&w, "classes");
    for (int64_t i = 0; i < t->n_classes; i++)
        put_class(&w, t, i);
    mabn_json_put_end(&w);
    mabn_json_put_line(&w, 1);
    mabn_json_put_array(&w, "confusions");
    for (int64_t i = 0; i < t->n_confusions && i < confusions; i++)
        put_confusion(&w, &t->confusions[i]);
    mabn_json_put_end(&w);
    mabn_json_put_end(&w);
    mabn_str_add_char(out, '\n');
}
