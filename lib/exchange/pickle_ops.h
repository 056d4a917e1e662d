/* The opcodes that our pickles are written with, appended to a text. Private to this room. */
#ifndef MABN_EXCHANGE_PICKLE_OPS_H
#define MABN_EXCHANGE_PICKLE_OPS_H

#include <stdint.h>
#include <string.h>

#include "base/str.h"

MABN_BEGIN_DECLS

static inline void mabn_pickle_op(struct mabn_str *p, int code)
{
    mabn_str_add_char(p, (char)code);
}

static inline void mabn_pickle_put_le(struct mabn_str *p, uint64_t v, int bytes)
{
    for (int i = 0; i < bytes; i++, v >>= 8)
        mabn_str_add_char(p, (char)(v & 0xff));
}

static inline void mabn_pickle_put_text(struct mabn_str *p, const char *text)
{
    size_t n = strlen(text);
    mabn_pickle_op(p, 'X');
    mabn_pickle_put_le(p, n, 4);
    mabn_str_add_bytes(p, text, n);
}

static inline void mabn_pickle_put_int(struct mabn_str *p, int64_t v)
{
    if (v >= INT32_MIN && v <= INT32_MAX) {
        mabn_pickle_op(p, 'J');
        mabn_pickle_put_le(p, (uint64_t)v, 4);
    } else {
        mabn_pickle_op(p, 0x8a);
        mabn_pickle_op(p, 8);
        mabn_pickle_put_le(p, (uint64_t)v, 8);
    }
}

static inline void mabn_pickle_put_global(struct mabn_str *p, const char *module, const char *name)
{
    mabn_str_printf(p, "c%s\n%s\n", module, name);
}

MABN_END_DECLS
#endif
