/* What the fuzzers of weight formats share: open, then read every small tensor and every note; the
 * same of a moving average. */
#ifndef MABN_TESTS_FUZZ_WEIGHTS_H
#define MABN_TESTS_FUZZ_WEIGHTS_H

#include <stdlib.h>

#include "exchange/weights.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static inline void fuzz_read_all(struct mabn_weights *w)
{
    for (size_t i = 0; i < mabn_weights_count(w); i++) {
        const struct mabn_weight *t = mabn_weights_at(w, i);
        if (mabn_weights_find(w, t->part, t->name) != (int64_t)i) abort();
        if (t->bytes > 1 << 16) continue;
        /* Exact sizes, so that the sanitizer sees one byte too many. */
        void *raw = malloc(t->bytes);
        float *values = malloc(t->count * sizeof *values);
        if (!mabn_weights_read(w, i, raw) && mabn_weights_read_f32(w, i, values)) abort();
        free(raw);
        free(values);
    }
    for (size_t i = 0; i < mabn_weights_note_count(w); i++)
        if (!mabn_weights_note(w, mabn_weights_note_at(w, i, NULL))) abort();
}

static inline void fuzz_open(const uint8_t *bytes, size_t size)
{
    struct mabn_weights *w;
    if (mabn_weights_open_memory(&w, bytes, size, "fuzz")) return;
    fuzz_read_all(w);
    if (!mabn_weights_use_average(w)) fuzz_read_all(w);
    mabn_weights_free(w);
}

#endif
