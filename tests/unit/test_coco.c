/* Reading annotations, and how scores depend on weights, threads and special cases. Whole files are
 * compared with pycocotools in tests/cli/mabn-score.bats. */
#include "tap.h"

#include "base/log.h"
#include "base/str.h"
#include "coco/join.c" /* reaches the table of ids */
#include "coco/report.h"
#include "coco/score.h"

enum { ALL = MABN_COCO_KEEP_SEGMENTATIONS | MABN_COCO_KEEP_KEYPOINTS };

static mabn_status read_text(struct mabn_coco *out, const char *text, bool results)
{
    return mabn_coco_read_bytes(out, text, strlen(text), results, ALL);
}

static const char truth_text[] =
    "{\"info\": {\"year\": [1, {\"x\": null}]},"
    " \"annotations\": ["
    "  {\"id\": 1, \"image_id\": 5, \"category_id\": 2, \"bbox\": [0, 0, 10, 10], \"area\": 100, "
    "\"iscrowd\": 0, \"segmentation\": [[0, 0, 10, 10]]},"
    "  {\"id\": 2, \"image_id\": 6, \"category_id\": 2, \"bbox\": [20, 20, 10, 10], \"area\": "
    "100.5, "
    "\"iscrowd\": true, \"segmentation\": {\"counts\": [5, 3], \"size\": [40, 50]}},"
    "  {\"id\": 3, \"image_id\": 6, \"category_id\": 2, \"bbox\": [5, 5, 30, 30], "
    "\"segmentation\": "
    "null},"
    "  {\"id\": 4, \"image_id\": 7, \"category_id\": 2, \"bbox\": [1, 1, 20, 20], \"area\": 400, "
    "\"ignore\": 1, \"segmentation\": []}],"
    " \"images\": [{\"id\": 5, \"height\": 40, \"width\": 50, \"file_name\": \"a.jpg\"}, {\"id\": "
    "6}, "
    "{\"id\": 7}, {\"id\": 8}],"
    " \"categories\": [{\"id\": 2, \"name\": \"d\\u00f6g\"}, {\"id\": 9}]}";

static const char results_text[] =
    "[{\"image_id\": 5, \"category_id\": 2, \"bbox\": [0, 0, 10, 10], \"score\": 0.9},"
    " {\"image_id\": 6, \"category_id\": 2, \"bbox\": [5, 5, 30, 29], \"score\": 0.8},"
    " {\"image_id\": 6, \"category_id\": 2, \"bbox\": [20, 20, 10, 10], \"score\": 0.7},"
    " {\"image_id\": 7, \"category_id\": 2, \"bbox\": [25, 25, 10, 10], \"score\": 0.95},"
    " {\"image_id\": 8, \"category_id\": 2, \"bbox\": [25, 25, 10, 10], \"score\": 0.2}]";

static void test_reading(void)
{
    struct mabn_coco c;
    struct mabn_rle mask;
    mabn_rle_init(&mask);
    tap_status(read_text(&c, truth_text, false), "annotations before images");
    tap_ok(c.n_images == 4 && c.images[0].height == 40 && c.images[1].width == 0, "images");
    tap_str_eq(c.images[0].file_name, "a.jpg", "file name");
    tap_str_eq(c.categories[0].name, "d\xc3\xb6g", "category");
    tap_ok(!c.categories[1].name, "a category without a name");
    tap_ok(c.n_records == 4 && c.records[1].crowd && !c.records[0].crowd, "crowd as boolean");
    tap_ok(!c.records[2].has_area && c.records[1].area == 100.5, "area, or none");
    tap_ok(c.records[3].ignore, "ignore");
    tap_fails(mabn_coco_mask(&mask, &c, &c.records[0], 40, 50), MABN_ERR_FORMAT,
              "annotation 1 (image 5): a polygon of 4 numbers", "four numbers are no polygon");
    tap_status(mabn_coco_mask(&mask, &c, &c.records[1], 0, 0),
               "run lengths have a size of their own");
    tap_ok(mask.height == 40 && mabn_rle_area(&mask) == 3, "3 pixels");
    tap_status(mabn_coco_mask(&mask, &c, &c.records[2], 40, 50), "no segmentation: the box");
    tap_ok(mabn_rle_area(&mask) == 900, "900 pixels");
    tap_ok(c.records[3].segmentation.kind == MABN_SEGMENTATION_NONE, "an empty list is none");
    mabn_rle_release(&mask);
    mabn_coco_release(&c);
}

