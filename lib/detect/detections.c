/* Candidates are pairs of a proposal and a class. They are gathered class by class, with proposals
 * in order, and suppressed class by class. The other programs' order (equal scores by proposal,
 * then class) is made at the end. */
#include "detect/detections.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "detect/nms.h"
#include "detect/order.h"

struct candidates {
    int64_t count, room;
    float *box, *score; /* (room,4), (room) */
    int32_t *label, *source;
    int64_t *first; /* (classes+2): label k has candidates first[k] … first[k+1] − 1 */
    int32_t *keep;  /* (room) of those that stay */
    int64_t kept;
};

struct job {
    const struct mabn_box_scores *in;
    const struct mabn_detection_options *o;
    const struct mabn_box_convention *c;
    int64_t logits, deltas; /* of a row */
    float *probability;     /* (n,logits) */
};

struct mabn_detection_options mabn_detection_defaults(int32_t classes)
{
    return (struct mabn_detection_options){.min_score = 0.05,
                                           .threshold = 0.5,
                                           .most = 100,
                                           .weights = {10, 10, 5, 5},
                                           .classes = classes};
}

void mabn_detections_release(struct mabn_detections *d)
{
    free(d->box);
    free(d->score);
    free(d->label);
    free(d->source);
    free(d->mask);
    memset(d, 0, sizeof *d);
}

static void make_room(struct mabn_detections *d, int64_t n)
{
    if (n <= d->room) return;
    const size_t room = (size_t)(n + n / 2);
    d->box = mabn_xrealloc(d->box, room * 4 * sizeof *d->box);
    d->score = mabn_xrealloc(d->score, room * sizeof *d->score);
    d->label = mabn_xrealloc(d->label, room * sizeof *d->label);
    d->source = mabn_xrealloc(d->source, room * sizeof *d->source);
    d->mask = mabn_xrealloc(d->mask, room * sizeof *d->mask);
    d->room = (int64_t)room;
}

/* ---- candidates ---- */

static void softmax(float *p, const float *logit, int64_t n)
{
    float most = -INFINITY, sum = 0;
    for (int64_t i = 0; i < n; i++)
        most = logit[i] > most ? logit[i] : most;
    for (int64_t i = 0; i < n; i++) {
        p[i] = expf(logit[i] - most);
        sum += p[i];
    }
    for (int64_t i = 0; i < n; i++)
        p[i] /= sum;
}

static float probability(const struct job *j, int64_t row, int32_t label)
{
    return j->probability[row * j->logits + mabn_class_label(label, j->o->classes, j->c)];
}

static const float *delta_of(const struct job *j, int64_t row, int32_t label)
{
    const int32_t group = j->o->one_box ? 0 : mabn_class_label(label, j->o->classes, j->c);
    return j->in->delta + row * j->deltas + 4 * group;
}

/* A row with anything that is not finite, in any class, is dropped as a whole. */
static bool row_is_finite(const struct job *j, int64_t row)
{
    const int32_t classes = j->o->one_box ? 1 : j->o->classes;
    for (int32_t label = 1; label <= j->o->classes; label++)
        if (!isfinite(probability(j, row, label))) return false;
    for (int32_t label = 1; label <= classes; label++) {
        float box[4];
        mabn_box_decode(box, j->in->proposal + 4 * row, delta_of(j, row, label), j->o->weights,
                        j->c->one);
        for (int i = 0; i < 4; i++)
            if (!isfinite(box[i])) return false;
    }
    return true;
}

static void add_candidate(struct candidates *k, const struct job *j, int64_t row, int32_t label)
{
    float *box = k->box + 4 * k->count;
    mabn_box_decode(box, j->in->proposal + 4 * row, delta_of(j, row, label), j->o->weights,
                    j->c->one);
    mabn_box_clip(box, 1, j->in->width, j->in->height, j->c->one);
    if (j->c->min_detection > 0 &&
        !mabn_box_large_enough(box, j->c->min_detection, false, j->c->one))
        return;
    k->score[k->count] = probability(j, row, label);
    k->label[k->count] = label;
    k->source[k->count++] = (int32_t)row;
}

/* Probabilities; −∞ in a row that is to be dropped. Returns how many are above the least score. */
static int64_t score_rows(struct job *j)
{
    const float least = (float)j->o->min_score;
    int64_t n = 0;
    for (int64_t row = 0; row < j->in->n; row++) {
        softmax(j->probability + row * j->logits, j->in->logit + row * j->logits, j->logits);
        if (j->c->finite_only && !row_is_finite(j, row)) {
            for (int64_t i = 0; i < j->logits; i++)
                j->probability[row * j->logits + i] = -INFINITY;
            continue;
        }
        for (int32_t label = 1; label <= j->o->classes; label++)
            n += probability(j, row, label) > least;
    }
    return n;
}

static mabn_status gather_candidates(struct candidates *k, struct job *j,
                                     struct mabn_scratch *scratch)
{
    const float least = (float)j->o->min_score;

