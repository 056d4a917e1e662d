/* A detector's decisions on the GPU, compared with the CPU's functions: the same indices, and boxes
 * to a rounding. Coordinates lie on a coarse grid, so that overlaps tie and some equal the
 * threshold. */
#include "detect/detect_cuda.h"

#include <math.h>

#include <algorithm>

#include "detect/box_targets_cuda.h"
#include "detect/detections_cuda.h"
#include "detect/mask_targets.h"
#include "detect/nms.h"
#include "detect/paste_cuda.h"
#include "detect/order.h"
#include "detect/proposals_cuda.h"
#include "detect/rpn_targets_cuda.h"
#include "harness.h"

static struct mabn_scratch scratch;

static std::vector<float> random_boxes(int64_t n, uint32_t seed, int grid)
{
    const std::vector<float> r = gpu_random((size_t)(4 * n), seed, MABN_DTYPE_F32, 0, 1);
    std::vector<float> box((size_t)(4 * n));
    for (size_t i = 0; i < (size_t)n; i++)
        for (int k = 0; k < 2; k++) {
            const float low = floorf(fabsf(r[4 * i + (size_t)k]) * (float)grid);
            const float size = floorf(fabsf(r[4 * i + 2 + (size_t)k]) * (float)grid);
            box[4 * i + (size_t)k] = 4 * low;
            box[4 * i + 2 + (size_t)k] = 4 * (low + size);
        }
    return box;
}

static void check_order(int64_t n, int64_t k, bool ties)
{
    std::vector<float> score = gpu_random((size_t)n, 7, MABN_DTYPE_F32, 0, 1);
    std::vector<int32_t> want((size_t)std::min(n, k));
    struct gpu_verdict verdict;
    for (size_t i = 0; i < (size_t)n && ties; i++)
        score[i] = i % 11 == 3 ? NAN : i % 11 == 5 ? -0.0f : rintf(2 * score[i]) / 2;
    gpu_values<float> on_gpu(score);
    gpu_values<int32_t> order(std::vector<int32_t>(want.size(), -1));
    gpu_bytes room(mabn_cuda_order_bytes(k));
    if (mabn_order_best(want.data(), score.data(), n, k, &scratch)) abort();
    if (mabn_cuda_order_best(order.at(), on_gpu.at(), n, k, room.p, NULL))
        verdict.add(mabn_error_message(), 1, 0);
    verdict.add("order", order.values() == want ? 0 : 1, 0);
    verdict.print(ties ? "the best scores, with ties" : "the best scores");
}

/* `live`: how many of the boxes count, stored on the device; -1: all. */
static void check_nms(int64_t n, int64_t most, double threshold, float one, int live)
{
    const std::vector<float> box = random_boxes(n, (uint32_t)n, 12);
    const int64_t count = live < 0 ? n : live;
    std::vector<int32_t> want((size_t)n + 1, -1);
    std::vector<float> room(MABN_NMS_ROOM(n));
    struct gpu_verdict verdict;
    gpu_values<float> on_gpu(box);
    gpu_values<int32_t> keep(std::vector<int32_t>((size_t)n + 1, -1)), kept({-1}), told({live});
    gpu_bytes mask(mabn_cuda_nms_bytes(n));
    const int64_t stays =
        mabn_nms_sorted(want.data(), box.data(), count, most, (float)threshold, one, room.data());
    if (mabn_cuda_nms_sorted(keep.at(), kept.at(), on_gpu.at(), live < 0 ? NULL : told.at(), n,
                             most, (float)threshold, one, mask.p, NULL))
        verdict.add(mabn_error_message(), 1, 0);
    verdict.add("how many stay", kept.values()[0] == stays ? 0 : 1, 0);
    verdict.add("which", keep.values() == want ? 0 : 1, 0);
    verdict.print("suppression");
}

static void check_anchors(const char *name)
{
    const struct mabn_box_convention *c;
    const struct mabn_anchors a = mabn_anchors_usual(32);
    struct mabn_anchor_grid grid = {96, 64, {24, 12, 6, 3, 2}, {16, 8, 4, 2, 1}};
    struct gpu_verdict verdict;
    if (mabn_box_convention_find(&c, name)) abort();
    std::vector<float> want((size_t)mabn_anchors_count(&a, &grid) * 4);
    gpu_values<float> box(std::vector<float>(want.size(), NAN));
    int64_t at = 0;
    mabn_anchors_fill(want.data(), &a, &grid, c);
    for (int l = 0; l < a.levels; l++) {
        float base[4 * MABN_ANCHOR_RATIOS];
        const int64_t sy = c->stride_from_grid ? grid.padded_height / grid.h[l] : a.stride[l];
        const int64_t sx = c->stride_from_grid ? grid.padded_width / grid.w[l] : a.stride[l];
        mabn_anchors_base(base, &a, l, c);
        if (mabn_cuda_anchors_level(box.at() + 4 * at, base, a.ratios, grid.h[l], grid.w[l], sy, sx,
                                    NULL))
            verdict.add(mabn_error_message(), 1, 0);
        at += mabn_anchors_in_level(&a, &grid, l);
    }
    verdict.add("anchors", box.values(), want, 0);
    verdict.print(name);
}

