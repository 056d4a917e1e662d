/* Zip archives: the directory, and PyTorch files when the rest holds. Entries must lie in the file.
 */
#include "fuzz_weights.h"
#include "exchange/zip.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct mabn_source source;
    struct mabn_zip zip;
    mabn_source_init_memory(&source, bytes, size, "fuzz");
    if (!mabn_zip_open(&zip, &source)) {
        for (size_t i = 0; i < zip.count; i++) {
            const struct mabn_zip_entry *e = &zip.entries[i];
            if (e->offset > size || e->size > size - e->offset) abort();
            if (mabn_zip_find(&zip, e->name) != e) abort();
        }
        mabn_zip_release(&zip);
    }
    mabn_source_release(&source);
    fuzz_open(bytes, size);
    return 0;
}