    memset(k, 0, sizeof *k);
    k->room = score_rows(j);
    const size_t n = (size_t)k->room;
    MABN_TRY(mabn_scratch_take(scratch, &k->box, n, 4 * sizeof *k->box));
    MABN_TRY(mabn_scratch_take(scratch, &k->score, n, sizeof *k->score));
    MABN_TRY(mabn_scratch_take(scratch, &k->label, n, sizeof *k->label));
    MABN_TRY(mabn_scratch_take(scratch, &k->source, n, sizeof *k->source));
    MABN_TRY(mabn_scratch_take(scratch, &k->keep, n, sizeof *k->keep));
    MABN_TRY(mabn_scratch_take(scratch, &k->first, (size_t)j->o->classes + 2, sizeof *k->first));
    for (int32_t label = 1; label <= j->o->classes; label++) {
        k->first[label] = k->count;
        for (int64_t row = 0; row < j->in->n; row++)
            if (probability(j, row, label) > least) add_candidate(k, j, row, label);
    }
    k->first[j->o->classes + 1] = k->count;
    return MABN_OK;
}

/* ---- suppression ---- */

static float largest_coordinate(const struct candidates *k)
{
    float largest = -INFINITY;
    for (int64_t i = 0; i < 4 * k->count; i++)
        if (k->box[i] > largest) largest = k->box[i];
    return largest;
}

static mabn_status suppress(struct candidates *k, const struct job *j, struct mabn_scratch *scratch)
{
    const float threshold = mabn_box_threshold(j->c, j->o->threshold);
    const bool shift = k->count <= j->c->nms_shift_limit;
    const float largest = shift ? largest_coordinate(k) : 0;
    float *moved;

    if (j->o->across)
        return mabn_nms(k->keep, &k->kept, k->box, k->score, k->count, k->count, threshold,
                        j->c->one, true, scratch);
    MABN_TRY(mabn_scratch_take(scratch, &moved, (size_t)k->count, 4 * sizeof *moved));
    for (int32_t label = 1; label <= j->o->classes; label++) {
        const int64_t first = k->first[label], n = k->first[label + 1] - first;
        const float *box = k->box + 4 * first;
        int64_t kept;
        if (n == 0) continue;
        if (shift) {
            mabn_nms_shift(moved, box, n, mabn_class_label(label, j->o->classes, j->c), largest);
            box = moved;
        }
        MABN_TRY(mabn_nms(k->keep + k->kept, &kept, box, k->score + first, n, n, threshold,
                          j->c->one, true, scratch));
        for (int64_t i = 0; i < kept; i++)
            k->keep[k->kept++] += (int32_t)first;
    }
    return MABN_OK;
}

/* ---- the best ---- */

static void report(struct mabn_detections *d, const struct candidates *k, int32_t which)
{
    const int64_t at = d->count++;
    memcpy(d->box + 4 * at, k->box + 4 * (int64_t)which, 4 * sizeof *d->box);
    d->score[at] = k->score[which];
    d->label[at] = k->label[which];
    d->source[at] = k->source[which];
    d->mask[at] = (int32_t)at;
}

static mabn_status kept_scores(float **score, const struct candidates *k,
                               struct mabn_scratch *scratch)
{
    MABN_TRY(mabn_scratch_take(scratch, score, (size_t)k->kept, sizeof **score));
    for (int64_t i = 0; i < k->kept; i++)
        (*score)[i] = k->score[k->keep[i]];
    return MABN_OK;
}

/* Keep all with at least the score of the last one requested. */
static mabn_status cap_with_ties(struct mabn_detections *d, const struct candidates *k,
                                 int64_t most, struct mabn_scratch *scratch)
{
    float least = -INFINITY, *score;
    int32_t *order;

    MABN_TRY(kept_scores(&score, k, scratch));
    MABN_TRY(mabn_scratch_take(scratch, &order, (size_t)k->kept, sizeof *order));
    if (most > 0 && k->kept > most) {
        MABN_TRY(mabn_order_best(order, score, k->kept, most, scratch));
        least = score[order[most - 1]];
    }
    for (int64_t i = 0; i < k->kept; i++)
        if (score[i] >= least) report(d, k, k->keep[i]);
    return MABN_OK;
}

/* By proposal, then by class: each class is in the order of proposals. */
static mabn_status order_by_source(struct candidates *k, int64_t rows, struct mabn_scratch *scratch)
{
    int64_t *start;
    int32_t *other;

    MABN_TRY(mabn_scratch_take(scratch, &start, (size_t)rows + 1, sizeof *start));
    MABN_TRY(mabn_scratch_take(scratch, &other, (size_t)k->kept, sizeof *other));
    memset(start, 0, ((size_t)rows + 1) * sizeof *start);
    for (int64_t i = 0; i < k->kept; i++)
        start[k->source[k->keep[i]] + 1]++;
    for (int64_t r = 0; r < rows; r++)
        start[r + 1] += start[r];
    for (int64_t i = 0; i < k->kept; i++)
        other[start[k->source[k->keep[i]]]++] = k->keep[i];
    memcpy(k->keep, other, (size_t)k->kept * sizeof *other);
    return MABN_OK;
}