static void check_decode(bool indexed)
{
    enum { N = 300, WIDTH = 70, HEIGHT = 50 };
    const struct mabn_box_weights weights = {10, 10, 5, 5};
    const std::vector<float> box = random_boxes(N, 5, 6);
    const std::vector<float> delta = gpu_random(4 * N, 6, MABN_DTYPE_F32, 0, 12);
    std::vector<float> want(4 * N);
    std::vector<int32_t> index(N);
    struct gpu_verdict verdict;
    for (int i = 0; i < N; i++) {
        index[(size_t)i] = indexed ? (i * 7 + 3) % N : i;
        float *out = &want[4 * (size_t)i];
        const size_t from = 4 * (size_t)index[(size_t)i];
        mabn_box_decode(out, &box[from], &delta[from], weights, 1);
        mabn_box_clip(out, 1, WIDTH, HEIGHT, 1);
    }
    gpu_values<float> gpu_box(box), gpu_delta(delta), out(std::vector<float>(4 * N, NAN));
    gpu_values<int32_t> gpu_index(index);
    if (mabn_cuda_box_decode(out.at(), gpu_box.at(), gpu_delta.at(),
                             indexed ? gpu_index.at() : NULL, N, weights, WIDTH, HEIGHT, 1, NULL))
        verdict.add(mabn_error_message(), 1, 0);
    verdict.add("boxes", out.values(), want, 1e-5);
    verdict.print("decoding and clipping");
}

/* ---- proposals ---- */

enum { IMAGES = 2, LEVELS = 3 };

/* The maps on host and device. Scores lie on a grid, so that they tie; some are not finite. */
struct maps {
    std::vector<float> anchor, score[LEVELS], delta[LEVELS];
    std::vector<int> width{60, 90}, height{80, 70};
    std::vector<gpu_values<float> *> on_gpu;
    gpu_values<int> gpu_width{width}, gpu_height{height};
    struct mabn_rpn_maps here = {}, there = {};

    const float *copy(const std::vector<float> &values)
    {
        on_gpu.push_back(new gpu_values<float>(values));
        return on_gpu.back()->at();
    }

    explicit maps(bool odd)
    {
        static const int64_t anchors[LEVELS] = {3 * 16 * 12, 3 * 8 * 6, 3 * 2 * 2};
        int64_t all = 0;
        here.images = IMAGES;
        here.levels = LEVELS;
        for (int l = 0; l < LEVELS; l++)
            all += here.anchors[l] = anchors[l];
        there = here;
        anchor = random_boxes(all, 8, 12);
        for (size_t l = 0; l < LEVELS; l++) {
            const size_t n = (size_t)(IMAGES * anchors[l]);
            score[l] = gpu_random(n, 20 + l, MABN_DTYPE_F32, 0, 3);
            delta[l] = gpu_random(4 * n, 30 + l, MABN_DTYPE_F32, 0, 0.5);
            for (size_t i = 0; i < n; i++) {
                score[l][i] = rintf(4 * score[l][i]);
                if (odd && i % 13 == 5) score[l][i] = NAN;
                if (odd && i % 17 == 3) delta[l][4 * i] = INFINITY;
            }
            here.score[l] = score[l].data();
            here.delta[l] = delta[l].data();
            there.score[l] = copy(score[l]);
            there.delta[l] = copy(delta[l]);
        }
        here.anchor = anchor.data();
        here.width = width.data();
        here.height = height.data();
        there.anchor = copy(anchor);
        there.width = gpu_width.at();
        there.height = gpu_height.at();
    }
    ~maps()
    {
        for (gpu_values<float> *values : on_gpu)
            delete values;
    }
};

/* Boxes and scores of the rows that count; NaN replaced by a number. */
static std::vector<float> listed(const std::vector<float> &rows, int64_t room, int64_t width,
                                 const std::vector<int32_t> &count)
{
    std::vector<float> out;
    for (int64_t i = 0; i < IMAGES; i++)
        for (int64_t k = 0; k < count[(size_t)i] * width; k++) {
            const float v = rows[(size_t)(i * room * width + k)];
            out.push_back(std::isfinite(v) ? v : -77);
        }
    return out;
}

static void check_proposals(const char *name, bool training, bool odd, int64_t before,
                            int64_t total)
{
    const struct mabn_box_convention *c;
    maps m(odd);
    struct gpu_verdict verdict;
    if (mabn_box_convention_find(&c, name)) abort();
    struct mabn_proposal_options o = mabn_proposal_defaults(c, training);
    o.before = before;
    o.total = total;
    if (o.level) o.level = before / 2;
    const int64_t room = mabn_proposals_room(&m.here, &o);
    std::vector<float> box((size_t)(IMAGES * room * 4)), score((size_t)(IMAGES * room));
    std::vector<int64_t> counted(IMAGES);
    struct mabn_proposals want = {room, box.data(), score.data(), counted.data()};
    gpu_values<float> gpu_box(box), gpu_score(score);
    gpu_values<int32_t> gpu_count(std::vector<int32_t>(IMAGES, -1));
    struct mabn_cuda_proposals got = {room, gpu_box.at(), gpu_score.at(), gpu_count.at()};
    gpu_bytes memory(mabn_cuda_proposals_bytes(&m.there, &o));
    if (mabn_proposals_make(&want, &m.here, &o, c, &scratch)) abort();
    if (!mabn_cuda_proposals_fit(&m.there, &o) ||
        mabn_cuda_proposals_make(&got, &m.there, &o, c, memory.p, NULL))
        verdict.add(mabn_error_message(), 1, 0);
    const std::vector<int32_t> count = gpu_count.values();
    const std::vector<int32_t> counts(counted.begin(), counted.end());
    verdict.add("how many", count == counts ? 0 : 1, 0);
    if (count == counts) {
        verdict.add("boxes", listed(gpu_box.values(), room, 4, count), listed(box, room, 4, count),
                    1e-5);
        verdict.add("scores", listed(gpu_score.values(), room, 1, count),
                    listed(score, room, 1, count), 1e-6);
    }
    char title[120];
    snprintf(title, sizeof title, "proposals, %s, %s%s, %d of %d a level: %d and %d", name,
             training ? "training" : "testing", odd ? ", some not finite" : "", (int)total,
             (int)before, (int)count[0], (int)count[1]);
    verdict.print(title);
}

