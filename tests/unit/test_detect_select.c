/* Matching, sampling and suppression. */
#include "tap.h"

#include <stdlib.h>

#include "base/rng.h"
#include "detect/boxes.h"
#include "detect/match.h"
#include "detect/nms.h"
#include "detect/sample.h"

static struct mabn_scratch scratch;

static void test_match(void)
{
    /* Rows are objects. Box 0 is best for both; box 3 ties with box 4 for object 1. */
    static const float iou[2 * 6] = {0.8f, 0.29f, 0.3f, 0.5f, 0.4f, 0.1f,
                                     0.8f, 0.1f,  0.2f, 0.9f, 0.9f, 0.0f};
    static const int32_t plain[6] = {0, -1, -2, 1, 1, -1};
    const struct mabn_matcher rpn = {0.7f, 0.3f, true}, strict = {0.95f, 0.3f, false};
    struct mabn_matcher rescue = {0.95f, 0.3f, true};
    int32_t match[6];
    tap_status(mabn_match_matrix(match, iou, 2, 6, &rpn, &scratch), "match");
    tap_ok(!memcmp(match, plain, sizeof plain), "thresholds; the lowest of equal objects");
    tap_status(mabn_match_matrix(match, iou, 2, 6, &strict, &scratch), "a high threshold");
    tap_ok(match[0] == -2 && match[3] == -2, "nothing is good enough");
    tap_status(mabn_match_matrix(match, iou, 2, 6, &rescue, &scratch), "with rescue");
    tap_ok(match[0] == 0 && match[3] == 1 && match[4] == 1 && match[2] == -2,
           "the best of each object are rescued, ties too");
    tap_status(mabn_match_matrix(match, iou, 0, 6, &rpn, &scratch), "no objects");
    tap_ok(match[0] == -1 && match[5] == -1, "all is background");
    tap_status(mabn_match_matrix(match, iou, 2, 0, &rpn, &scratch), "no boxes");
}

/* A box that is the best for object 1 but overlaps object 0 more stays with object 0. */
static void test_rescue_keeps_own(void)
{
    static const float iou[2 * 2] = {0.6f, 0.9f, 0.4f, 0.1f};
    const struct mabn_matcher m = {0.7f, 0.3f, true};
    int32_t match[2];
    tap_status(mabn_match_matrix(match, iou, 2, 2, &m, &scratch), "match");
    tap_ok(match[0] == 0, "rescued by object 1, keeps object 0");
    static const float apart[2 * 2] = {0.9f, 0.1f, 0, 0};
    tap_status(mabn_match_matrix(match, apart, 2, 2, &m, &scratch), "an object nothing touches");
    tap_ok(match[0] == 0 && match[1] == 0, "rescues all that do not touch it");
}

static void test_spread(void)
{
    int32_t label[14], index[14];
    int64_t count, positives;
    struct mabn_sampler s = {6, 0.5, true};
    const struct mabn_sample_key key = {0, 0, 0, MABN_SAMPLE_RPN};
    for (int i = 0; i < 14; i++)
        label[i] = i % 4 == 0 ? 0 : i % 4 == 1 ? -1 : 1;
    label[13] = -1;
    /* positives 2 3 6 7 10 11: j·6/3 = 0, 2, 4 → 2, 6, 10; negatives 0 4 8 12: 0, 1, 2 → 0 4 8 */
    tap_status(mabn_sample(index, &count, &positives, label, 14, &s, &key, &scratch), "spread");
    static const int32_t three[] = {0, 2, 4, 6, 8, 10};
    tap_ok(count == 6 && positives == 3 && !memcmp(index, three, sizeof three), "evenly");
    s.fraction = 0.4; /* trunc(2.4) = 2 positives: 0, 3 → 2, 7; negatives all four */
    tap_status(mabn_sample(index, &count, &positives, label, 14, &s, &key, &scratch), "spread");
    static const int32_t two[] = {0, 2, 4, 7, 8, 12};
    tap_ok(count == 6 && positives == 2 && !memcmp(index, two, sizeof two), "the fraction");
    s.batch = 100;
    tap_status(mabn_sample(index, &count, &positives, label, 14, &s, &key, &scratch), "all");
    tap_ok(count == 10 && positives == 6, "a batch larger than there is");
    tap_status(mabn_sample(index, &count, &positives, label, 0, &s, &key, &scratch), "none");
    tap_ok(count == 0, "nothing to sample");
}

