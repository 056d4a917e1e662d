/* Pickles: the machine, the walk over its values, tensors in the input itself, and whole legacy
 * streams. The CRC of a zip archive would keep a fuzzer out, so storages are found without one. */
#include "base/mem.h"
#include "fuzz_weights.h"
#include "exchange/pickle_weights.h"

static mabn_status find(void *context, const char *key, uint64_t *offset, uint64_t *size,
                        size_t *storage)
{
    const struct mabn_weights *w = context;
    (void)key;
    *offset = 0;
    *size = w->source.size;
    *storage = SIZE_MAX;
    return MABN_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    fuzz_open(bytes, size);
    struct mabn_weights *w = mabn_xcalloc(1, sizeof *w);
    struct mabn_pickle pickle;
    mabn_source_init_memory(&w->source, bytes, size, "fuzz");
    if (!mabn_pickle_read(&pickle, &w->source, 0, size)) {
        struct mabn_storage_finder finder = {find, w};
        /* Without the index that opening builds, tensors are only read. */
        if (!mabn_pickle_to_weights(w, &pickle, &finder))
            for (size_t i = 0; i < w->count; i++) {
                size_t n = w->entries[i].weight.bytes;
                void *raw = n <= 1 << 16 ? malloc(n) : NULL;
                if (raw && mabn_weights_read(w, i, raw)) mabn_error_clear();
                free(raw);
            }
        mabn_pickle_release(&pickle);
    }
    mabn_weights_free(w);
    return 0;
}
