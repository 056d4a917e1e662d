/* An open dataset as a source of samples. */
#include "data/loader.h"
#include "store/dataset.h"

static mabn_status dataset_get(const void *context, uint64_t index, struct mabn_sample *sample)
{
    const struct mabn_dataset *ds = context;
    const int64_t i = (int64_t)index;
    *sample = (struct mabn_sample){.width = 0};
    MABN_TRY(mabn_dataset_image(ds, i, &sample->bytes, &sample->size));
    if (mabn_dataset_is_raw(ds)) {
        sample->width = mabn_dataset_image_width(ds, i);
        sample->height = mabn_dataset_image_height(ds, i);
        sample->channels = mabn_dataset_image_channels(ds, i);
    }
    return MABN_OK;
}

static void dataset_name(const void *context, uint64_t index, char *text, size_t capacity)
{
    mabn_dataset_image_name(context, (int64_t)index, text, capacity);
}

static void dataset_prefetch(const void *context, uint64_t index)
{
    mabn_dataset_prefetch(context, (int64_t)index);
}

void mabn_source_of_dataset(struct mabn_source *source, const struct mabn_dataset *dataset)
{
    *source =
        (struct mabn_source){.count = (uint64_t)mabn_dataset_count(dataset),
                             .get = dataset_get,
                             .name = dataset_name,
                             .prefetch = mabn_dataset_is_raw(dataset) ? NULL : dataset_prefetch,
                             .context = dataset};
}
