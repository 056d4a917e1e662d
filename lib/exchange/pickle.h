/* Python pickles, read as data.
 *
 * A pickle is a program for a small stack machine. This interpreter runs the opcodes that build
 * plain values and calls nothing. What REDUCE and BUILD would do with the few names that tensors,
 * numpy arrays and their containers need (the list is at the top of pickle.c) is done here, on
 * values of our own. Calling any other name, or giving it state, makes an OPAQUE value that holds
 * only the name: training files, for example, keep an argparse.Namespace beside the weights. Any
 * other opcode or combination is refused with its offset.
 *
 * Limits: MABN_PICKLE_MAX_OPCODES instructions and as many values; memo indices below the pickle's
 * size; nothing is ever copied, so memory is at most about 120 bytes for each opcode. Values may
 * share children or even contain themselves, so code that walks them must limit its steps.
 *
 * Large strings and byte strings are not loaded: a value says where in the source they are. */
#ifndef MABN_EXCHANGE_PICKLE_H
#define MABN_EXCHANGE_PICKLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "exchange/source.h"

MABN_BEGIN_DECLS

enum {
    MABN_PICKLE_MAX_OPCODES = 1 << 21,
    MABN_PICKLE_MAX_TEXT = 4096, /* longer strings stay in the source */
};

enum mabn_pickle_kind {
    MABN_PICKLE_NONE,
    MABN_PICKLE_BOOL,
    MABN_PICKLE_INT,
    MABN_PICKLE_BIGINT, /* more than 64 bits: place and length of its little-endian bytes */
    MABN_PICKLE_FLOAT,
    MABN_PICKLE_TEXT,   /* str: UTF-8 in the source */
    MABN_PICKLE_BYTES,  /* bytes, or Python 2's str */
    MABN_PICKLE_LATIN1, /* bytes that were written as UTF-8 text of code points below 256 */
    MABN_PICKLE_LIST,
    MABN_PICKLE_TUPLE,
    MABN_PICKLE_DICT, /* items: key, value, key, value, …; also OrderedDict, defaultdict, Counter */
    MABN_PICKLE_GLOBAL,  /* an allowed name, not called: integer is its mabn_pickle_global */
    MABN_PICKLE_STORAGE, /* persistent id of PyTorch: items of its tuple */
    MABN_PICKLE_TENSOR,  /* arguments of torch._utils._rebuild_tensor, _v2 or _v3 */
    MABN_PICKLE_ARRAY,   /* numpy array: state of BUILD, (version, shape, dtype, fortran, data) */
    MABN_PICKLE_DTYPE,   /* numpy dtype: arguments; `attribute`: state of BUILD or 0 */
    MABN_PICKLE_SCALAR,  /* numpy scalar: (dtype, bytes) */
    MABN_PICKLE_BUFFER,  /* numpy array of protocol 5: (data, dtype, shape, order) */
    MABN_PICKLE_OPAQUE,  /* a class or function not known here, or an object of it: its name */
};

enum mabn_pickle_global {
    MABN_GLOBAL_ORDERED_DICT,
    MABN_GLOBAL_COUNTER,
    MABN_GLOBAL_DEFAULT_DICT,
    MABN_GLOBAL_REBUILD_TENSOR,
    MABN_GLOBAL_REBUILD_TENSOR_V3, /* its type is an argument of its own */
    MABN_GLOBAL_REBUILD_PARAMETER,
    MABN_GLOBAL_REBUILD_FROM_TYPE, /* of a subclass of torch.Tensor */
    MABN_GLOBAL_SIZE,
    MABN_GLOBAL_DEVICE,
    MABN_GLOBAL_STORAGE,     /* `element` of the node tells which */
    MABN_GLOBAL_TORCH_DTYPE, /* likewise */
    MABN_GLOBAL_RECONSTRUCT,
    MABN_GLOBAL_SCALAR,
    MABN_GLOBAL_NDARRAY,
    MABN_GLOBAL_DTYPE,
    MABN_GLOBAL_FROMBUFFER,
    MABN_GLOBAL_ENCODE,
};

/* Values are named by index; 0 is None and stands for "nothing" too. */
struct mabn_pickle_node {
    uint8_t kind;       /* enum mabn_pickle_kind */
    uint8_t element;    /* GLOBAL_STORAGE, _TORCH_DTYPE: enum mabn_dtype; TENSOR: made by _v3? */
    uint32_t attribute; /* DICT: what BUILD attached to an OrderedDict; DTYPE: see there */
    union {
        int64_t integer; /* BOOL, INT, GLOBAL */
        double number;
        struct {
            uint64_t offset; /* in the source */
            uint64_t length; /* there */
            char *text;      /* NUL-terminated copy when length ≤ MAX_TEXT, else NULL */
        } string;            /* BIGINT, TEXT, BYTES, LATIN1; OPAQUE: text is the name */
        struct {
            uint32_t *items;
            uint32_t count, capacity;
        } list; /* LIST, TUPLE, DICT, STORAGE and what comes after */
    } u;
};

struct mabn_pickle {
    struct mabn_pickle_node *nodes;
    size_t count, capacity;
    uint32_t root;
    uint64_t end; /* offset of the first byte after STOP */
};

/* Run the pickle at `offset`, of at most `size` bytes. */
MABN_MUST_USE mabn_status mabn_pickle_read(struct mabn_pickle *pickle,
                                           const struct mabn_source *source, uint64_t offset,
                                           uint64_t size);
void mabn_pickle_release(struct mabn_pickle *pickle);

static inline const struct mabn_pickle_node *mabn_pickle_at(const struct mabn_pickle *pickle,
                                                            uint32_t value)
{
    return &pickle->nodes[value];
}
/* The text of a short str (or Python 2 str) without NUL bytes inside; NULL for everything else. */
const char *mabn_pickle_text(const struct mabn_pickle *pickle, uint32_t value);
/* "module.name" of an OPAQUE value, printable; NULL for everything else. */
const char *mabn_pickle_class(const struct mabn_pickle *pickle, uint32_t value);
/* Value under a text key of a dict; 0 when absent. */
uint32_t mabn_pickle_get(const struct mabn_pickle *pickle, uint32_t dict, const char *key);
/* Is there a text key, whatever its value? */
bool mabn_pickle_has(const struct mabn_pickle *pickle, uint32_t dict, const char *key);
/* Is it an INT (or BOOL)? */
bool mabn_pickle_integer(const struct mabn_pickle *pickle, uint32_t value, int64_t *out);

MABN_END_DECLS
#endif