/* A segmentation that cannot be used is kept with the reason; it is an error only where it is
 * needed. */
static void test_odd_fields(void)
{
    static const struct {
        const char *value, *message;
    } cases[] = {
        {"5", "\"segmentation\" is a number, not polygons or a mask"},
        {"\"\"", "is a string"},
        {"[1, 2, 3, 4, 5, 6]", "not a list of polygons"},
        {"[[1, \"2\", 3, 4, 5, 6]]", "not a finite number"},
        {"[[1, 1e999, 3, 4, 5, 6]]", "not a finite number"},
        {"[[1, 2, 3, 4]]", "a polygon of 4 numbers"},
        {"[[1, 2, 3, 4, 5, 6], []]", "a polygon of 0 numbers"},
        {"[[1, 2, 3, 4, 5, 6, 7]]", "a polygon of 7 numbers"},
        {"{\"counts\": [1]}", "\"size\""},
        {"{\"size\": [1, 2]}", "expected \"counts\""},
        {"{\"size\": [1, 2], \"counts\": [-1]}", "expected counts in [0, 2^32)"},
        {"{\"size\": [1, 2], \"counts\": [0.5]}", "expected counts in [0, 2^32)"},
        {"{\"size\": [65536, 65536], \"counts\": \"\"}", "bad mask size [65536, 65536]"},
        {"{\"size\": null, \"counts\": \"\"}", "expected \"size\": [height, width]"},
    };
    struct mabn_rle mask;
    mabn_rle_init(&mask);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct mabn_coco c;
        char text[400];
        snprintf(
            text, sizeof text,
            "{\"images\": [{\"id\": 1, \"height\": -1, \"width\": null}, {\"id\": \"x\", "
            "\"height\": 2147483648}], \"categories\": [], \"annotations\": [{\"id\": "
            "%s, \"image_id\": \"x\", \"category_id\": 1, \"bbox\": [1, 2], \"keypoints\": [1, 2], "
            "\"num_keypoints\": \"none\", \"segmentation\": %s}]}",
            i % 3 == 0   ? "\"a\""
            : i % 3 == 1 ? "null"
                         : "1237940039285380274899124225",
            cases[i].value);
        tap_status(read_text(&c, text, false), "%s is read", cases[i].value);
        tap_ok(c.images[0].unsized && c.images[1].unsized && !c.images[0].height, "no sizes");
        tap_ok(c.records[0].odd_box && c.records[0].odd_keypoints && c.records[0].odd_id &&
                   !c.records[0].has_box && c.records[0].no_id == (i % 3 == 1),
               "box, keypoints and id are odd");
        tap_fails(mabn_coco_mask(&mask, &c, &c.records[0], 40, 50), MABN_ERR_FORMAT,
                  cases[i].message, "and refused as a mask");
        tap_fails(mabn_coco_mask(&mask, &c, &c.records[0], 40, 50), MABN_ERR_FORMAT,
                  "annotation [0] (image x): ", "by its place");
        mabn_coco_release(&c);
    }
    mabn_rle_release(&mask);
}

