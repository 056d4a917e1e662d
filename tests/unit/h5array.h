/* For tests: reading float arrays, numbers and strings from HDF5 files; NCHW to NHWC and back. */
#ifndef MABN_TESTS_H5ARRAY_H
#define MABN_TESTS_H5ARRAY_H

#include <hdf5.h>

#include "tap.h"

struct h5array {
    float *values;
    int rank;
    hsize_t shape[8];
    size_t count;
};

static inline void h5array_bail(const char *what, const char *name)
{
    printf("Bail out! cannot read %s '%s'\n", what, name);
    exit(1);
}

static inline struct h5array h5array_read(hid_t group, const char *name)
{
    struct h5array a;
    memset(&a, 0, sizeof a);
    hid_t set = H5Dopen2(group, name, H5P_DEFAULT);
    if (set < 0) h5array_bail("data set", name);
    hid_t space = H5Dget_space(set);
    a.rank = H5Sget_simple_extent_dims(space, a.shape, NULL);
    a.count = 1;
    for (int i = 0; i < a.rank; i++)
        a.count *= a.shape[i];
    a.values = (float *)calloc(a.count + 1, sizeof *a.values);
    if (H5Dread(set, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, a.values) < 0)
        h5array_bail("data set", name);
    H5Sclose(space);
    H5Dclose(set);
    return a;
}

/* The formatted name, valid until the next call. */
MABN_PRINTF(1, 2) static inline const char *h5array_name(const char *format, ...)
{
    static char name[300];
    va_list args;
    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    return name;
}

static inline double h5array_number(hid_t group, const char *name)
{
    struct h5array a = h5array_read(group, name);
    const double value = a.values[0];
    free(a.values);
    return value;
}

/* The strings of a data set, one after another, of *length bytes each; caller frees. */
static inline char *h5array_strings(hid_t group, size_t *length, const char *name)
{
    hid_t set = H5Dopen2(group, name, H5P_DEFAULT);
    if (set < 0) h5array_bail("data set", name);
    hid_t space = H5Dget_space(set), type = H5Dget_type(set);
    *length = H5Tget_size(type);
    char *text = (char *)calloc((size_t)H5Sget_simple_extent_npoints(space) + 1, *length);
    if (H5Dread(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, text) < 0) h5array_bail("data set", name);
    H5Tclose(type);
    H5Sclose(space);
    H5Dclose(set);
    return text;
}

static inline double h5array_attribute(hid_t group, const char *name)
{
    double value = 0;
    hid_t at = H5Aopen(group, name, H5P_DEFAULT);
    if (at < 0 || H5Aread(at, H5T_NATIVE_DOUBLE, &value) < 0) h5array_bail("attribute", name);
    H5Aclose(at);
    return value;
}

static inline void to_nhwc(float *out, const float *in, size_t n, size_t c, size_t hw)
{
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < c; j++)
            for (size_t p = 0; p < hw; p++)
                out[(i * hw + p) * c + j] = in[(i * c + j) * hw + p];
}

static inline void to_nchw(float *out, const float *in, size_t n, size_t c, size_t hw)
{
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < c; j++)
            for (size_t p = 0; p < hw; p++)
                out[(i * c + j) * hw + p] = in[(i * hw + p) * c + j];
}

#endif
