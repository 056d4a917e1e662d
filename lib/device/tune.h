/* Choices made by timing on this machine, and the small text file that keeps them, so that they are
 * made once and the next run computes the same bits.
 *
 * Each line is a choice: machine, key and choice, separated by tabs; the first line is "# mabn tune
 * 1". A machine is a processor, a library and a number of threads. A file may hold the choices of
 * several machines, and may be copied to another machine of the same kind. */
#ifndef MABN_DEVICE_TUNE_H
#define MABN_DEVICE_TUNE_H

#include <stdbool.h>

#include "device/device.h"

MABN_BEGIN_DECLS

struct mabn_tune;

/* Read `path`; a file that is empty or not there holds no choices. path NULL: $MABN_TUNE_FILE, or else
 * mabn/tune.tsv in $XDG_CACHE_HOME or ~/.cache, whose folders are made. Empty lines are skipped, other
 * lines of another form are MABN_ERR_FORMAT. */
MABN_MUST_USE mabn_status mabn_tune_open(struct mabn_tune **tune, const char *path,
                                         const char *machine);
void mabn_tune_free(struct mabn_tune *tune); /* does not save; NULL is fine */
const char *mabn_tune_path(const struct mabn_tune *tune);
/* The choice for `key`, or NULL; valid until the next mabn_tune_add. */
const char *mabn_tune_find(const struct mabn_tune *tune, const char *key);
void mabn_tune_add(struct mabn_tune *tune, const char *key, const char *choice);
/* Write what was added, if anything was. */
MABN_MUST_USE mabn_status mabn_tune_save(struct mabn_tune *tune);

/* Let a CPU device choose by timing from now on. Without `timing` (for several ranks, which must
 * agree) it uses the choices in the file and times nothing. A device that chooses so already stays as
 * it is. Does nothing for a GPU, which times without a file. */
MABN_MUST_USE mabn_status mabn_device_tune(struct mabn_device *device, bool timing);
/* Its choices; owned by the device. NULL: it does not choose by timing. */
struct mabn_tune *mabn_device_tuning(const struct mabn_device *device);
/* May a choice that is missing be timed? */
bool mabn_device_times(const struct mabn_device *device);

MABN_END_DECLS
#endif
