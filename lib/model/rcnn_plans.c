/* The plans of a detector: making them for each shape, and binding the heads to the body. And the
 * proposals, which lead from the body to the heads. */
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/progress.h"
#include "model/rcnn_internal.h"

/* What all plans have in common. */
static struct mabn_net_options plan_options(const struct mabn_rcnn *r)
{
    return (struct mabn_net_options){.training = r->options.training,
                                     .precision = r->options.precision,
                                     .no_fold = r->options.no_fold,
                                     .exact = r->options.exact,
                                     .tune = r->options.tune,
                                     .sync = r->options.sync,
                                     .params = r->params};
}

/* ---- heads ---- */

static mabn_status build_head(struct mabn_rcnn *r, bool mask)
{
    struct mabn_net_options options = plan_options(r);
    options.batch = mask ? r->mask_room : r->box_room;
    options.height = options.width = options.channels = 1; /* it reads the body's plan alone */
    options.vary_rows = true;
    options.pool = &r->head_pool;
    struct mabn_detector_head *head = mask ? &r->mask_head : &r->box_head;
    struct mabn_net *net;
    MABN_TRY(mabn_net_new(&net, r->device, &options));
    *head = mask ? mabn_detector_add_mask_head(net, &r->detector, mabn_rcnn_has_losses(r))
                 : mabn_detector_add_box_head(net, &r->detector, mabn_rcnn_has_losses(r));
    const mabn_status status = mabn_net_plan(net);
    if (status)
        mabn_net_free(net);
    else
        *(mask ? &r->mask_net : &r->box_net) = net;
    return status;
}

static void release_box_head(void *context)
{
    struct mabn_rcnn *r = context;
    mabn_net_free(r->box_net);
    r->box_net = NULL;
}

void mabn_rcnn_bind(struct mabn_rcnn *r, struct mabn_net *net,
                    const struct mabn_detector_head *head, const struct mabn_net_rois *rois)
{
    for (int i = 0; i < MABN_DETECTOR_POOLED; i++) {
        char name[16];
        snprintf(name, sizeof name, "p%d", i + 2);
        const struct mabn_net_output p = mabn_net_output_of(r->body->net, name);
        const struct mabn_net_binding binding = {p.values, p.gradient, p.n, p.h, p.w};
        mabn_net_bind(net, head->features[i], &binding);
    }
    mabn_net_set_rois(net, head->rois, rois);
}

/* ---- bodies ---- */

static void release_body(const struct mabn_rcnn *r, struct rcnn_body *body)
{
    if (r->gpu) r->gpu->graph_free(body);
    mabn_net_free(body->net);
    mabn_free(body->anchors);
    mabn_device_release(r->device, body->gpu_anchors,
                        (size_t)body->anchor_count * 4 * sizeof(float));
}

static void release_bodies(void *context)
{
    struct mabn_rcnn *r = context;
    for (int i = 0; i < r->body_count; i++)
        release_body(r, &r->bodies[i]);
    r->body_count = 0;
    r->body = NULL;
}

/* Free the least recently used one. */
static void free_oldest(struct mabn_rcnn *r)
{
    int oldest = 0;
    for (int i = 1; i < r->body_count; i++)
        if (r->bodies[i].used < r->bodies[oldest].used) oldest = i;
    release_body(r, &r->bodies[oldest]);
    r->bodies[oldest] = r->bodies[--r->body_count];
    r->body = NULL;
}

static mabn_status fill_anchors(struct mabn_rcnn *r, struct rcnn_body *body)
{
    struct mabn_anchor_grid grid = {.padded_height = body->height, .padded_width = body->width};
    void *memory;
    for (int l = 0; l < MABN_DETECTOR_LEVELS; l++) {
        char name[24];
        snprintf(name, sizeof name, "objectness%d", l + 2);
        const struct mabn_net_output map = mabn_net_output_of(body->net, name);
        grid.h[l] = map.h;
        grid.w[l] = map.w;
        body->level_anchors[l] = mabn_anchors_in_level(&r->anchors, &grid, l);
    }
    body->anchor_count = mabn_anchors_count(&r->anchors, &grid);
    MABN_TRY(mabn_alloc(&memory, (size_t)body->anchor_count * 4 * sizeof(float)));
    body->anchors = memory;
    mabn_anchors_fill(body->anchors, &r->anchors, &grid, r->convention);
    return r->gpu ? r->gpu->anchors(r, body, &grid) : MABN_OK;
}

