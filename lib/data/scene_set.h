/* Photographs for a detector, with or without annotations: scenes (scene.h) are made from them.
 *
 * From a dataset packed by `mabn-pack coco`, or from a folder of photographs. Samples are numbered
 * from 0: a packed dataset's in ascending order of image id, files in the order given. Everything
 * is checked when the set is opened; afterwards any number of threads may read from it. */
#ifndef MABN_DATA_SCENE_SET_H
#define MABN_DATA_SCENE_SET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "coco/annotations.h"

MABN_BEGIN_DECLS

struct mabn_dataset;
struct mabn_scene_set;

/* The dataset must outlive the set. Fails for a dataset of another kind, for coordinates that are
 * not finite, for a mask whose size is not its photograph's. */
MABN_MUST_USE mabn_status mabn_scene_set_open(struct mabn_scene_set **set,
                                              const struct mabn_dataset *dataset);
/* The pictures of a folder, by their endings (.jpg .jpeg .png .webp .bmp .gif, capitals too), in
 * byte order of their names; not those of folders in it. Each must begin like a picture that
 * image/image.h reads; with `bad` those that do not are left out, each with a warning, and counted.
 * Image ids are the numbers in the names (COCO's photographs: "000000000139.jpg" is 139) when every
 * name is a number and all differ; else 1, 2, 3 and so on, the place among all that were given. */
MABN_MUST_USE mabn_status mabn_scene_set_scan(struct mabn_scene_set **set, const char *folder,
                                              uint64_t *bad);
/* The same for the files in a list, in its order (data/files.h; "-": standard input). */
MABN_MUST_USE mabn_status mabn_scene_set_list(struct mabn_scene_set **set, const char *list,
                                              uint64_t *bad);
/* Apply the EXIF orientation of files. To be called before anything else is asked of the set. A
 * packed dataset does not change, because its annotations refer to photographs as stored. */
void mabn_scene_set_turn(struct mabn_scene_set *set);
/* Warn of what is passed over in files (image/oddities.h), a line for each kind. Nothing for a packed
 * dataset: mabn-pack told. */
void mabn_scene_set_tell(const struct mabn_scene_set *set);
void mabn_scene_set_free(struct mabn_scene_set *set); /* NULL is fine */

uint64_t mabn_scene_set_count(const struct mabn_scene_set *set);
const char *mabn_scene_set_path(const struct mabn_scene_set *set); /* dataset, folder, first file */
/* For a results file: mabn_coco_add_id writes it, given mabn_scene_set_coco. */
int64_t mabn_scene_set_image_id(const struct mabn_scene_set *set, uint64_t sample);
/* Pixels, as the file's header says, or after turning. */
void mabn_scene_set_size(const struct mabn_scene_set *set, uint64_t sample, int *width,
                         int *height);
/* A file as it was given, or below its folder; NULL: of a dataset. */
const char *mabn_scene_set_file(const struct mabn_scene_set *set, uint64_t sample);
/* The file's name into text (cut to fit); returns text. */
char *mabn_scene_set_name(const struct mabn_scene_set *set, uint64_t sample, char *text,
                          size_t capacity);
/* All annotations, in the form of coco/annotations.h; empty for files. Those of a sample are
 * records [*first, *end), in the order of the annotation file. */
const struct mabn_coco *mabn_scene_set_coco(const struct mabn_scene_set *set);

/* A digest of what is learned from a packed dataset: its photographs (mabn_dataset_identity), and of
 * each annotation image, category, box, segmentation and crowd flag. Nothing else counts. */
uint64_t mabn_scene_set_identity(const struct mabn_scene_set *set);
void mabn_scene_set_records(const struct mabn_scene_set *set, uint64_t sample, size_t *first,
                            size_t *end);
/* Which of coco's categories a record is of: 0…K−1, in the order of the annotation file; the class
 * of a detector is 1 more, 0 being background. */
int mabn_scene_set_category(const struct mabn_scene_set *set, size_t record);

/* The encoded bytes of a photograph. */
struct mabn_scene_bytes {
    const uint8_t *bytes;
    size_t size;
    int width, height, channels; /* of raw pixels; 0: encoded */
    int orientation;             /* to be turned by mabn_image_turn, once decoded */
    void *held;                  /* private: a mapped file */
};
MABN_MUST_USE mabn_status mabn_scene_set_read(const struct mabn_scene_set *set, uint64_t sample,
                                              struct mabn_scene_bytes *bytes);
void mabn_scene_bytes_release(struct mabn_scene_bytes *bytes);
/* Tell the kernel that the sample will be read soon. */
void mabn_scene_set_prefetch(const struct mabn_scene_set *set, uint64_t sample);

MABN_END_DECLS
#endif