static void test_random(void)
{
    enum { N = 50, TRIES = 2000 };
    const struct mabn_sampler s = {20, 0.25, false};
    int32_t label[N], index[20], again[20];
    int64_t count, positives;
    int seen[N] = {0}, bad = 0;
    for (int i = 0; i < N; i++)
        label[i] = i < 10 ? 3 : 0;
    for (uint64_t t = 0; t < TRIES; t++) {
        const struct mabn_sample_key key = {7, t, 3, MABN_SAMPLE_BOXES};
        if (mabn_sample(index, &count, &positives, label, N, &s, &key, &scratch)) bad++;
        bad += count != 20 || positives != 5;
        for (int k = 0; k < 20; k++) {
            seen[index[k]]++;
            bad += k > 0 && index[k] <= index[k - 1];
        }
    }
    tap_ok(bad == 0, "5 of 10 and 15 of 40, ascending, none twice");
    int least = TRIES, most = 0, least_n = TRIES, most_n = 0;
    for (int i = 0; i < 10; i++) {
        least = seen[i] < least ? seen[i] : least;
        most = seen[i] > most ? seen[i] : most;
    }
    for (int i = 10; i < N; i++) {
        least_n = seen[i] < least_n ? seen[i] : least_n;
        most_n = seen[i] > most_n ? seen[i] : most_n;
    }
    tap_ok(least > 880 && most < 1120, "positives equally often: %d to %d of 1000", least, most);
    tap_ok(least_n > 650 && most_n < 850, "negatives too: %d to %d of 750", least_n, most_n);
    const struct mabn_sample_key key = {7, 9, 3, MABN_SAMPLE_BOXES};
    struct mabn_sample_key other = key;
    other.stage = MABN_SAMPLE_RPN;
    tap_ok(!mabn_sample(index, &count, &positives, label, N, &s, &key, &scratch) &&
               !mabn_sample(again, &count, &positives, label, N, &s, &key, &scratch) &&
               !memcmp(index, again, sizeof index),
           "the same key, the same sample");
    tap_ok(!mabn_sample(again, &count, &positives, label, N, &s, &other, &scratch) &&
               memcmp(index, again, sizeof index),
           "another stage, another sample");
}

/* Greedy suppression by its definition, over all pairs. */
static int64_t nms_plain(int32_t *keep, const float *box, int64_t n, float threshold, float one)
{
    char *gone = calloc((size_t)n + 1, 1);
    int64_t kept = 0;
    for (int64_t i = 0; i < n; i++) {
        if (gone[i]) continue;
        keep[kept++] = (int32_t)i;
        for (int64_t j = i + 1; j < n; j++) {
            float iou;
            mabn_box_iou_row(&iou, box + 4 * i, box + 4 * j, 1, one);
            if (iou > threshold) gone[j] = 1;
        }
    }
    free(gone);
    return kept;
}

static void test_nms_plain(float spread, float one, float threshold)
{
    enum { N = 900 };
    float *box = malloc(N * 16), *room = malloc(MABN_NMS_ROOM(N) * 4);
    int32_t want[N], got[N];
    struct mabn_rng rng;
    mabn_rng_init(&rng, 5, MABN_RNG_TEST, 0, 0);
    for (int i = 0; i < N; i++) {
        box[4 * i] = (float)mabn_rng_range(&rng, 0, (double)spread);
        box[4 * i + 1] = (float)mabn_rng_range(&rng, 0, (double)spread);
        box[4 * i + 2] = box[4 * i] + (float)mabn_rng_below(&rng, 60);
        box[4 * i + 3] = box[4 * i + 1] + (float)mabn_rng_below(&rng, 60);
    }
    box[40] = NAN;
    box[82] = INFINITY;
    box[120] = 50; /* turned inside out */
    box[122] = 10;
    const int64_t n = nms_plain(want, box, N, threshold, one);
    tap_ok(mabn_nms_sorted(got, box, N, N, threshold, one, room) == n &&
               !memcmp(got, want, (size_t)n * 4),
           "%lld of %d stay, spread over %g", (long long)n, N, (double)spread);
    tap_ok(mabn_nms_sorted(got, box, N, n / 2, threshold, one, room) == n / 2 &&
               !memcmp(got, want, (size_t)(n / 2) * 4),
           "the best half of them");
    free(box);
    free(room);
}

static void test_nms_edges(void)
{
    /* IoU of the first two is 1/2 exactly (legacy): 10×10 and its 10×5 half. */
    static const float box[12] = {0, 0, 9, 9, 0, 0, 9, 4, 0, 0, 9, 9};
    static const float score[3] = {0.5f, 0.9f, 0.5f};
    int32_t keep[3];
    int64_t n;
    tap_status(mabn_nms(keep, &n, box, score, 3, 3, 0.5f, 1, true, &scratch), "nms");
    tap_ok(n == 2 && keep[0] == 0 && keep[1] == 1, "exactly the threshold stays; ascending");
    tap_status(mabn_nms(keep, &n, box, score, 3, 1, 0.5f, 1, true, &scratch), "nms, capped");
    tap_ok(n == 1 && keep[0] == 0, "the cap takes the first index, not the best score");
    tap_status(mabn_nms(keep, &n, box, score, 3, 3, 0.49f, 1, false, &scratch), "nms");
    tap_ok(n == 1 && keep[0] == 1, "best first");
    tap_status(mabn_nms(keep, &n, box, score, 3, 1, 0, 1, true, &scratch), "no threshold");
    tap_ok(n == 3, "all stay, whatever the cap");
    tap_status(mabn_nms(keep, &n, box, score, 0, 1, 0.5f, 1, true, &scratch), "no boxes");
    tap_ok(n == 0, "none");
    float moved[4];
    mabn_nms_shift(moved, box, 1, 3, 99);
    tap_ok(moved[0] == 300 && moved[2] == 309, "moved by group");
}

int main(void)
{
    test_match();
    test_rescue_keeps_own();
    test_spread();
    test_random();
    test_nms_plain(40, 1, 0.7f);
    test_nms_plain(300, 1, 0.5f);
    test_nms_plain(2000, 0, 0.7f);
    test_nms_edges();
    mabn_scratch_release(&scratch);
    return tap_done();
}