static mabn_status build_body(struct mabn_rcnn *r, struct rcnn_body *body)
{
    struct mabn_net_options options = plan_options(r);
    options.batch = body->images;
    options.height = body->height;
    options.width = body->width;
    options.channels = 3;
    options.save_memory = r->options.save_memory;
    options.pool = &r->pool;
    if (r->gpu) options.feed = r->gpu->feed;
    options.feed_context = r;
    MABN_TRY(mabn_net_new(&body->net, r->device, &options));
    mabn_detector_add_body(body->net, &r->detector, mabn_rcnn_has_losses(r));
    MABN_TRY(mabn_net_plan(body->net));
    mabn_net_accumulate(body->net, r->accumulate);
    return fill_anchors(r, body);
}

/* If memory is short, plans of other shapes are freed. */
static mabn_status make_body(struct mabn_rcnn *r, struct rcnn_body *body)
{
    const struct rcnn_body empty = *body;
    const double start = mabn_now();
    mabn_status status;
    while ((status = build_body(r, body)) != MABN_OK) {
        release_body(r, body);
        if (status != MABN_ERR_NOMEM || !r->body_count) return status;
        free_oldest(r);
        *body = empty;
    }
    mabn_verbose("a plan for %d picture%s of %d x %d in %.1f s; there are %d", body->images,
                 body->images == 1 ? "" : "s", body->width, body->height, mabn_now() - start,
                 r->body_count + 1);
    return MABN_OK;
}

static mabn_status find_body(struct mabn_rcnn *r, int images, int height, int width)
{
    for (int i = 0; i < r->body_count; i++) {
        struct rcnn_body *b = &r->bodies[i];
        if (b->images == images && b->height == height && b->width == width) {
            r->body = b;
            return MABN_OK;
        }
    }
    if (r->settle) MABN_TRY(r->settle(r));
    if (r->body_count == (r->gpu ? RCNN_MAX_PLANS : RCNN_MAX_PLANS_CPU)) free_oldest(r);
    struct rcnn_body body = {.images = images, .height = height, .width = width};
    MABN_TRY(make_body(r, &body));
    r->body = &r->bodies[r->body_count++];
    *r->body = body;
    return MABN_OK;
}

/* The plan for these pictures, of the next step. */
static mabn_status take_body(struct mabn_rcnn *r, int images, int height, int width)
{
    if (images < 1 || images > r->options.images || height < 32 || width < 32 || height % 32 ||
        width % 32)
        return mabn_fail(MABN_ERR_ARG, "%d pictures of %d×%d in a detector for %d", images, height,
                         width, r->options.images);
    MABN_TRY(find_body(r, images, height, width));
    r->body->used = ++r->clock;
    return MABN_OK;
}

/* Memory for pictures that go to a GPU. If it is short, plans of other shapes are freed. */
static mabn_status take_memory(struct mabn_rcnn *r, void **memory,
                               const struct rcnn_pictures *pictures)
{
    mabn_status status;
    while ((status = r->gpu->input(r, memory, pictures)) == MABN_ERR_NOMEM && r->body_count > 1) {
        if (r->settle) MABN_TRY(r->settle(r));
        free_oldest(r);
        MABN_TRY(take_body(r, pictures->images, pictures->height, pictures->width));
    }
    return status;
}

/* Refuse new pictures while two detections are under way: the older one may need its pictures again. */
static mabn_status check_room(const struct mabn_rcnn *r)
{
    if (r->detections_begun - r->detections_told < RCNN_DETECTIONS) return MABN_OK;
    return mabn_fail(MABN_ERR_ARG, "the detections of earlier pictures were not fetched");
}