static void check_all_proposals(void)
{
    for (const char *name : {"legacy", "detectron2", "torchvision"})
        for (int training = 0; training < 2; training++) {
            gpu_order(training + 1);
            check_proposals(name, training, false, 200, 150);
            check_proposals(name, training, true, 60, 1000);
            check_proposals(name, training, false, 2000, 40);
        }
    gpu_order(0);
    maps m(false);
    struct mabn_proposal_options o = {};
    o.total = MABN_CUDA_ORDER_MOST + 1;
    o.before = 10;
    tap_ok(!mabn_cuda_proposals_fit(&m.there, &o), "more than one block sorts do not fit");
    o.whole_batch = true;
    tap_ok(mabn_cuda_proposals_fit(&m.there, &o), "but where nothing is sorted");
}

/* ---- the RPN's targets ---- */

static const float *find(const std::vector<float> &all, const maps &m, int level, int64_t image,
                         int64_t k, int64_t width)
{
    int64_t before = 0;
    for (int l = 0; l < level; l++)
        before += m.here.anchors[l];
    return &all[(size_t)((IMAGES * before + image * m.here.anchors[level] + k) * width)];
}

/* Compare one image's targets from the CPU with those of the GPU, which works level by level. */
static void compare_targets(struct gpu_verdict *verdict, const maps &m, int64_t image,
                            const struct mabn_rpn_targets &want, const std::vector<float> *got,
                            const std::vector<float> &delta)
{
    int64_t i = 0, differ = 0;
    double worst = 0;
    for (int l = 0; l < LEVELS; l++)
        for (int64_t k = 0; k < m.here.anchors[l]; k++, i++) {
            differ += *find(got[0], m, l, image, k, 1) != want.target[i];
            differ += *find(got[1], m, l, image, k, 1) != want.weight[i];
            differ += *find(got[2], m, l, image, k, 1) != want.box_weight[i];
            for (int64_t d = 0; d < 4; d++)
                worst = std::max(worst, fabs((double)find(delta, m, l, image, k, 4)[d] -
                                             (want.box_weight[i] > 0 ? want.delta[4 * i + d] : 0)));
        }
    verdict->add("sample", (double)differ, 0);
    verdict->add("deltas", worst, 1e-5);
}

static void check_rpn_targets(const char *name, int64_t batch, bool spread, bool rescue)
{
    const struct mabn_box_convention *c;
    maps m(false);
    const int64_t n = (int64_t)m.anchor.size() / 4;
    struct gpu_verdict verdict;
    const std::vector<float> boxes = random_boxes(9, 17, 9);
    struct mabn_rpn_target_options o = mabn_rpn_target_defaults();
    std::vector<struct mabn_rng> streams(IMAGES);
    std::vector<int32_t> first = {0, 7, spread ? 9 : 7}; /* the second image may be empty */
    if (mabn_box_convention_find(&c, name)) abort();
    o.sampler.batch = batch;
    o.sampler.spread = spread;
    o.matcher.rescue = rescue;
    for (size_t i = 0; i < IMAGES; i++) {
        const struct mabn_sample_key key = {3, 5, 1000 + i, MABN_SAMPLE_RPN};
        mabn_sample_stream(&streams[i], &key);
    }
    gpu_values<float> gpu_boxes(boxes);
    gpu_values<int32_t> gpu_first(first), counts(std::vector<int32_t>(2 * IMAGES, -1));
    gpu_values<struct mabn_rng> gpu_streams(streams);
    const std::vector<float> blank((size_t)(IMAGES * n), NAN);
    gpu_values<float> target(blank), weight(blank), box_weight(blank);
    gpu_values<float> delta(std::vector<float>(4 * blank.size(), NAN));
    const struct mabn_cuda_truth truth = {
        IMAGES, 7, gpu_first.at(), gpu_boxes.at(), m.there.width, m.there.height, gpu_streams.at()};
    const struct mabn_cuda_rpn_targets out = {target.at(), weight.at(), box_weight.at(),
                                              delta.at(),  counts.at(), counts.at() + IMAGES};
    gpu_bytes memory(mabn_cuda_rpn_targets_bytes(IMAGES, n, truth.most));
    if (mabn_cuda_rpn_targets_make(&out, m.there.anchor, m.there.anchors, LEVELS, &truth, &o, c,
                                   memory.p, NULL))
        verdict.add(mabn_error_message(), 1, 0);
    const std::vector<float> got[] = {target.values(), weight.values(), box_weight.values()};
    int positives = 0;
    for (int64_t i = 0; i < IMAGES; i++) {
        const struct mabn_sample_key key = {3, 5, (uint64_t)(1000 + i), MABN_SAMPLE_RPN};
        const struct mabn_truth its = {first[(size_t)i + 1] - first[(size_t)i],
                                       boxes.data() + 4 * first[(size_t)i], NULL,
                                       m.width[(size_t)i], m.height[(size_t)i]};
        std::vector<float> wt((size_t)n), ww((size_t)n), wb((size_t)n), wd((size_t)(4 * n));
        struct mabn_rpn_targets want = {wt.data(), ww.data(), wb.data(), wd.data(), 0, 0};
        if (mabn_rpn_targets_make(&want, m.anchor.data(), n, &its, &o, &key, c, &scratch)) abort();
        compare_targets(&verdict, m, i, want, got, delta.values());
        verdict.add("sampled", counts.values()[(size_t)i] == want.sampled ? 0 : 1, 0);
        verdict.add("positives", counts.values()[(size_t)(IMAGES + i)] == want.positives ? 0 : 1,
                    0);
        positives += (int)want.positives;
    }
    char title[120];
    snprintf(title, sizeof title, "targets of the RPN, %s, %d%s%s, %d positives", name, (int)batch,
             spread ? " spread" : " at random", rescue ? "" : ", no rescue", positives);
    verdict.print(title);
}

static void check_all_targets(void)
{
    for (int order = 0; order < 3; order++) {
        gpu_order(order);
        check_rpn_targets("legacy", 64, order == 1, order < 2);
        check_rpn_targets("detectron2", 6, order == 1, true);
        check_rpn_targets("torchvision", 5000, order == 1, true);
    }
    gpu_order(0);
}

