/* Private to the room: what image.c and the formats share. */
#ifndef MABN_IMAGE_CODEC_H
#define MABN_IMAGE_CODEC_H

#include "image/image.h"
#include "image/resize.h"

MABN_BEGIN_DECLS

struct mabn_jpeg_decoder;

struct mabn_decoder {
    struct mabn_jpeg_decoder *jpeg;
};

/* A decoding job, after its options were defaulted. */
struct mabn_decode_job {
    const uint8_t *bytes;
    size_t size;
    struct mabn_decode_options options;
    struct mabn_image *image;
    bool partial; /* the fields below are in use */
    struct mabn_rect wanted, part;
    int min_width, min_height;
    int scale;
};

/* Fails unless width × height is positive and within the limit. */
MABN_MUST_USE mabn_status mabn_image_check_size(uint64_t width, uint64_t height,
                                                uint64_t max_pixels);
/* The part of `wanted` that lies inside width × height; a width of 0 when there is none. */
struct mabn_rect mabn_rect_clip(struct mabn_rect wanted, int width, int height);

/* Resizing a part of a picture to a window of the result. The window has the same bits as in the
 * result of resizing the whole picture. */
struct mabn_resize_job {
    const struct mabn_image *in;
    struct mabn_rect part;   /* where `in` lies in the picture */
    struct mabn_region box;  /* the region of the picture to resize */
    int width, height;       /* its size in the result */
    struct mabn_rect window; /* the pixels of the result to compute */
    enum mabn_resize_kind kind;
};
/* The part of the picture that the job needs (job->in and job->part need not be set). */
MABN_MUST_USE mabn_status mabn_resize_reach(const struct mabn_resize_job *job,
                                            struct mabn_rect *reach);
MABN_MUST_USE mabn_status mabn_resize_run(struct mabn_resizer *resizer, struct mabn_image *out,
                                          const struct mabn_resize_job *job);

/* Pillow's weights along one whole side: rows (out, 2 + taps) of first pixel, number of taps, weights of 22
 * bits behind the point; and how many taps a row has room for. */
int mabn_resize_taps(int in, int out);
MABN_MUST_USE mabn_status mabn_resize_weights(int32_t *rows, int in, int out);

struct mabn_jpeg_decoder *mabn_jpeg_decoder_new(void);
void mabn_jpeg_decoder_free(struct mabn_jpeg_decoder *jpeg);
MABN_MUST_USE mabn_status mabn_jpeg_probe(struct mabn_image_info *info, const uint8_t *bytes,
                                          size_t size);
MABN_MUST_USE mabn_status mabn_jpeg_decode(struct mabn_jpeg_decoder *jpeg,
                                           struct mabn_decode_job *job);

MABN_MUST_USE mabn_status mabn_png_probe(struct mabn_image_info *info, const uint8_t *bytes,
                                         size_t size);
/* Can so many bytes hold such a picture? mabn_jpeg_probe looks for itself. */
MABN_MUST_USE mabn_status mabn_png_check(const struct mabn_image_info *info, size_t size);
MABN_MUST_USE mabn_status mabn_png_decode(struct mabn_decode_job *job);

MABN_MUST_USE mabn_status mabn_webp_probe(struct mabn_image_info *info, const uint8_t *bytes,
                                          size_t size);
MABN_MUST_USE mabn_status mabn_webp_decode(struct mabn_decode_job *job);

MABN_MUST_USE mabn_status mabn_bmp_probe(struct mabn_image_info *info, const uint8_t *bytes,
                                         size_t size);
MABN_MUST_USE mabn_status mabn_bmp_decode(struct mabn_decode_job *job);

MABN_MUST_USE mabn_status mabn_gif_probe(struct mabn_image_info *info, const uint8_t *bytes,
                                         size_t size);
MABN_MUST_USE mabn_status mabn_gif_decode(struct mabn_decode_job *job);

/* mabn_image_decode_alpha for one format; *found is false before. */
MABN_MUST_USE mabn_status mabn_png_alpha(struct mabn_image *alpha, bool *found,
                                         const uint8_t *bytes, size_t size);
MABN_MUST_USE mabn_status mabn_webp_alpha(struct mabn_image *alpha, bool *found,
                                          const uint8_t *bytes, size_t size);
MABN_MUST_USE mabn_status mabn_gif_alpha(struct mabn_image *alpha, bool *found,
                                         const uint8_t *bytes, size_t size);
MABN_MUST_USE mabn_status mabn_bmp_alpha(struct mabn_image *alpha, bool *found,
                                         const uint8_t *bytes, size_t size);

/* The orientation in the EXIF data of a JPEG, PNG or WebP; 0: none, or none that can be read. */
int mabn_exif_orientation(enum mabn_image_type type, const uint8_t *bytes, size_t size);

/* How many pictures a JPEG says that it holds, of which decoding reads the first; 0: it says nothing. */
uint32_t mabn_jpeg_pictures(const uint8_t *bytes, size_t size);

/* Completes what the header said: how many pictures there are, and whether the first is
 * transparent. Walks over blocks and chunks, decodes nothing, and stops at damage. */
void mabn_image_count_pictures(struct mabn_image_info *info, const uint8_t *bytes, size_t size);

MABN_END_DECLS
#endif
