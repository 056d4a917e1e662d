/* COCO annotations in a packed dataset (store/dataset.h), kind "coco": everything that training and
 * evaluation need, beside the images.
 *
 *   attributes of /: those of every dataset, and
 *     annotations       int64   M, number of annotations
 *     keypoints         int64   J, keypoints of an annotation (0: none)
 *   /coco/image_id      i64 (N)    images in ascending order of id, numbers before texts
 *   /coco/category_id   i64 (K)    in the order of the annotation file; names are in /classes
 *   /coco/first         u64 (N+1)  annotations [first[i], first[i+1]) belong to image i, in the
 *                                  order of the annotation file
 *   /coco/id            i64 (M)
 *   /coco/category      i32 (M)    index into category_id
 *   /coco/box           f64 (M,4)  x, y, w, h as in the annotation file; NaN: no box
 *   /coco/area          f64 (M)
 *   /coco/crowd         u8  (M)    1: a crowd; 2: "iscrowd" is no number or boolean
 *   /coco/ignore        u8  (M)
 *   /coco/segmentation  u8  (M)    0 none, 1 polygons, 2 run lengths, 4 one that cannot be used
 *   /coco/polygon_first u64 (M+1)  polygons [polygon_first[m], polygon_first[m+1]) of annotation m
 *   /coco/corner_first  u64 (P+1)  corners of polygon p, into corners
 *   /coco/corners       f64 (C,2)  x, y
 *   /coco/mask_first    u64 (M+1)  bytes of annotation m, into mask_bytes
 *   /coco/mask_bytes    u8         run lengths as COCO's compressed strings (coco/mask.h); of a
 *                                  segmentation that cannot be used, why
 *   /coco/mask_size     u32 (M,2)  height, width of the mask; 0, 0: none
 *   /coco/keypoints     f64 (M,J,3)   x, y, visibility  (only when J > 0)
 *   /coco/num_keypoints u32 (M)                         (only when J > 0)
 * and only where a file has what they are for:
 *   attribute annotated int64      0: the annotation file has no list of annotations
 *   /coco/unsized       u8  (N)    1: the annotation file does not give the image's size
 *   /coco/place         u32 (N)    the annotation file has its images in another order: each one's
 *                                  place there
 *   /coco/last          u32 (M)    ids of annotations occur twice: the annotation that has the id
 *                                  last in the file; 2^32-1: one that is not packed
 *   /coco/keypoint_count u32 (M)   keypoints of each, where not all have J; 2^32-1: unusable
 *   /coco/skeleton      u32 (B,3)  index of a category, a pair of its keypoints from 1
 *   /coco/text_id       i64 (T)    ids that are no 64-bit numbers, ascending, and
 *   /coco/text_first    u64 (T+1)  where their texts are in
 *   /coco/text_bytes    u8
 * and of LVIS:
 *   /coco/lvis_first    u64 (2N+1) category ids of image i in lvis_listed: those it does not have, from
 *                                  lvis_first[2i]; those whose annotations may be incomplete, from
 *                                  lvis_first[2i+1] to lvis_first[2i+2]
 *   /coco/lvis_listed   i64
 *   /coco/lvis_has      u8  (N)    1: the annotation file has both lists
 *   /coco/frequency     u8  (K)    the letter r, c or f; 0: not given */
#ifndef MABN_COCO_DATASET_H
#define MABN_COCO_DATASET_H

#include "base/status.h"
#include "coco/annotations.h"
#include "store/dataset.h"
#include "store/pack.h"

MABN_BEGIN_DECLS

struct mabn_coco_pack_options {
    int threads;
    bool verify;   /* decode every image completely */
    bool exif;     /* turn pictures as their EXIF data asks */
    bool skip_bad; /* leave out images that are missing, damaged or of another size, with a warning
                    */
};

/* Pack the images of an annotation file, found in `folder` by their "file_name". A missing file, or
 * one whose size is not what the annotations say, is reported with its image's id. */
MABN_MUST_USE mabn_status mabn_coco_pack(const struct mabn_pack_output *out, const char *folder,
                                         const char *annotations,
                                         const struct mabn_coco_pack_options *options);

/* The annotations of a packed dataset, in the form of mabn_coco_read. Every index is checked. */
MABN_MUST_USE mabn_status mabn_coco_read_dataset(struct mabn_coco *out,
                                                 const struct mabn_dataset *ds);

/* Ground truth from either: a packed dataset when the file is HDF5, else a JSON file (`keep` as for
 * mabn_coco_read). */
MABN_MUST_USE mabn_status mabn_coco_read_any(struct mabn_coco *out, const char *path,
                                             unsigned keep);

MABN_END_DECLS
#endif