static void test_refusals(void)
{
    static const struct {
        const char *text, *message;
        bool results;
    } cases[] = {
        {"{\"images\": [{\"id\": null}]}",
         "images[0].id: expected a number or a string, found null", false},
        {"{\"images\": [{\"id\": \"a\"}, {\"id\": \"a\"}], \"categories\": []}",
         "two images have the id a", false},
        {"{\"images\": [{\"id\": 3, \"file_name\": \"x\"}, {\"id\": 1}, {\"id\": 3}], "
         "\"categories\": []}",
         "two images have the id 3: 'x' (line 1) and '' (line 1)", false},
        {"{\"images\": [], \"categories\": [{\"id\": 1, \"name\": \"a\"}, {\"id\": 1}]}",
         "two categories have the id 1", false},
        {"{}", "no \"images\": is this a COCO annotation file?", false},
        {"{\"images\": [{}]}", "images[0]: no \"id\"", false},
        {"{\"images\": [], \"images\": []}", "a second list", false},
        {"{\"annotations\": [{\"id\": 1, \"image_id\": 2}]}", "no \"category_id\"", false},
        {"[{\"image_id\": 1, \"score\": 1e999}]", "too large", true},
        {"[{\"image_id\": 1, \"category_id\": 1, \"score\": 1}]", "no \"bbox\", \"segmentation\"",
         true},
        {"[{\"image_id\": 1, \"category_id\": 1, \"score\": null, \"bbox\": [1, 2, 3, 4]}]",
         "[0].score: expected a number, found null", true},
        {"[5]", "[0]: expected an object, found a number", true},
        {"[{\"image_id\": true}]", "expected a number or a string, found true or false", true},
        {"[] 5", "expected an array, found a number", true},
        {"[] {}", "found an object without \"image_id\"", true},
        {"{\"results\": [], \"results\": []}", "a second list of results", true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct mabn_coco c;
        tap_fails(read_text(&c, cases[i].text, cases[i].results), MABN_ERR_FORMAT, cases[i].message,
                  "refused: %s", cases[i].message);
    }
}

static void test_scores(void)
{
    struct mabn_coco truth, results, none;
    struct mabn_coco_params p;
    struct mabn_coco_evaluation *e, *empty;
    struct mabn_coco_score s, t;
    if (read_text(&truth, truth_text, false) || read_text(&results, results_text, true)) return;
    tap_status(read_text(&none, "[]", true), "no results");
    mabn_coco_params_init(&p, MABN_COCO_BBOX);
    p.threads = 2;
    tap_status(mabn_coco_evaluate(&e, &truth, &results, &p), "boxes");
    tap_status(mabn_coco_accumulate(&s, e, NULL), "scored");
    /* By score: false (.95), true (.9), true up to .95 (.8: 29/30), crowd (.7), false (.2); three
     * ground truths, one of which is missed. */
    tap_close(mabn_coco_mean_precision(&s, 0, 0.5, 0, 2), 67.0 / 101 * 2 / 3, 1e-15, "AP50");
    tap_close(s.stats[8], 2.0 / 3, 1e-15, "AR100");
    tap_ok(s.truths[0] == 3 && s.n_categories == 2, "three truths count, the crowd does not");
    tap_ok(mabn_coco_mean_precision(&s, 1, -1, 0, 2) == -1, "nothing to say of a category");

    uint32_t twice[4] = {2, 2, 2, 2}, without[4] = {1, 1, 0, 1};
    tap_status(mabn_coco_accumulate(&t, e, twice), "every image twice");
    int same = 0;
    for (int i = 0; i < 12; i++)
        same += fabs(t.stats[i] - s.stats[i]) < 1e-12;
    tap_ok(same == 12, "changes nothing");
    mabn_coco_score_release(&t);
    tap_status(mabn_coco_accumulate(&t, e, without), "without an image");
    struct mabn_coco_params few = p;
    struct mabn_coco_evaluation *subset;
    struct mabn_coco_score u;
    int64_t ids[] = {8, 5, 6};
    few.images = ids;
    few.n_images = 3;
    tap_status(mabn_coco_evaluate(&subset, &truth, &results, &few), "three of the images");
    tap_status(mabn_coco_accumulate(&u, subset, NULL), "scored");
    same = 0;
    for (int i = 0; i < 12; i++)
        same += fabs(t.stats[i] - u.stats[i]) < 1e-15;
    tap_ok(same == 12, "weight 0 leaves an image out");
    mabn_coco_score_release(&t);
    mabn_coco_score_release(&u);
    mabn_coco_evaluation_free(subset);

    struct mabn_coco_interval a[MABN_COCO_STATS], b[MABN_COCO_STATS];
    tap_status(mabn_coco_evaluate(&empty, &truth, &none, &p), "no results are judged too");
    tap_status(mabn_coco_bootstrap(a, empty, e, 50, 0.9, 7, 1), "bootstrap");
    tap_status(mabn_coco_bootstrap(b, empty, e, 50, 0.9, 7, 3), "on three threads");
    tap_ok(a[0].low == b[0].low && a[0].high == b[0].high && a[0].low <= s.stats[0] &&
               a[0].high >= s.stats[0] && a[0].above > 0.5,
           "the same: %g .. %g", a[0].low, a[0].high);
    mabn_coco_evaluation_free(empty);
    mabn_coco_score_release(&s);
    mabn_coco_evaluation_free(e);

    p.fix_quirks = true;
    tap_status(mabn_coco_evaluate(&e, &truth, &results, &p), "with the quirks mended");
    tap_status(mabn_coco_accumulate(&s, e, NULL), "scored");
    tap_ok(s.truths[0] == 2, "\"ignore\" is heeded");
    mabn_coco_score_release(&s);
    mabn_coco_evaluation_free(e);
    p.thresholds[0] = 0;
    tap_fails(mabn_coco_evaluate(&e, &truth, &results, &p), MABN_ERR_ARG, "not in (0, 1]",
              "a threshold of 0");
    mabn_coco_release(&truth);
    mabn_coco_release(&results);
    mabn_coco_release(&none);
}

/* A detection halfway between two ground truths matches the later one. A second detection then
 * finds the earlier one free and the later one taken. */
static void test_ties(void)
{
    static const char tied[] =
        "{\"images\": [{\"id\": 1}], \"categories\": [{\"id\": 1}], \"annotations\": ["
        "{\"id\": 1, \"image_id\": 1, \"category_id\": 1, \"bbox\": [0, 0, 10, 10], \"area\": 100},"
        "{\"id\": 2, \"image_id\": 1, \"category_id\": 1, \"bbox\": [10, 0, 10, 10], \"area\": "
        "100}]}";
    for (int later = 0; later < 2; later++) {
        struct mabn_coco truth, results;
        struct mabn_coco_params p;
        struct mabn_coco_evaluation *e;
        struct mabn_coco_score s;
        char text[300];
        snprintf(
            text, sizeof text,
            "[{\"image_id\": 1, \"category_id\": 1, \"bbox\": [5, 0, 10, 10], \"score\": 0.9},"
            " {\"image_id\": 1, \"category_id\": 1, \"bbox\": [%d, 0, 10, 10], \"score\": 0.8}]",
            later ? 10 : 0);
        mabn_coco_params_init(&p, MABN_COCO_BBOX);
        p.thresholds[0] = 0.3;
        p.n_thresholds = 1;
        if (read_text(&truth, tied, false) || read_text(&results, text, true)) return;
        if (mabn_coco_evaluate(&e, &truth, &results, &p) || mabn_coco_accumulate(&s, e, NULL))
            return;
        tap_close(s.stats[8], later ? 0.5 : 1, 0, "of two equal overlaps the later counts (%d)",
                  later);
        mabn_coco_score_release(&s);
        mabn_coco_evaluation_free(e);
        mabn_coco_release(&truth);
        mabn_coco_release(&results);
    }
}

/* Slots visited when every key is looked up once, and those of the longest search. */
static size_t count_probes(const int64_t *keys, size_t n, size_t *longest)
{
    struct id_table t;
    size_t all = 0;
    *longest = 0;
    table_init(&t, n);
    for (size_t i = 0; i < n; i++)
        *table_slot(&t, keys[i]) = (uint32_t)i;
    for (size_t i = 0; i < n; i++) {
        if (table_find(&t, keys[i]) != i) return SIZE_MAX;
        size_t home = (size_t)mabn_hash_i64(keys[i]) & t.mask;
        size_t steps = ((table_place(&t, keys[i]) - home) & t.mask) + 1;
        all += steps;
        *longest = steps > *longest ? steps : *longest;
    }
    table_release(&t);
    return all;
}

/* Ids chosen so that a fixed multiplier would send them all to one slot take no longer. */
static void test_colliding_ids(void)
{
    enum { N = 20000 };
    int64_t *keys = mabn_xmalloc(N * sizeof *keys);
    const uint64_t multiplier = 0x9e3779b97f4a7c15u;
    uint64_t inverse = multiplier; /* modulo 2^64, by Newton's method */
    for (int i = 0; i < 6; i++)
        inverse *= 2 - multiplier * inverse;
    static const char *const names[] = {"in a row", "by 2^32", "against a multiplication"};
    for (int kind = 0; kind < 3; kind++) {
        size_t longest;
        for (uint64_t i = 0; i < N; i++) {
            /* h ^ h >> 32 has equal low bits for h = i << 32 | i */
            uint64_t key = kind == 0 ? i : kind == 1 ? i << 32 : (i << 32 | i) * inverse;
            keys[i] = (int64_t)key;
        }
        size_t all = count_probes(keys, N, &longest);
        tap_ok(all < 2 * N && longest < 100, "ids %s: %zu places for %d, at most %zu", names[kind],
               all, N, longest);
    }
    free(keys);
}

int main(void)
{
    mabn_log_set_level(MABN_LOG_QUIET);
    test_reading();
    test_odd_fields();
    test_refusals();
    test_scores();
    test_ties();
    test_colliding_ids();
    return tap_done();
}