static mabn_status cap_best_first(struct mabn_detections *d, struct candidates *k, int64_t rows,
                                  int64_t most, struct mabn_scratch *scratch)
{
    float *score;
    int32_t *order;

    if (most <= 0 || most > k->kept) most = k->kept;
    MABN_TRY(order_by_source(k, rows, scratch));
    MABN_TRY(kept_scores(&score, k, scratch));
    MABN_TRY(mabn_scratch_take(scratch, &order, (size_t)k->kept, sizeof *order));
    MABN_TRY(mabn_order_best(order, score, k->kept, most, scratch));
    for (int64_t i = 0; i < most; i++)
        report(d, k, k->keep[order[i]]);
    return MABN_OK;
}

mabn_status mabn_detections_make(struct mabn_detections *d, const struct mabn_box_scores *scores,
                                 const struct mabn_detection_options *options,
                                 const struct mabn_box_convention *c, struct mabn_scratch *scratch)
{
    const struct mabn_scratch_mark mark = mabn_scratch_mark(scratch);
    struct job j = {scores, options, c, (int64_t)options->classes + 1, 0, NULL};
    struct candidates k;
    mabn_status status;

    d->count = 0;
    j.deltas = options->one_box ? 4 : 4 * (j.logits - c->background_last);
    MABN_TRY_GOTO(mabn_scratch_take(scratch, &j.probability, (size_t)scores->n,
                                    (size_t)j.logits * sizeof *j.probability),
                  out);
    MABN_TRY_GOTO(gather_candidates(&k, &j, scratch), out);
    MABN_TRY_GOTO(suppress(&k, &j, scratch), out);
    make_room(d, k.kept);
    if (c->class_order)
        MABN_TRY_GOTO(cap_with_ties(d, &k, options->most, scratch), out);
    else
        MABN_TRY_GOTO(cap_best_first(d, &k, scores->n, options->most, scratch), out);
out:
    mabn_scratch_back(scratch, mark);
    return status;
}

/* ---- afterwards ---- */

void mabn_detections_set(struct mabn_detections *d, int64_t n, const float *box, const float *score,
                         const int32_t *label, const int32_t *source)
{
    const size_t count = (size_t)n;
    d->count = n;
    if (!n) return;
    make_room(d, n);
    memcpy(d->box, box, count * 4 * sizeof *d->box);
    memcpy(d->score, score, count * sizeof *d->score);
    memcpy(d->label, label, count * sizeof *d->label);
    memcpy(d->source, source, count * sizeof *d->source);
    for (int64_t i = 0; i < n; i++)
        d->mask[i] = (int32_t)i;
}

static float size_ratio(int to, int from, const struct mabn_box_convention *c)
{
    return c->ratio_single ? (float)to / (float)from : (float)((double)to / from);
}

/* Those that are empty after clipping are dropped. */
static void clip_and_drop(struct mabn_detections *d, int width, int height)
{
    int64_t n = 0;
    mabn_box_clip(d->box, d->count, width, height, 0);
    for (int64_t i = 0; i < d->count; i++) {
        if (!mabn_box_large_enough(d->box + 4 * i, 0, true, 0)) continue;
        memmove(d->box + 4 * n, d->box + 4 * i, 4 * sizeof *d->box);
        d->score[n] = d->score[i];
        d->label[n] = d->label[i];
        d->source[n] = d->source[i];
        d->mask[n++] = d->mask[i];
    }
    d->count = n;
}

void mabn_detections_scale(struct mabn_detections *d, int width, int height, int original_width,
                           int original_height, const struct mabn_box_convention *c)
{
    const float x = size_ratio(original_width, width, c);
    const float y = size_ratio(original_height, height, c);
    for (int64_t i = 0; i < d->count; i++) {
        d->box[4 * i] *= x;
        d->box[4 * i + 1] *= y;
        d->box[4 * i + 2] *= x;
        d->box[4 * i + 3] *= y;
    }
    if (c->clip_original) clip_and_drop(d, original_width, original_height);
}

void mabn_detection_record(double record[4], const float *box, const struct mabn_box_convention *c)
{
    const float w = box[2] - box[0] + c->one, h = box[3] - box[1] + c->one;
    record[0] = box[0];
    record[1] = box[1];
    record[2] = w;
    record[3] = h;
}

mabn_status mabn_mask_probability(float *out, const float *logit, const int32_t *label, int64_t n,
                                  int64_t pixels, int64_t channels,
                                  const struct mabn_box_convention *c)
{
    for (int64_t i = 0; i < n; i++) {
        const int64_t channel = channels == 1 ? 0 : label[i] - c->background_last;
        if (channel < 0 || channel >= channels)
            return mabn_fail(MABN_ERR_ARG, "detection %lld: class %d, masks of %lld classes",
                             (long long)i, (int)label[i], (long long)channels);
        for (int64_t p = 0; p < pixels; p++)
            out[i * pixels + p] = 1 / (1 + expf(-logit[(i * pixels + p) * channels + channel]));
    }
    return MABN_OK;
}