/* ---- the heads' targets ---- */

/* Star-shaped outlines around the boxes, and unusual ones: a single corner, far away, NaN, an odd
 * count of numbers, none at all. */
struct outlines {
    std::vector<uint32_t> polygon{0}, number{0};
    std::vector<float> numbers;

    void close()
    {
        number.push_back((uint32_t)numbers.size());
    }
    void add_star(const float *box, int corners, uint32_t seed)
    {
        const std::vector<float> r = gpu_random((size_t)corners, seed, MABN_DTYPE_F32, 0.7, 0.3);
        for (int i = 0; i < corners; i++) {
            const double at = 2 * M_PI * i / corners, by = r[(size_t)i] / 2;
            numbers.push_back((float)((box[0] + box[2]) / 2 + by * (box[2] - box[0]) * cos(at)));
            numbers.push_back((float)((box[1] + box[3]) / 2 + by * (box[3] - box[1]) * sin(at)));
        }
        close();
    }
    void add_object(const float *box, size_t i)
    {
        if (i % 5 != 4) add_star(box, 3 + (int)(i * 7 % 40), (uint32_t)i);
        if (i % 3 == 1) add_star(box, 900, (uint32_t)i + 50); /* overlaps the first */
        if (i % 4 == 2) {
            for (float v : {box[0], 1e9f, NAN, box[3], box[2], -3e8f, -INFINITY})
                numbers.push_back(v);
            close();
            numbers.push_back(box[0]);
            numbers.push_back(box[1]);
            close();
        }
        polygon.push_back((uint32_t)number.size() - 1);
    }
};

/* Proposals near the objects, some with an empty side; objects at whole and at fractional
 * positions. */
struct scene {
    enum { ROOM = 700, OBJECTS = 11, CLASSES = 5 };
    std::vector<int> width{160, 90}, height{130, 110};
    std::vector<int32_t> first, label, count;
    std::vector<float> box, proposal, score;
    outlines lines;

    scene(int objects, int proposals)
        : first{0, objects, objects < OBJECTS ? objects : OBJECTS}, count{proposals, proposals / 2},
          proposal(4 * IMAGES * ROOM), score(IMAGES * ROOM)
    {
        box = random_boxes(OBJECTS, 23, 20);
        for (size_t i = 0; i < OBJECTS; i++) {
            label.push_back(1 + (int32_t)(i % CLASSES));
            if (i % 2) box[4 * i] += 0.3f;
            lines.add_object(&box[4 * i], i);
        }
        const std::vector<float> move = gpu_random(4 * IMAGES * ROOM, 24, MABN_DTYPE_F32, 0, 7);
        for (size_t i = 0; i < IMAGES * ROOM; i++)
            for (size_t k = 0; k < 4; k++) {
                proposal[4 * i + k] = box[4 * (i % OBJECTS) + k] + (i % 9 ? move[4 * i + k] : 0);
                if (i % 31 == 7 && k > 1) proposal[4 * i + k] = proposal[4 * i + k - 2];
                if (i % 13 == 3) proposal[4 * i + k] *= 8; /* of another level */
            }
    }
    struct mabn_truth truth(size_t i) const
    {
        return {first[i + 1] - first[i], box.data() + 4 * first[i], label.data() + first[i],
                width[i], height[i]};
    }
    struct mabn_outlines outlines_of(size_t i) const
    {
        return {first[i + 1] - first[i],
                lines.polygon.data() + first[i],
                lines.number.data(),
                lines.numbers.data(),
                width[i],
                height[i]};
    }
};

/* On the CPU, as in rcnn_train.c. */
struct cpu_targets {
    std::vector<float> box, delta, weight;
    std::vector<int32_t> image, label, object, level, row;
    std::vector<uint8_t> mask;
    struct mabn_box_targets t = {};

    cpu_targets(scene &s, int64_t room, const struct mabn_box_target_options &o,
                const struct mabn_box_convention *c)
        : box(4 * (size_t)room), delta(4 * (size_t)room), weight((size_t)room), image((size_t)room),
          label((size_t)room), object((size_t)room), level((size_t)room), row((size_t)room)
    {
        const size_t pixels = 28 * 28;
        t = {
            room,         0, 0, box.data(), image.data(), label.data(), object.data(), delta.data(),
            weight.data()};
        for (size_t i = 0; i < IMAGES; i++) {
            const struct mabn_truth truth = s.truth(i);
            const struct mabn_sample_key key = {3, 5, 1000 + i, MABN_SAMPLE_BOXES};
            std::vector<int64_t> count(s.count.begin(), s.count.end());
            struct mabn_proposals p = {scene::ROOM, s.proposal.data(), s.score.data(),
                                       count.data()};
            mabn_proposals_add(&p, (int64_t)i, truth.box, truth.count);
            if (mabn_box_targets_add(&t, (int32_t)i, p.box + 4 * i * scene::ROOM, count[i], &truth,
                                     &o, &key, c, &scratch))
                abort();
        }
        mabn_box_levels(level.data(), box.data(), t.count, 2, 5, c);
        const int64_t n = mabn_box_targets_positive(row.data(), &t);
        mask.resize((size_t)n * pixels);
        for (int64_t k = 0; k < n; k++) {
            const size_t r = (size_t)row[(size_t)k], i = (size_t)image[r];
            const struct mabn_outlines lines = s.outlines_of(i);
            if (mabn_mask_targets_fill(&mask[(size_t)k * pixels], &box[4 * r], &object[r], 1, 28,
                                       &lines, c))
                abort();
        }
    }
};

template <typename T>
static void same_rows(struct gpu_verdict *verdict, const char *name, const gpu_values<T> &got,
                      const std::vector<T> &want, int64_t rows, size_t each)
{
    const std::vector<T> values = got.values();
    verdict->add(
        name,
        std::equal(values.begin(), values.begin() + rows * (int64_t)each, want.begin()) ? 0 : 1, 0);
}

