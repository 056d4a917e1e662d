/* Annotation and results files through reading and scoring: an input is annotations, a zero byte,
 * results. What is read is scored for every type, by one thread and by two, with the same outcome;
 * its errors are told apart, LVIS's rules tried, and the annotations looked at for faults. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "coco/confusion.h"
#include "coco/errors.h"
#include "coco/inspect.h"
#include "coco/report.h"
#include "coco/score.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static mabn_status score(const struct mabn_coco *truth, const struct mabn_coco *results,
                         enum mabn_coco_type type, unsigned how, int threads, struct mabn_str *out)
{
    struct mabn_coco_params p;
    struct mabn_coco_evaluation *e;
    struct mabn_coco_score s;
    mabn_coco_params_init(&p, type);
    p.threads = threads;
    p.class_agnostic = how & 1;
    p.fix_quirks = how & 2;
    p.quiet = true;
    p.boundary = how & 2;
    if (how & 4) mabn_coco_params_lvis(&p);
    MABN_TRY(mabn_coco_evaluate(&e, truth, results, &p));
    mabn_status status = mabn_coco_accumulate(&s, e, NULL);
    mabn_coco_evaluation_free(e);
    if (status) return status;
    for (int i = 0; i < s.n_stats; i++)
        if (!(s.stats[i] == -1 || (s.stats[i] >= 0 && s.stats[i] <= 1))) abort();
    mabn_coco_report_lines(out, &s);
    if (s.n_categories < 50) {
        struct mabn_json_writer w;
        mabn_json_writer_init_spaced(&w, out);
        mabn_json_put_object(&w, NULL);
        mabn_coco_report_json(&w, &s, false);
        mabn_json_put_end(&w);
    }
    mabn_coco_score_release(&s);
    return MABN_OK;
}

static void explain(const struct mabn_coco *truth, const struct mabn_coco *results,
                    enum mabn_coco_type type)
{
    struct mabn_coco_params p;
    struct mabn_coco_errors errors;
    struct mabn_coco_confusion confusion;
    mabn_coco_params_init(&p, type);
    p.threads = 1;
    if (!mabn_coco_find_errors(&errors, truth, results, &p, 0.5))
        for (int i = 0; i < MABN_COCO_ERRORS; i++)
            if (!(errors.gain[i] >= -100 && errors.gain[i] <= 100)) abort();
    if (!mabn_coco_confuse(&confusion, truth, results, &p, 0.5, 0))
        mabn_coco_confusion_release(&confusion);
}

static void inspect(const uint8_t *data, size_t n, unsigned keep, bool json)
{
    struct mabn_coco c;
    struct mabn_str text;
    const struct mabn_inspect_options options = {.json = json, .verify = true};
    if (mabn_coco_read_bytes(&c, data, n, false, keep | MABN_COCO_KEEP_FAULTS)) return;
    mabn_str_init(&text);
    (void)!mabn_coco_describe(&text, &c, &options);
    mabn_str_release(&text);
    mabn_coco_release(&c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct mabn_coco truth, results;
    const unsigned keep = MABN_COCO_KEEP_SEGMENTATIONS | MABN_COCO_KEEP_KEYPOINTS |
                          (size & 4 ? MABN_COCO_KEEP_LVIS : 0);
    const uint8_t *zero = size ? memchr(data, 0, size) : NULL;
    size_t n = zero ? (size_t)(zero - data) : size;
    mabn_log_set_level(MABN_LOG_QUIET);
    inspect(data, n, keep, size & 1);
    if (mabn_coco_read_bytes(&truth, data, n, false, keep)) return 0;
    if (size & 4) mabn_coco_forget_crowds(&truth);
    if (zero && !mabn_coco_read_bytes(&results, zero + 1, size - n - 1, true, keep)) {
        for (int type = 0; type < MABN_COCO_TYPES; type++) {
            struct mabn_str one, two;
            mabn_str_init(&one);
            mabn_str_init(&two);
            unsigned how = (unsigned)size & 7;
            mabn_status a = score(&truth, &results, (enum mabn_coco_type)type, how, 1, &one);
            mabn_status b = score(&truth, &results, (enum mabn_coco_type)type, how, 2, &two);
            if (a != b || strcmp(one.text, two.text)) abort();
            mabn_str_release(&one);
            mabn_str_release(&two);
            explain(&truth, &results, (enum mabn_coco_type)type);
        }
        mabn_coco_release(&results);
    }
    mabn_coco_release(&truth);
    return 0;
}
