/* What reading passes over in a set of pictures, counted to be told once: further pictures of a
 * file, transparency, an EXIF orientation (image.h says what becomes of each). */
#ifndef MABN_IMAGE_ODDITIES_H
#define MABN_IMAGE_ODDITIES_H

#include <stdint.h>

#include "image/image.h"

MABN_BEGIN_DECLS

struct mabn_image_oddity {
    int64_t count, first; /* pictures; the lowest number */
};

struct mabn_image_oddities {
    struct mabn_image_oddity several, alpha, turned;
    int64_t further; /* pictures after the first of their file */
};
#define MABN_IMAGE_NO_ODDITIES                            \
    {                                                     \
        {0, INT64_MAX}, {0, INT64_MAX}, {0, INT64_MAX}, 0 \
    }

/* What a file's header says (mabn_image_probe); alpha only where a pixel is transparent
 * (mabn_image_is_transparent). From any number of threads; each file once. */
void mabn_image_oddities_add(struct mabn_image_oddities *o, int64_t number,
                             const struct mabn_image_info *info);

/* One warning for each kind that there was, naming the first by `name`. done: "packed", "read".
 * turned: what became of pictures with an EXIF orientation; NULL: do not tell. */
void mabn_image_oddities_tell(const struct mabn_image_oddities *o,
                              const char *(*name)(const void *context, int64_t number),
                              const void *context, const char *done, const char *turned);

MABN_END_DECLS
#endif
