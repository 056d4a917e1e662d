/* How many pictures a file holds, and whether the first is transparent. Decoding reads the first
 * picture and drops alpha; whoever reads a set of files tells how often that leaves something out
 * (oddities.h). */
#include <string.h>

#include "image/codec.h"

static uint32_t be32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static uint32_t le32(const uint8_t *p)
{
    return (uint32_t)p[3] << 24 | (uint32_t)p[2] << 16 | (uint32_t)p[1] << 8 | p[0];
}

/* An animated PNG has a chunk acTL before its pixels and an fcTL before each frame. The picture that
 * is decoded is the first frame if an fcTL precedes it, else one beside the animation. */
static void look_at_png(struct mabn_image_info *info, const uint8_t *p, size_t size)
{
    bool animated = false, pixels = false;
    uint32_t frames = 0;
    for (size_t at = 8; size - at >= 12;) {
        const size_t length = be32(p + at);
        const uint8_t *name = p + at + 4;
        if (length > size - at - 12) break;
        if (!memcmp(name, "tRNS", 4)) info->alpha = true;
        if (!memcmp(name, "acTL", 4)) animated = true;
        if (!memcmp(name, "fcTL", 4)) frames++;
        if (!memcmp(name, "IDAT", 4) && !pixels) {
            if (!animated) return;
            pixels = true;
            if (!frames) frames = 1;
        }
        at += length + 12;
    }
    if (animated && frames) info->pictures = frames;
}

/* An animation has a chunk ANMF for each picture. */
static void look_at_webp(struct mabn_image_info *info, const uint8_t *p, size_t size)
{
    uint32_t frames = 0;
    for (size_t at = 12; size - at >= 8;) {
        const size_t length = le32(p + at + 4);
        if (!memcmp(p + at, "ANMF", 4)) frames++;
        if (length + length % 2 > size - at - 8) break;
        at += length + length % 2 + 8;
    }
    if (info->progressive && frames) info->pictures = frames;
}

/* Past the sub-blocks at `at`: a length and so many bytes, up to one of length 0. */
static size_t past_blocks(const uint8_t *p, size_t size, size_t at)
{
    while (at < size && p[at])
        at += 1 + (size_t)p[at];
    return at < size ? at + 1 : size;
}

static size_t table_size(uint8_t flags)
{
    return flags & 0x80 ? (size_t)3 << ((flags & 7) + 1) : 0;
}

/* Blocks after the colour table: an extension (0x21; of the kind 0xf9, before a picture, with its
 * transparent colour), a picture (0x2c), the end (0x3b). */
static void look_at_gif(struct mabn_image_info *info, const uint8_t *p, size_t size)
{
    size_t at = 13 + table_size(p[10]);
    uint32_t pictures = 0;
    while (at + 2 < size && p[at] != 0x3b) {
        if (p[at] == 0x21) {
            if (p[at + 1] == 0xf9 && size - at >= 8 && p[at + 2] >= 4 && !pictures)
                info->alpha = p[at + 3] & 1;
            at = past_blocks(p, size, at + 2);
        } else if (p[at] == 0x2c && size - at > 11) {
            pictures++;
            at = past_blocks(p, size, at + 11 + table_size(p[at + 9]));
        } else {
            break;
        }
    }
    if (pictures) info->pictures = pictures;
}

void mabn_image_count_pictures(struct mabn_image_info *info, const uint8_t *bytes, size_t size)
{
    info->pictures = 1;
    switch (info->type) {
    case MABN_IMAGE_PNG:
        look_at_png(info, bytes, size);
        break;
    case MABN_IMAGE_WEBP:
        look_at_webp(info, bytes, size);
        break;
    case MABN_IMAGE_GIF:
        look_at_gif(info, bytes, size);
        break;
    case MABN_IMAGE_JPEG:
        if (mabn_jpeg_pictures(bytes, size) > 1) info->pictures = mabn_jpeg_pictures(bytes, size);
        break;
    default:
        break;
    }
}