static void check_box_targets(const char *name, int objects, int proposals, int64_t batch,
                              bool spread)
{
    const struct mabn_box_convention *c;
    scene s(objects, proposals);
    struct gpu_verdict verdict;
    if (mabn_box_convention_find(&c, name)) abort();
    struct mabn_box_target_options o = mabn_box_target_defaults(scene::CLASSES);
    o.sampler.batch = batch;
    o.sampler.spread = spread;
    if (spread) o.matcher.low = 0.3f;
    const size_t room = IMAGES * (size_t)batch, most = IMAGES * (size_t)(batch / 4);
    std::vector<struct mabn_rng> streams(IMAGES);
    for (size_t i = 0; i < IMAGES; i++) {
        const struct mabn_sample_key key = {3, 5, 1000 + i, MABN_SAMPLE_BOXES};
        mabn_sample_stream(&streams[i], &key);
    }
    gpu_values<float> proposal(s.proposal), score(s.score), truth(s.box), numbers(s.lines.numbers);
    gpu_values<int32_t> count(s.count), first(s.first), label(s.label);
    gpu_values<int> width(s.width), height(s.height);
    gpu_values<uint32_t> polygon(s.lines.polygon), number(s.lines.number);
    gpu_values<struct mabn_rng> rng(streams);
    const std::vector<float> f(4 * room, NAN);
    const std::vector<int32_t> n(room, -7);
    gpu_values<float> box(f), delta(f), weight(f), mask_box(f);
    gpu_values<int32_t> image(n), level(n), own(n), mask_image(n), mask_level(n), mask_label(n),
        object(n), counts({-1, -1});
    gpu_values<uint8_t> mask(std::vector<uint8_t>(most * 28 * 28 + 1, 9));
    const struct mabn_cuda_proposals p = {scene::ROOM, proposal.at(), score.at(), count.at()};
    const struct mabn_cuda_objects all = {IMAGES,      first.at(),  truth.at(),  label.at(),
                                          rng.at(),    width.at(),  height.at(), polygon.at(),
                                          number.at(), numbers.at()};
    const struct mabn_cuda_box_targets out = {
        (int64_t)room,   (int64_t)most,   box.at(),    image.at(),    level.at(),
        own.at(),        delta.at(),      weight.at(), mask_box.at(), mask_image.at(),
        mask_level.at(), mask_label.at(), object.at(), counts.at()};
    gpu_bytes memory(mabn_cuda_box_targets_bytes(IMAGES, scene::ROOM));
    if (mabn_cuda_box_targets_make(&out, &p, &all, &o, c, memory.p, NULL) ||
        mabn_cuda_mask_targets_fill(mask.at(), 28, &out, &all, c, NULL))
        verdict.add(mabn_error_message(), 1, 0);
    const cpu_targets want(s, (int64_t)room, o, c);
    const int64_t rows = counts.values()[0], positives = counts.values()[1];
    verdict.add("rows", rows == want.t.count ? 0 : 1, 0);
    verdict.add("positives", positives == want.t.positives ? 0 : 1, 0);
    if (rows == want.t.count && positives == want.t.positives) {
        std::vector<float> wanted(want.delta), got = delta.values();
        same_rows(&verdict, "boxes", box, want.box, rows, 4);
        same_rows(&verdict, "weights", weight, want.weight, rows, 1);
        same_rows(&verdict, "images", image, want.image, rows, 1);
        same_rows(&verdict, "labels", own, want.label, rows, 1);
        same_rows(&verdict, "levels", level, want.level, rows, 1);
        got.resize((size_t)rows * 4);
        wanted.resize((size_t)rows * 4);
        verdict.add("deltas", got, wanted, 1e-5);
        same_rows(&verdict, "masks", mask, want.mask, positives, 28 * 28);
        for (size_t k = 0; k < (size_t)positives; k++) {
            const size_t r = (size_t)want.row[k];
            const int32_t its = want.object[r] + s.first[(size_t)want.image[r]];
            verdict.add("rows of masks",
                        mask_image.values()[k] == want.image[r] &&
                                mask_level.values()[k] == want.level[r] &&
                                mask_label.values()[k] == want.label[r] &&
                                object.values()[k] == its &&
                                mask_box.values()[4 * k] == want.box[4 * r]
                            ? 0
                            : 1,
                        0);
        }
    }
    for (size_t i = (size_t)std::max<int64_t>(rows, 0); i < room; i++)
        verdict.add(
            "rows behind",
            own.values()[i] == -1 && weight.values()[i] == 0 && box.values()[4 * i] == 0 ? 0 : 1,
            0);
    for (size_t i = (size_t)std::max<int64_t>(positives, 0); i < most; i++)
        verdict.add("masks behind",
                    mask_label.values()[i] == -1 && mask.values()[i * 784 + 99] == 0 ? 0 : 1, 0);
    char title[160];
    snprintf(title, sizeof title,
             "targets of the heads, %s, %d of %d objects and %d proposals%s: %d, %d positive", name,
             (int)batch, objects, proposals, spread ? ", spread" : "", (int)rows, (int)positives);
    verdict.print(title);
}

static void check_all_box_targets(void)
{
    for (int order = 0; order < 3; order++) {
        gpu_order(order);
        check_box_targets("legacy", 7, 600, 64, order == 1);
        check_box_targets("detectron2", 11, 300, 128, order == 1);
        check_box_targets("torchvision", 4, 40, 64, order == 1);
    }
    gpu_order(0);
    check_box_targets("legacy", 7, 3, 256, false);
    check_box_targets("legacy", 0, 30, 16, false);
    check_box_targets("detectron2", 0, 0, 16, false);
}

