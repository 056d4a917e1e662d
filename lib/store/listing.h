/* Lists of images with their labels, read from a folder tree or a list file.
 *
 * Classes come from the folders' names in byte order, or from a class file: one class a line, the
 * line's number (from 0) is its label; "NAME" or "NAME<TAB>shown name". With a class file a folder
 * or label that it does not name is an error.  */
#ifndef MABN_STORE_LISTING_H
#define MABN_STORE_LISTING_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

MABN_BEGIN_DECLS

struct mabn_listing {
    char **paths;    /* (count) to open */
    char **names;    /* (count) to record: below the folder, or as listed */
    int32_t *labels; /* (count) */
    int64_t count;
    char **classes; /* (class_count) shown names; none when labels were given as numbers only */
    int64_t class_count;
};

/* DIR/CLASS/..., to any depth below CLASS; names that begin with a dot are passed over. Images are
 * in the order of class, then name. class_file may be NULL. */
MABN_MUST_USE mabn_status mabn_listing_scan(struct mabn_listing *list, const char *folder,
                                            const char *class_file);
/* "PATH<TAB>LABEL" lines in their order ("-": standard input). With a class file labels are
 * its names or their numbers; without one, all numbers from 0 on, or all names, which are classes
 * in byte order. */
MABN_MUST_USE mabn_status mabn_listing_read(struct mabn_listing *list, const char *path,
                                            const char *class_file);
/* The shown names of a class file alone. */
MABN_MUST_USE mabn_status mabn_listing_read_classes(struct mabn_listing *list,
                                                    const char *class_file);
void mabn_listing_release(struct mabn_listing *list);

/* Say which classes below the highest label no image has; a warning where labels begin at 1, a habit of
 * other programs. `name` is for the message. */
void mabn_listing_tell_unused(const int32_t *labels, int64_t n, const char *name);

/* How many of the paths have been there before (./a is a), and the first of these: an index, or count. */
size_t mabn_listing_again(char *const *paths, size_t count, size_t *first);

MABN_END_DECLS
#endif
