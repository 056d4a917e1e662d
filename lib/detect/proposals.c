/* Three stages with a barrier between them: the best of each level, decoded (one task a level and
 * image); suppression (the same tasks; the rule that moves boxes by group needs to know the largest
 * coordinate of the image); the best of each image or batch. All memory is taken beforehand, so
 * that no task allocates. */
#include "detect/proposals.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "detect/boxes.h"
#include "detect/nms.h"
#include "detect/order.h"

/* One level of one image. */
struct task {
    int64_t image;
    int level;
    int64_t anchors, best; /* of the level; how many are looked at */
    const float *anchor;
    float *score;   /* (best) */
    float *box;     /* (best,4) */
    float *moved;   /* (best,4) */
    int32_t *index; /* (best) */
    float *room;    /* MABN_NMS_ROOM(best) */
    int64_t count;  /* of boxes now */
    bool shift;     /* the boxes of this image are moved by level before suppression */
    float largest;  /* coordinate of the image */
    struct mabn_scratch scratch;
    mabn_status status;
    char *message;
};

struct job {
    const struct mabn_rpn_maps *maps;
    const struct mabn_proposal_options *options;
    const struct mabn_box_convention *c;
    struct task *task; /* (images·levels) */
    int64_t tasks;
};

struct mabn_proposal_options mabn_proposal_defaults(const struct mabn_box_convention *c,
                                                    bool training)
{
    const bool legacy = c->cap_batch;
    struct mabn_proposal_options o = {.before = training ? 2000 : 1000,
                                      .threshold = 0.7,
                                      .min_size = c->min_proposal,
                                      .whole_batch = training && c->cap_batch};
    o.level = c->cap_level ? o.before : 0;
    o.total = training && (legacy || c->rank == MABN_RANK_LOGIT_SIGMOID) ? 2000 : 1000;
    return o;
}

int64_t mabn_proposals_room(const struct mabn_rpn_maps *maps,
                            const struct mabn_proposal_options *options)
{
    int64_t room = 0;
    for (int l = 0; l < maps->levels; l++) {
        int64_t n = maps->anchors[l] < options->before ? maps->anchors[l] : options->before;
        if (options->level > 0 && n > options->level && options->threshold > 0) n = options->level;
        room += n;
    }
    return room < options->total ? room : options->total;
}

static float sigmoid(float x)
{
    return 1 / (1 + expf(-x));
}

/* ---- the best of a level ---- */

static mabn_status order_level(struct task *t, const struct job *j, const float *logit)
{
    const float *score = logit;
    float *p;

    if (j->c->rank == MABN_RANK_SIGMOID) {
        MABN_TRY(mabn_scratch_take(&t->scratch, &p, (size_t)t->anchors, sizeof *p));
        for (int64_t i = 0; i < t->anchors; i++)
            p[i] = sigmoid(logit[i]);
        score = p;
    }
    MABN_TRY(mabn_order_best(t->index, score, t->anchors, t->best, &t->scratch));
    for (int64_t i = 0; i < t->best; i++)
        t->score[i] = j->c->rank == MABN_RANK_LOGIT_SIGMOID ? sigmoid(score[t->index[i]])
                                                            : score[t->index[i]];
    return MABN_OK;
}

static bool all_finite(const float *box, float score)
{
    return isfinite(box[0] + box[1] + box[2] + box[3] + score);
}

/* Decode, clip, and drop what the convention drops. */
static void decode_level(struct task *t, const struct job *j, const float *delta)
{
    static const struct mabn_box_weights ones = {1, 1, 1, 1};
    const struct mabn_box_convention *c = j->c;
    const int width = j->maps->width[t->image], height = j->maps->height[t->image];

    t->count = 0;
    for (int64_t i = 0; i < t->best; i++) {
        float *box = t->box + 4 * t->count;
        const float score = t->score[i];
        mabn_box_decode(box, t->anchor + 4 * (int64_t)t->index[i], delta + 4 * (int64_t)t->index[i],
                        ones, c->one);
        if (c->finite_only && !all_finite(box, score)) continue;
        mabn_box_clip(box, 1, width, height, c->one);
        if (!mabn_box_large_enough(box, j->options->min_size, c->min_is_dropped, c->one)) continue;
        t->score[t->count++] = score;
    }
}