/* Boxes on both sides of every change of level. */
static void check_levels(void)
{
    for (const char *name : {"legacy", "detectron2", "torchvision"}) {
        const struct mabn_box_convention *c;
        if (mabn_box_convention_find(&c, name)) abort();
        int wrong = 0;
        for (int k = 3; k <= 5; k++) {
            const float e = c->epsilon_inside ? (float)c->level_epsilon : 0;
            const float from = mabn_box_level_from(k, c);
            float side = 224 * (from - e);
            for (int i = 0; i < 40; i++)
                side = nextafterf(side, 0);
            for (int i = 0; i < 80; i++, side = nextafterf(side, 1e9f)) {
                const float box[4] = {0, 0, side - c->one, side - c->one};
                const float w = box[2] - box[0] + c->one;
                int32_t level;
                mabn_box_levels(&level, box, 1, 2, 5, c);
                wrong += (level >= k - 2) != (sqrtf(w * w) / 224.0f + e >= from);
            }
        }
        tap_ok(!wrong, "%s: levels by thresholds are those by logarithm", name);
    }
}

/* ---- detections ---- */

/* The box head's output for two images, of which some rows are not finite. On the executor, whose exp is
 * the CPU's, values lie on a grid, so that scores and overlaps tie. On a GPU probabilities differ by a
 * rounding: there no two of them are alike, and no decoded side depends on exp. */
struct heads {
    enum { CLASSES = 5, ROOM = 330 };
    std::vector<int32_t> count{310, 40};
    std::vector<float> proposal, logit, delta;
    std::vector<int> width{50, 90}, height{80, 40};
    int64_t rows = 0, groups;

    heads(const struct mabn_box_convention *c, bool one_box, bool odd, int few)
        : groups(one_box ? 1 : CLASSES + !c->background_last)
    {
        if (few >= 0) count = {few, 0};
        for (int32_t n : count)
            rows += n;
        proposal = random_boxes(IMAGES * ROOM, 41, 9);
        logit = gpu_random((size_t)(rows * (CLASSES + 1)) + 1, 42, MABN_DTYPE_F32, 0, 1.5);
        delta = gpu_random((size_t)(rows * groups * 4) + 1, 43, MABN_DTYPE_F32, 0, 1);
        for (float &v : delta)
            v = rintf(v) / 2;
#ifdef MABN_EXECUTOR
        for (float &v : logit)
            v = rintf(2 * v) / 2;
#else
        for (size_t i = 0; i < delta.size(); i++)
            if (i % 4 >= 2) delta[i] = 0;
#endif
        for (size_t i = 5; i + 1 < logit.size() && odd; i += 101)
            logit[i] = NAN;
        for (size_t i = 3; i + 1 < delta.size() && odd; i += 97)
            delta[i] = i % 2 ? INFINITY : NAN;
    }
};

#ifdef MABN_EXECUTOR
static const double GPU_EXP_ERROR = 0;
#else
static const double GPU_EXP_ERROR = 1e-6;
#endif

static void compare_detections(struct gpu_verdict *verdict, const struct mabn_detections &want,
                               int64_t room, int64_t image, const std::vector<float> &box,
                               const std::vector<float> &score, const std::vector<int32_t> &label,
                               const std::vector<int32_t> &source,
                               const std::vector<int32_t> &level,
                               const struct mabn_box_convention *c)
{
    const size_t n = (size_t)want.count, row = (size_t)(image * room);
    std::vector<int32_t> levels(n);
    std::vector<size_t> mine(n), its(n);
    mabn_box_levels(levels.data(), want.box, want.count, 2, 5, c);
    for (size_t i = 0; i < n; i++)
        mine[i] = its[i] = i;
#ifndef MABN_EXECUTOR /* neighbours in the order may have changed places */
    const auto by = [](const int32_t *label, const int32_t *source) {
        return [=](size_t i, size_t k) {
            return label[i] != label[k] ? label[i] < label[k] : source[i] < source[k];
        };
    };
    std::sort(mine.begin(), mine.end(), by(&label[row], &source[row]));
    std::sort(its.begin(), its.end(), by(want.label, want.source));
#endif
    for (size_t i = 0; i < n; i++) {
        const size_t k = row + mine[i], w = its[i];
        verdict->add("labels", label[k] == want.label[w] ? 0 : 1, 0);
        verdict->add("sources", source[k] == want.source[w] ? 0 : 1, 0);
        verdict->add("levels", level[k] == levels[w] ? 0 : 1, 0);
        verdict->add("scores", fabs(score[k] - want.score[w]), GPU_EXP_ERROR);
        for (size_t j = 0; j < 4; j++) {
            const float x = box[4 * k + j], y = want.box[4 * w + j];
            verdict->add("boxes", x != x && y != y ? 0 : fabs((double)x - y), 1e3 * GPU_EXP_ERROR);
        }
    }
    bool empty = true;
    for (size_t i = n; i < (size_t)room; i++)
        empty = empty && label[row + i] == -1 && box[4 * (row + i)] == 0 && level[row + i] == 0;
    verdict->add("rows behind", empty ? 0 : 1, 0);
}

struct detections_case {
    const char *name;
    double min_score, threshold;
    int64_t most, room;
    bool one_box, odd;
    int few; /* rows in all; -1: many */
};