mabn_status mabn_rcnn_input(struct mabn_rcnn *r, float **x, int images, int height, int width)
{
    const size_t values = 3 * (size_t)images * (size_t)height * (size_t)width;
    const struct rcnn_pictures pictures = {images, height, width, false, values * sizeof(float)};
    void *memory;
    MABN_TRY(check_room(r));
    MABN_TRY(take_body(r, images, height, width));
    if (!r->gpu) {
        *x = mabn_net_input(r->body->net);
        return MABN_OK;
    }
    MABN_TRY(take_memory(r, &memory, &pictures));
    *x = memory;
    return MABN_OK;
}

bool mabn_rcnn_takes_raw(const struct mabn_rcnn *r)
{
    return r->gpu != NULL;
}

mabn_status mabn_rcnn_put_raw(struct mabn_rcnn *r, struct mabn_raw *const *raw, int images,
                              int height, int width)
{
    struct rcnn_pictures pictures = {images, height, width, true, 0};
    uint64_t at = ((uint64_t)images * sizeof at + 15) & ~(uint64_t)15;
    void *memory;
    if (!r->gpu) return mabn_fail(MABN_ERR_UNSUPPORTED, "only a GPU takes raw pictures");
    pictures.bytes = at;
    for (int i = 0; i < images; i++) {
        if (raw[i]->new_width > width || raw[i]->new_height > height)
            return mabn_fail(MABN_ERR_ARG, "a picture of %d×%d in a batch of %d×%d",
                             raw[i]->new_height, raw[i]->new_width, height, width);
        pictures.bytes += raw[i]->bytes;
    }
    MABN_TRY(check_room(r));
    MABN_TRY(take_body(r, images, height, width));
    MABN_TRY(take_memory(r, &memory, &pictures));
    for (int i = 0; i < images; i++) {
        ((uint64_t *)memory)[i] = at;
        memcpy((char *)memory + at, raw[i], raw[i]->bytes);
        at += raw[i]->bytes;
    }
    return MABN_OK;
}

/* ---- proposals ---- */

mabn_status mabn_rcnn_fetch(struct mabn_rcnn *r, const float **values,
                            const struct mabn_net_output *output)
{
    const size_t count = (size_t)(output->n * output->h * output->w * output->c);
    float *copy;
    *values = output->values;
    if (!r->gpu) return MABN_OK;
    MABN_TRY(mabn_scratch_take(&r->scratch, &copy, count + 1, sizeof *copy));
    *values = copy;
    return mabn_device_get(r->device, copy, output->values, count * sizeof *copy);
}

mabn_status mabn_rcnn_find_maps(struct mabn_rcnn *r, struct mabn_rpn_maps *maps, bool fetch)
{
    *maps = (struct mabn_rpn_maps){.images = r->body->images,
                                   .levels = MABN_DETECTOR_LEVELS,
                                   .anchor = r->body->anchors,
                                   .width = r->widths,
                                   .height = r->heights};
    for (int l = 0; l < MABN_DETECTOR_LEVELS; l++) {
        char name[24];
        snprintf(name, sizeof name, "objectness%d", l + 2);
        const struct mabn_net_output score = mabn_net_output_of(r->body->net, name);
        snprintf(name, sizeof name, "deltas%d", l + 2);
        const struct mabn_net_output delta = mabn_net_output_of(r->body->net, name);
        maps->anchors[l] = r->body->level_anchors[l];
        maps->score[l] = score.values;
        maps->delta[l] = delta.values;
        if (!fetch) continue;
        MABN_TRY(mabn_rcnn_fetch(r, &maps->score[l], &score));
        MABN_TRY(mabn_rcnn_fetch(r, &maps->delta[l], &delta));
    }
    return MABN_OK;
}