static mabn_status look_at_level(struct task *t, const struct job *j)
{
    const int l = t->level;
    MABN_TRY(order_level(t, j, j->maps->score[l] + t->image * t->anchors));
    decode_level(t, j, j->maps->delta[l] + t->image * t->anchors * 4);
    return MABN_OK;
}

/* ---- suppression ---- */

/* Whether the boxes of an image are moved by level, and its largest coordinate. */
static void decide_shift(struct job *j, int64_t image)
{
    struct task *t = j->task + image * j->maps->levels;
    float largest = -INFINITY;
    int64_t n = 0;
    for (int l = 0; l < j->maps->levels; l++) {
        n += t[l].count;
        for (int64_t i = 0; i < 4 * t[l].count; i++)
            if (t[l].box[i] > largest) largest = t[l].box[i];
    }
    for (int l = 0; l < j->maps->levels; l++) {
        t[l].shift = n <= j->c->nms_shift_limit;
        t[l].largest = largest;
    }
}

/* What stayed moves to the front. */
static void compact_level(struct task *t)
{
    for (int64_t i = 0; i < t->count; i++) {
        memmove(t->box + 4 * i, t->box + 4 * (int64_t)t->index[i], 4 * sizeof *t->box);
        t->score[i] = t->score[t->index[i]];
    }
}

static void suppress_level(struct task *t, const struct job *j)
{
    const float threshold = mabn_box_threshold(j->c, j->options->threshold);
    const int64_t most = j->options->level > 0 ? j->options->level : t->count;
    const float *box = t->box;

    if (t->shift) {
        mabn_nms_shift(t->moved, t->box, t->count, t->level, t->largest);
        box = t->moved;
    }
    t->count = mabn_nms_sorted(t->index, box, t->count, most, threshold, j->c->one, t->room);
    compact_level(t);
}

/* ---- the best of an image or batch ---- */

static int64_t gather(float *box, float *score, const struct task *t, int64_t tasks)
{
    int64_t n = 0;
    for (int64_t k = 0; k < tasks; k++) {
        if (t[k].count == 0) continue;
        memcpy(box + 4 * n, t[k].box, (size_t)t[k].count * 4 * sizeof *box);
        memcpy(score + n, t[k].score, (size_t)t[k].count * sizeof *score);
        n += t[k].count;
    }
    return n;
}

static void put(struct mabn_proposals *out, int64_t image, const float *box, float score)
{
    const int64_t row = image * out->room + out->count[image];
    if (out->count[image] == out->room) return;
    memcpy(out->box + 4 * row, box, 4 * sizeof *box);
    out->score[row] = score;
    out->count[image]++;
}

static mabn_status cap_image(struct mabn_proposals *out, const struct job *j, int64_t image,
                             struct mabn_scratch *scratch)
{
    const struct task *t = j->task + image * j->maps->levels;
    int64_t n = 0;
    float *box, *score;
    int32_t *order;

    for (int l = 0; l < j->maps->levels; l++)
        n += t[l].count;
    MABN_TRY(mabn_scratch_take(scratch, &box, (size_t)n, 4 * sizeof *box));
    MABN_TRY(mabn_scratch_take(scratch, &score, (size_t)n, sizeof *score));
    MABN_TRY(mabn_scratch_take(scratch, &order, (size_t)n, sizeof *order));
    gather(box, score, t, j->maps->levels);
    MABN_TRY(mabn_order_best(order, score, n, j->options->total, scratch));
    for (int64_t i = 0; i < n && i < j->options->total; i++)
        put(out, image, box + 4 * (int64_t)order[i], score[order[i]]);
    return MABN_OK;
}

/* Which of the batch's boxes are the best; they stay where they are. */
static mabn_status cap_batch(struct mabn_proposals *out, const struct job *j,
                             struct mabn_scratch *scratch)
{
    int64_t n = 0, start = 0, k = 0;
    float *box, *score;
    int32_t *chosen;