static void check_detections(const struct detections_case &t)
{
    const struct mabn_box_convention *c;
    struct gpu_verdict verdict;
    if (mabn_box_convention_find(&c, t.name)) abort();
    const heads h(c, t.one_box, t.odd, t.few);
    struct mabn_detection_options o = mabn_detection_defaults(heads::CLASSES);
    o.min_score = t.min_score;
    o.threshold = t.threshold;
    o.most = t.most;
    o.one_box = t.one_box;
    const size_t room = IMAGES * heads::ROOM, all = (size_t)(IMAGES * t.room);
    const std::vector<float> f(4 * std::max(room, all), NAN);
    const std::vector<int32_t> n(std::max(room, all), -7);
    gpu_values<float> proposal(h.proposal), score(f), logit(h.logit), delta(h.delta);
    gpu_values<int32_t> proposals(h.count), image(n), level(n), first({-1, -1, -1});
    gpu_values<float> row(f), box(f), out_score(f);
    gpu_values<int32_t> label(n), source(n), out_image(n), out_level(n), count({-1, -1}), live(n);
    gpu_values<int> width(h.width), height(h.height);
    const struct mabn_cuda_proposals p = {heads::ROOM, proposal.at(), score.at(), proposals.at()};
    const struct mabn_cuda_box_scores s = {
        IMAGES,     heads::ROOM, {(int64_t)room, row.at(), image.at(), level.at(), first.at()},
        logit.at(), delta.at(),  width.at(),
        height.at()};
    const struct mabn_cuda_detections out = {t.room,         box.at(),    out_score.at(),
                                             label.at(),     source.at(), out_image.at(),
                                             out_level.at(), count.at(),  live.at()};
    gpu_bytes memory(mabn_cuda_detections_bytes(&s, &o));
    if (!mabn_cuda_detections_fit(IMAGES, heads::ROOM, &o, c) ||
        mabn_cuda_box_rows_fill(&s.rows, &p, IMAGES, c, NULL) ||
        mabn_cuda_detections_make(&out, &s, &o, c, memory.p, NULL))
        verdict.add(mabn_error_message(), 1, 0);
    int64_t at = 0, found = 0, over = 0;
    verdict.add("rows", first.values()[2] == h.rows && image.values()[room - 1] == 0 ? 0 : 1, 0);
    for (int64_t i = 0; i < IMAGES; i++) {
        const size_t k = (size_t)i;
        struct mabn_detections want = {};
        const struct mabn_box_scores its = {h.count[k],
                                            &h.proposal[4 * k * heads::ROOM],
                                            h.logit.data() + at * (heads::CLASSES + 1),
                                            h.delta.data() + at * 4 * h.groups,
                                            h.width[k],
                                            h.height[k]};
        if (mabn_detections_make(&want, &its, &o, c, &scratch)) abort();
        verdict.add("count", count.values()[k] == want.count ? 0 : 1, 0);
        over += want.count > t.room;
        if (want.count > t.room) want.count = t.room; /* the first of them */
        verdict.add("live", live.values()[k] == want.count ? 0 : 1, 0);
        compare_detections(&verdict, want, t.room, i, box.values(), out_score.values(),
                           label.values(), source.values(), out_level.values(), c);
        for (int64_t d = 0; d < want.count; d++)
            verdict.add("images", out_image.values()[k * (size_t)t.room + (size_t)d] == i ? 0 : 1,
                        0);
        at += h.count[k];
        found += want.count;
        mabn_detections_release(&want);
    }
    char title[160];
    snprintf(title, sizeof title,
             "detections, %s, above %g, suppressed at %g, the best %d%s%s: %d%s", t.name,
             t.min_score, t.threshold, (int)t.most, t.one_box ? ", one box" : "",
             t.odd ? ", some not finite" : "", (int)found, over ? ", more than fit" : "");
    verdict.print(title);
}

static void check_all_detections(void)
{
    int order = 0;
    for (const char *name : {"legacy", "detectron2", "torchvision"}) {
        gpu_order(order++);
        check_detections({name, 0.05, 0.5, 100, 300, false, false, -1});
        check_detections({name, 0.05, 0.5, 100, 300, false, true, -1});
        check_detections({name, 0.2, 0.3, 20, 400, true, false, -1});
        check_detections({name, 0.05, 0, 2000, 2000, false, false, -1});
        check_detections({name, 0.05, 0.5, 100, 100, false, false, 3});
        check_detections({name, 0.05, 0.5, 100, 100, false, false, 0});
        check_detections({name, 0.99, 0.5, 100, 100, false, false, -1});
    }
    gpu_order(0);
    check_detections({"legacy", 0.05, 0.5, 0, 1500, false, false, -1});
    check_detections({"legacy", 0.05, 0.5, 10, 10, false, false, -1}); /* more tie than fit */
    struct mabn_detection_options o = mabn_detection_defaults(80);
    const struct mabn_box_convention *c, *best_first;
    if (mabn_box_convention_find(&c, "legacy") ||
        mabn_box_convention_find(&best_first, "detectron2"))
        abort();
    tap_ok(mabn_cuda_detections_fit(2, 1000, &o, c), "a usual detector's fit");
    tap_ok(!mabn_cuda_detections_fit(1, MABN_CUDA_ORDER_MOST + 1, &o, c),
           "too many proposals do not");
    tap_ok(!mabn_cuda_detections_fit(1000, 10, &o, c), "nor do too many images");
    o.most = 0;
    tap_ok(mabn_cuda_detections_fit(2, 1000, &o, c) &&
               !mabn_cuda_detections_fit(2, 1000, &o, best_first),
           "all of them, best first, do not fit");
    o.across = true;
    tap_ok(!mabn_cuda_detections_fit(2, 1000, &o, c), "nor does suppression across classes");
}

/* ---- pasting ---- */

