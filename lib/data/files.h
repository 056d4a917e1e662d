/* Photographs in a folder or a list: a source of samples without labels (loader.h), without packing
 * a dataset. */
#ifndef MABN_DATA_FILES_H
#define MABN_DATA_FILES_H

#include <stdint.h>

#include "base/status.h"
#include "data/loader.h"

MABN_BEGIN_DECLS

struct mabn_files;

/* `path` is a folder: all files below it, in byte order of their paths; those that begin with a dot
 * are passed over. Else it is a list ("-": standard input): a path a line, up to a tab; or, where the
 * text has NULs, paths with a NUL after each, as find -print0 writes them. A picture stands for itself.
 * None at all is an error. */
MABN_MUST_USE mabn_status mabn_files_open(struct mabn_files **files, const char *path);
/* After every loader of its source; NULL is fine. */
void mabn_files_free(struct mabn_files *files);

const char *mabn_files_path(const struct mabn_files *files, uint64_t index);
/* Files are read on demand; a sample's bytes stay valid until its thread reads another. */
void mabn_source_of_files(struct mabn_source *source, const struct mabn_files *files);

/* A file of which something was passed over (image/oddities.h). */
struct mabn_odd_file {
    int64_t index;
    uint32_t pictures;
    int32_t alpha, orientation; /* as in struct mabn_image_info */
};
/* Those among the files that this process has read, after every loader; *list: mabn_free. Ranks read
 * a share each, and some a file of another's, so one tells what all have found. */
size_t mabn_files_odd(const struct mabn_files *files, struct mabn_odd_file **list);
/* Warn of them, a line for each kind. A file that is listed twice counts once. */
void mabn_files_tell(const struct mabn_files *files, const struct mabn_odd_file *list, size_t n);

MABN_END_DECLS
#endif