    for (int64_t t = 0; t < j->tasks; t++)
        n += j->task[t].count;
    MABN_TRY(mabn_scratch_take(scratch, &box, (size_t)n, 4 * sizeof *box));
    MABN_TRY(mabn_scratch_take(scratch, &score, (size_t)n, sizeof *score));
    MABN_TRY(mabn_scratch_take(scratch, &chosen, (size_t)n, sizeof *chosen));
    gather(box, score, j->task, j->tasks);
    MABN_TRY(mabn_order_chosen(chosen, score, n, j->options->total, scratch));
    const int64_t most = n < j->options->total ? n : j->options->total;
    for (int64_t t = 0; t < j->tasks; t++) {
        start += j->task[t].count;
        for (; k < most && chosen[k] < start; k++)
            put(out, j->task[t].image, box + 4 * (int64_t)chosen[k], score[chosen[k]]);
    }
    return MABN_OK;
}

/* ---- all together ---- */

static mabn_status prepare_task(struct task *t, struct mabn_scratch *scratch)
{
    const size_t n = (size_t)t->best;
    MABN_TRY(mabn_scratch_take(scratch, &t->score, n, sizeof *t->score));
    MABN_TRY(mabn_scratch_take(scratch, &t->box, n, 4 * sizeof *t->box));
    MABN_TRY(mabn_scratch_take(scratch, &t->moved, n, 4 * sizeof *t->moved));
    MABN_TRY(mabn_scratch_take(scratch, &t->index, n, sizeof *t->index));
    MABN_TRY(mabn_scratch_take(scratch, &t->room, MABN_NMS_ROOM(n), sizeof *t->room));
    /* What ordering takes: probabilities, keys and another order. */
    return mabn_scratch_lend(scratch, &t->scratch, 4 * (2 * (size_t)t->anchors + n) + 4 * 64);
}

static mabn_status prepare(struct job *j, struct mabn_scratch *scratch)
{
    const int levels = j->maps->levels;
    j->tasks = j->maps->images * levels;
    MABN_TRY(mabn_scratch_take(scratch, &j->task, (size_t)j->tasks, sizeof *j->task));
    for (int64_t i = 0; i < j->tasks; i++) {
        struct task *t = &j->task[i];
        memset(t, 0, sizeof *t);
        t->image = i / levels;
        t->level = (int)(i % levels);
        t->anchors = j->maps->anchors[t->level];
        t->best = t->anchors < j->options->before ? t->anchors : j->options->before;
        t->anchor = t->level ? t[-1].anchor + 4 * t[-1].anchors : j->maps->anchor;
        MABN_TRY(prepare_task(t, scratch));
    }
    return MABN_OK;
}

static mabn_status run_tasks(struct job *j)
{
    mabn_status status = MABN_OK;
#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < j->tasks; i++) {
        j->task[i].status = look_at_level(&j->task[i], j);
        if (j->task[i].status) j->task[i].message = mabn_error_detach();
    }
    for (int64_t i = 0; i < j->tasks; i++)
        if (j->task[i].status) status = mabn_error_attach(j->task[i].status, j->task[i].message);
    return status;
}

mabn_status mabn_proposals_make(struct mabn_proposals *out, const struct mabn_rpn_maps *maps,
                                const struct mabn_proposal_options *options,
                                const struct mabn_box_convention *c, struct mabn_scratch *scratch)
{
    const struct mabn_scratch_mark mark = mabn_scratch_mark(scratch);
    struct job j = {maps, options, c, NULL, 0};
    mabn_status status;

    for (int64_t i = 0; i < maps->images; i++)
        out->count[i] = 0;
    MABN_TRY_GOTO(prepare(&j, scratch), out);
    MABN_TRY_GOTO(run_tasks(&j), out);
    for (int64_t i = 0; i < maps->images; i++)
        decide_shift(&j, i);
#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < j.tasks; i++)
        suppress_level(&j.task[i], &j);
    if (options->whole_batch)
        MABN_TRY_GOTO(cap_batch(out, &j, scratch), out);
    else
        for (int64_t i = 0; i < maps->images; i++)
            MABN_TRY_GOTO(cap_image(out, &j, i, scratch), out);
out:
    mabn_scratch_back(scratch, mark);
    return status;
}

void mabn_proposals_add(struct mabn_proposals *out, int64_t image, const float *truth, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        put(out, image, truth + 4 * i, 1);
}