/* Soft blobs in boxes that are inside, over the edges, outside, empty, and not finite. */
static void check_paste(const char *name, int width, int height, int side)
{
    enum { N = 40 };
    const struct mabn_box_convention *c;
    struct gpu_verdict verdict;
    const size_t pixels = (size_t)(side * side);
    std::vector<float> box(4 * N), map = gpu_random(N * pixels, 61, MABN_DTYPE_F32, 0.5, 0.4);
    const std::vector<float> r = gpu_random(4 * N, 62, MABN_DTYPE_F32, 0.5, 0.5);
    if (mabn_box_convention_find(&c, name)) abort();
    for (size_t i = 0; i < N; i++) {
        for (size_t k = 0; k < 2; k++) {
            const float size = (float)(k ? height : width);
            box[4 * i + k] = r[4 * i + k] * size - 3;
            box[4 * i + 2 + k] = box[4 * i + k] + fabsf(r[4 * i + 2 + k]) * size;
        }
        for (size_t k = 0; k < pixels && i % 4 == 1; k++)
            map[i * pixels + k] = k % 3 ? 1.0f : 0.5f;
    }
    for (size_t k = 0; k < 4; k++) { /* the whole picture, full */
        box[k] = k < 2 ? -1e3f : 1e4f;
        box[4 + k] = 5;
    }
    for (size_t k = 0; k < pixels; k++)
        map[k] = 1;
    box[8] = NAN;
    box[13] = INFINITY;
    gpu_values<float> gpu_map(map), gpu_box(box);
    gpu_values<int32_t> count(std::vector<int32_t>(N, -1));
    const struct mabn_cuda_paste p = {gpu_map.at(), gpu_box.at(), N, side, width, height};
    if (mabn_cuda_paste_count(count.at(), &p, c, NULL)) verdict.add(mabn_error_message(), 1, 0);
    std::vector<int64_t> first;
    int64_t all = 0;
    for (int32_t n : count.values()) {
        first.push_back(all);
        all += n;
    }
    gpu_values<int64_t> gpu_first(first);
    gpu_values<uint32_t> place(std::vector<uint32_t>((size_t)all + 1, 7));
    if (mabn_cuda_paste_places(place.at(), gpu_first.at(), &p, c, NULL))
        verdict.add(mabn_error_message(), 1, 0);
    const std::vector<uint32_t> got = place.values();
    int64_t area = 0;
    for (size_t i = 0; i < N; i++) {
        struct mabn_rle want;
        std::vector<uint32_t> places;
        uint32_t at = 0;
        mabn_rle_init(&want);
        if (mabn_paste(&want, &map[i * pixels], side, &box[4 * i], width, height, c, &scratch))
            abort();
        area += (int64_t)mabn_rle_area(&want);
        for (size_t k = 0; k + 1 < want.count; k++)
            places.push_back(at += want.counts[k]);
        const size_t n = (size_t)count.values()[i];
        verdict.add("changes",
                    places.size() == n &&
                            std::equal(places.begin(), places.end(), got.begin() + first[i])
                        ? 0
                        : 1,
                    0);
        mabn_rle_release(&want);
    }
    verdict.add("behind", got[(size_t)all] == 7 ? 0 : 1, 0);
    char title[100];
    snprintf(title, sizeof title, "pasting, %s, maps of %d in %dx%d: %d changes, %d pixels", name,
             side, width, height, (int)all, (int)area);
    verdict.print(title);
}

static void check_select(void)
{
    const std::vector<float> all = gpu_random(3 * 4 * 5, 63, MABN_DTYPE_F32, 0, 1);
    gpu_values<float> gpu_all(all), logit(std::vector<float>(12, NAN));
    gpu_values<int32_t> label({5, 1, 3});
    std::vector<float> want;
    struct gpu_verdict verdict;
    for (size_t i = 0; i < 12; i++)
        want.push_back(all[i * 5 + (size_t)label.values()[i / 4] - 1]);
    if (mabn_cuda_paste_select(logit.at(), gpu_all.at(), label.at(), 1, 3, 4, 5, NULL))
        verdict.add(mabn_error_message(), 1, 0);
    verdict.add("logits", logit.values(), want, 0);
    /* A row that is none, and masks of all classes in one. */
    gpu_values<int32_t> none({-1, 6, 0});
    if (mabn_cuda_paste_select(logit.at(), gpu_all.at(), none.at(), 1, 3, 4, 5, NULL))
        verdict.add(mabn_error_message(), 1, 0);
    verdict.add("no logits", logit.values(), std::vector<float>(12, 0), 0);
    if (mabn_cuda_paste_select(logit.at(), gpu_all.at(), none.at(), 1, 3, 4, 1, NULL))
        verdict.add(mabn_error_message(), 1, 0);
    verdict.add("the only ones", logit.values(), std::vector<float>(all.begin(), all.begin() + 12),
                0);
    verdict.print("the channels of detections");
}

int main(void)
{
    if (!gpu_ready()) return tap_done();
    for (int order = 0; order < 3; order++) {
        gpu_order(order);
        check_order(700, 40, false);
        check_order(700, 300, true);
    }
    check_order(5, 9, true);
    check_order(5000, 4096, true);
    check_order(1, 1, false);
    for (int64_t n : {1, 63, 64, 65, 300}) {
        check_nms(n, n, 0.5, 0, -1);
        check_nms(n, 20, 0.7, 1, -1);
        check_nms(n, n, 0.3, 1, (int)n / 2);
    }
    check_nms(70, 10, 0, 1, -1);
    check_nms(70, 70, 0.5, 1, 0);
    for (int order = 0; order < 3; order++) {
        gpu_order(order);
        check_nms(200, 200, 0.5, 1, -1);
    }
    check_anchors("legacy");
    check_anchors("detectron2");
    check_anchors("torchvision");
    check_decode(false);
    check_decode(true);
    check_all_proposals();
    check_all_targets();
    check_all_box_targets();
    check_levels();
    check_all_detections();
    for (const char *name : {"legacy", "detectron2"}) {
        check_paste(name, 90, 70, 28);
        check_paste(name, 33, 300, 5);
    }
    check_select();
    tap_fails(mabn_cuda_order_best(NULL, NULL, 10000, MABN_CUDA_ORDER_MOST + 1, NULL, NULL),
              MABN_ERR_LIMIT, "the best", "more than one block sorts");
    tap_fails(
        mabn_cuda_nms_sorted(NULL, NULL, NULL, NULL, MABN_CUDA_NMS_MOST + 1, 1, 0.5, 1, NULL, NULL),
        MABN_ERR_LIMIT, "suppression", "more than one block walks");
    mabn_scratch_release(&scratch);
    return tap_done();
}