mabn_status mabn_rcnn_need_proposals(struct mabn_rcnn *r, int64_t room)
{
    const size_t rows = (size_t)room * (size_t)r->options.images;
    void *memory;
    r->proposals.room = room;
    if (room <= r->proposal_room) {
        r->proposals.room = r->proposal_room;
        return MABN_OK;
    }
    mabn_free(r->proposals.box);
    mabn_free(r->proposals.score);
    r->proposals.box = r->proposals.score = NULL;
    r->proposal_room = 0;
    MABN_TRY(mabn_alloc(&memory, rows * 4 * sizeof(float)));
    r->proposals.box = memory;
    MABN_TRY(mabn_alloc(&memory, rows * sizeof(float)));
    r->proposals.score = memory;
    r->proposal_room = room;
    return MABN_OK;
}

struct mabn_proposal_options mabn_rcnn_proposal_options(const struct mabn_rcnn *r, bool training)
{
    const struct mabn_detector *d = &r->detector;
    const struct mabn_detector_counts *counts = training ? &d->train : &d->test;
    struct mabn_proposal_options options = mabn_proposal_defaults(r->convention, training);
    options.before = counts->pre_nms;
    options.level = counts->post_nms;
    options.total = counts->proposals;
    options.threshold = d->rpn_nms;
    if (d->rpn_min_size > options.min_size) options.min_size = d->rpn_min_size;
    return options;
}

static mabn_status propose(struct mabn_rcnn *r, const struct mabn_rcnn_image *images, bool training)
{
    const struct mabn_proposal_options options = mabn_rcnn_proposal_options(r, training);
    struct mabn_rpn_maps maps;
    int most = 0;
    for (int i = 0; i < r->body->images; i++) {
        r->widths[i] = images[i].width;
        r->heights[i] = images[i].height;
        if (images[i].count > most) most = images[i].count;
    }
    MABN_TRY(mabn_rcnn_find_maps(r, &maps, false));
    MABN_TRY(mabn_rcnn_need_proposals(r, mabn_proposals_room(&maps, &options) + most));
    if (r->gpu && r->gpu->proposes(&maps, &options)) return r->gpu->propose(r, &maps, &options);
    if (r->gpu) MABN_TRY(mabn_rcnn_find_maps(r, &maps, true));
    return mabn_proposals_make(&r->proposals, &maps, &options, r->convention, &r->scratch);
}

mabn_status mabn_rcnn_propose(struct mabn_rcnn *r, const struct mabn_rcnn_image *images,
                              bool training)
{
    const struct mabn_scratch_mark mark = mabn_scratch_mark(&r->scratch);
    const mabn_status status = propose(r, images, training);
    mabn_scratch_back(&r->scratch, mark);
    return status;
}

/* ---- all plans ---- */

/* The mask head's plan is made last. When it needs more memory than the box head's, that one is
 * made again over the larger pool. */
mabn_status mabn_rcnn_set_up_plans(struct mabn_rcnn *r)
{
    r->pool.outgrown = release_bodies;
    r->head_pool.outgrown = release_box_head;
    r->pool.context = r->head_pool.context = r;
    MABN_TRY(build_head(r, false));
    if (!r->detector.masks) return MABN_OK;
    MABN_TRY(build_head(r, true));
    return r->box_net ? MABN_OK : build_head(r, false);
}

void mabn_rcnn_release_plans(struct mabn_rcnn *r)
{
    release_bodies(r);
    mabn_net_pool_release(&r->pool, r->device);
    mabn_net_free(r->box_net);
    mabn_net_free(r->mask_net);
    mabn_net_pool_release(&r->head_pool, r->device);
}

struct mabn_net *mabn_rcnn_plan(const struct mabn_rcnn *r, enum mabn_rcnn_plan plan)
{
    if (plan == MABN_RCNN_BODY_PLAN) return r->body ? r->body->net : NULL;
    return plan == MABN_RCNN_BOX_PLAN ? r->box_net : r->mask_net;
}

void mabn_rcnn_accumulate(struct mabn_rcnn *r, bool accumulate)
{
    r->accumulate = accumulate;
    for (int i = 0; i < r->body_count; i++)
        mabn_net_accumulate(r->bodies[i].net, accumulate);
    mabn_net_accumulate(r->box_net, accumulate);
    if (r->mask_net) mabn_net_accumulate(r->mask_net, accumulate);
}
