/* The pickle machine: see pickle.h. Opcodes are those of Python's pickletools, protocols 0 to 5. */
#include "exchange/pickle.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "tensor/tensor.h"

/* The names that a GLOBAL may have and that mean something here. */
static const struct {
    const char *module, *name;
    enum mabn_pickle_global global;
    enum mabn_dtype dtype; /* of storages */
} allowed[] = {
    {"collections", "OrderedDict", MABN_GLOBAL_ORDERED_DICT, 0},
    {"collections", "Counter", MABN_GLOBAL_COUNTER, 0},
    {"collections", "defaultdict", MABN_GLOBAL_DEFAULT_DICT, 0},
    {"torch._utils", "_rebuild_tensor", MABN_GLOBAL_REBUILD_TENSOR, 0},
    {"torch._utils", "_rebuild_tensor_v2", MABN_GLOBAL_REBUILD_TENSOR, 0},
    {"torch._utils", "_rebuild_tensor_v3", MABN_GLOBAL_REBUILD_TENSOR_V3, 0},
    {"torch._utils", "_rebuild_parameter", MABN_GLOBAL_REBUILD_PARAMETER, 0},
    {"torch._utils", "_rebuild_parameter_with_state", MABN_GLOBAL_REBUILD_PARAMETER, 0},
    {"torch._tensor", "_rebuild_from_type_v2", MABN_GLOBAL_REBUILD_FROM_TYPE, 0},
    {"torch", "Size", MABN_GLOBAL_SIZE, 0},
    {"torch", "device", MABN_GLOBAL_DEVICE, 0},
    {"torch", "FloatStorage", MABN_GLOBAL_STORAGE, MABN_DTYPE_F32},
    {"torch", "DoubleStorage", MABN_GLOBAL_STORAGE, MABN_DTYPE_F64},
    {"torch", "HalfStorage", MABN_GLOBAL_STORAGE, MABN_DTYPE_F16},
    {"torch", "BFloat16Storage", MABN_GLOBAL_STORAGE, MABN_DTYPE_BF16},
    {"torch", "CharStorage", MABN_GLOBAL_STORAGE, MABN_DTYPE_I8},
    {"torch", "ByteStorage", MABN_GLOBAL_STORAGE, MABN_DTYPE_U8},
    {"torch", "ShortStorage", MABN_GLOBAL_STORAGE, MABN_DTYPE_I16},
    {"torch", "IntStorage", MABN_GLOBAL_STORAGE, MABN_DTYPE_I32},
    {"torch", "LongStorage", MABN_GLOBAL_STORAGE, MABN_DTYPE_I64},
    {"torch", "BoolStorage", MABN_GLOBAL_STORAGE, MABN_DTYPE_BOOL},
    {"torch.storage", "UntypedStorage", MABN_GLOBAL_STORAGE, MABN_DTYPE_U8},
    {"torch", "float32", MABN_GLOBAL_TORCH_DTYPE, MABN_DTYPE_F32},
    {"torch", "float64", MABN_GLOBAL_TORCH_DTYPE, MABN_DTYPE_F64},
    {"torch", "float16", MABN_GLOBAL_TORCH_DTYPE, MABN_DTYPE_F16},
    {"torch", "bfloat16", MABN_GLOBAL_TORCH_DTYPE, MABN_DTYPE_BF16},
    {"torch", "int8", MABN_GLOBAL_TORCH_DTYPE, MABN_DTYPE_I8},
    {"torch", "uint8", MABN_GLOBAL_TORCH_DTYPE, MABN_DTYPE_U8},
    {"torch", "int16", MABN_GLOBAL_TORCH_DTYPE, MABN_DTYPE_I16},
    {"torch", "int32", MABN_GLOBAL_TORCH_DTYPE, MABN_DTYPE_I32},
    {"torch", "int64", MABN_GLOBAL_TORCH_DTYPE, MABN_DTYPE_I64},
    {"torch", "bool", MABN_GLOBAL_TORCH_DTYPE, MABN_DTYPE_BOOL},
    {"numpy.core.multiarray", "_reconstruct", MABN_GLOBAL_RECONSTRUCT, 0},
    {"numpy._core.multiarray", "_reconstruct", MABN_GLOBAL_RECONSTRUCT, 0},
    {"numpy.core.multiarray", "scalar", MABN_GLOBAL_SCALAR, 0},
    {"numpy._core.multiarray", "scalar", MABN_GLOBAL_SCALAR, 0},
    {"numpy", "ndarray", MABN_GLOBAL_NDARRAY, 0},
    {"numpy", "dtype", MABN_GLOBAL_DTYPE, 0},
    {"numpy.core.numeric", "_frombuffer", MABN_GLOBAL_FROMBUFFER, 0},
    {"numpy._core.numeric", "_frombuffer", MABN_GLOBAL_FROMBUFFER, 0},
    {"_codecs", "encode", MABN_GLOBAL_ENCODE, 0},
};

enum { WINDOW = 1 << 16, MAX_LINE = 4096 };

struct machine {
    struct mabn_pickle *pickle;
    const struct mabn_source *source;
    uint64_t start, end; /* of the pickle in the source */
    uint64_t position;   /* of the next byte */
    uint64_t opcode_at;
    uint64_t opcodes;
    uint8_t *window; /* (WINDOW) the bytes from window_at */
    uint64_t window_at;
    size_t window_size;
    uint32_t *stack;
    size_t depth, stack_capacity;
    size_t *marks; /* stack depths at each MARK */
    size_t mark_count, mark_capacity;
    uint32_t *memo;               /* value + 1, or 0 */
    size_t memo_size, memo_count; /* room, and how many are set */
    bool stopped;
};

MABN_PRINTF(3, 4)
static mabn_status refuse(struct machine *m, mabn_status status, const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return mabn_fail(status, "'%s': pickle opcode at offset %llu: %s", m->source->name,
                     (unsigned long long)(m->opcode_at - m->start), text);
}

/* ---- bytes ---- */

static mabn_status fill(struct machine *m)
{
    uint64_t left = m->end - m->position;
    m->window_size = left < WINDOW ? (size_t)left : WINDOW;
    m->window_at = m->position;
    return mabn_source_read(m->source, m->position, m->window, m->window_size);
}

static mabn_status take(struct machine *m, void *out, size_t n)
{
    if (n > m->end - m->position)
        return refuse(m, MABN_ERR_FORMAT, "truncated: %zu more bytes expected", n);
    if (n > WINDOW) return refuse(m, MABN_ERR_LIMIT, "argument too long");
    if (m->position < m->window_at || m->position + n > m->window_at + m->window_size)
        MABN_TRY(fill(m));
    memcpy(out, m->window + (m->position - m->window_at), n);
    m->position += n;
    return MABN_OK;
}

/* A line of the text protocol, without its newline. */
static mabn_status take_line(struct machine *m, char line[MAX_LINE])
{
    for (size_t n = 0; n < MAX_LINE; n++) {
        MABN_TRY(take(m, line + n, 1));
        if (line[n] == '\n') {
            line[n] = 0;
            return MABN_OK;
        }
        if (line[n] == 0) return refuse(m, MABN_ERR_FORMAT, "NUL byte in a line of text");
    }
    return refuse(m, MABN_ERR_LIMIT, "line of text longer than %d bytes", MAX_LINE);
}

/* An unsigned little-endian argument of 1, 2, 4 or 8 bytes. */
static mabn_status take_number(struct machine *m, int bytes, uint64_t *out)
{
    uint8_t b[8] = {0};
    MABN_TRY(take(m, b, (size_t)bytes));
    *out = mabn_le64(b);
    return MABN_OK;
}

/* ---- values and the stack ---- */

static struct mabn_pickle_node *node_of(struct machine *m, uint32_t value)
{
    return &m->pickle->nodes[value];
}

static uint32_t new_node(struct machine *m, enum mabn_pickle_kind kind)
{
    struct mabn_pickle *p = m->pickle;
    MABN_GROW(p->nodes, p->count, p->capacity);
    memset(&p->nodes[p->count], 0, sizeof *p->nodes);
    p->nodes[p->count].kind = (uint8_t)kind;
    return (uint32_t)p->count++;
}

static mabn_status push(struct machine *m, uint32_t value)
{
    MABN_GROW(m->stack, m->depth, m->stack_capacity);
    m->stack[m->depth++] = value;
    return MABN_OK;
}

static size_t floor_of(const struct machine *m)
{
    return m->mark_count ? m->marks[m->mark_count - 1] : 0;
}

static mabn_status pop(struct machine *m, uint32_t *value)
{
    if (m->depth <= floor_of(m)) return refuse(m, MABN_ERR_FORMAT, "the stack is empty");
    *value = m->stack[--m->depth];
    return MABN_OK;
}

static mabn_status top(struct machine *m, uint32_t *value)
{
    if (m->depth <= floor_of(m)) return refuse(m, MABN_ERR_FORMAT, "the stack is empty");
    *value = m->stack[m->depth - 1];
    return MABN_OK;
}

/* *first: stack index of the first value above the topmost mark, which is removed. */
static mabn_status pop_mark(struct machine *m, size_t *first)
{
    if (!m->mark_count) return refuse(m, MABN_ERR_FORMAT, "no mark on the stack");
    *first = m->marks[--m->mark_count];
    return MABN_OK;
}

static void append(struct mabn_pickle_node *node, uint32_t value)
{
    MABN_GROW(node->u.list.items, node->u.list.count, node->u.list.capacity);
    node->u.list.items[node->u.list.count++] = value;
}

static uint32_t new_list(struct machine *m, enum mabn_pickle_kind kind, const uint32_t *items,
                         size_t n)
{
    uint32_t value = new_node(m, kind);
    struct mabn_pickle_node *node = node_of(m, value);
    if (n) {
        node->u.list.items = mabn_xmalloc(n * sizeof *items);
        memcpy(node->u.list.items, items, n * sizeof *items);
        node->u.list.count = node->u.list.capacity = (uint32_t)n;
    }
    return value;
}

static mabn_status push_int(struct machine *m, enum mabn_pickle_kind kind, int64_t i)
{
    uint32_t value = new_node(m, kind);
    node_of(m, value)->u.integer = i;
    return push(m, value);
}

static mabn_status push_float(struct machine *m, double d)
{
    uint32_t value = new_node(m, MABN_PICKLE_FLOAT);
    node_of(m, value)->u.number = d;
    return push(m, value);
}

/* A string of `length` bytes that starts here in the source, which is skipped. */
static mabn_status push_string(struct machine *m, enum mabn_pickle_kind kind, uint64_t length)
{
    if (length > m->end - m->position)
        return refuse(m, MABN_ERR_FORMAT, "string of %llu bytes, but only %llu are left",
                      (unsigned long long)length, (unsigned long long)(m->end - m->position));
    uint64_t offset = m->position;
    char *text = NULL;
    if (length <= MABN_PICKLE_MAX_TEXT) {
        text = mabn_xmalloc((size_t)length + 1);
        mabn_status status = take(m, text, (size_t)length);
        if (status) {
            free(text);
            return status;
        }
        text[length] = 0;
    } else {
        m->position += length;
    }
    uint32_t value = new_node(m, kind);
    struct mabn_pickle_node *node = node_of(m, value);
    node->u.string.offset = offset;
    node->u.string.length = length;
    node->u.string.text = text;
    return push(m, value);
}

/* A short string that is not verbatim in the source, because it is escaped. */
static mabn_status push_text(struct machine *m, enum mabn_pickle_kind kind, const char *text)
{
    uint32_t value = new_node(m, kind);
    struct mabn_pickle_node *node = node_of(m, value);
    node->u.string.offset = UINT64_MAX;
    node->u.string.length = strlen(text);
    node->u.string.text = mabn_xstrdup(text);
    return push(m, value);
}

/* ---- opcodes: numbers and strings ---- */

static mabn_status push_long(struct machine *m, uint64_t length)
{
    if (length > 8) return push_string(m, MABN_PICKLE_BIGINT, length);
    uint8_t b[8] = {0};
    MABN_TRY(take(m, b, (size_t)length));
    if (length && b[length - 1] & 0x80) memset(b + length, 0xff, 8 - (size_t)length);
    return push_int(m, MABN_PICKLE_INT, (int64_t)mabn_le64(b));
}

/* Decimal text of the opcodes INT and LONG; INT's "00" and "01" are False and True. */
static mabn_status push_decimal(struct machine *m, bool is_long)
{
    char line[MAX_LINE], *end;
    MABN_TRY(take_line(m, line));
    if (!is_long && (!strcmp(line, "00") || !strcmp(line, "01")))
        return push_int(m, MABN_PICKLE_BOOL, line[1] == '1');
    errno = 0;
    long long v = strtoll(line, &end, 10);
    if (is_long && *end == 'L') end++;
    if (end == line || *end || errno) return refuse(m, MABN_ERR_FORMAT, "not an integer");
    return push_int(m, MABN_PICKLE_INT, v);
}

static mabn_status push_decimal_float(struct machine *m)
{
    char line[MAX_LINE], *end;
    MABN_TRY(take_line(m, line));
    double v = strtod(line, &end);
    if (end == line || *end) return refuse(m, MABN_ERR_FORMAT, "not a number");
    return push_float(m, v);
}

static mabn_status push_binary_float(struct machine *m)
{
    uint8_t b[8];
    uint64_t bits = 0;
    double d;
    MABN_TRY(take(m, b, 8));
    for (int i = 0; i < 8; i++)
        bits = bits << 8 | b[i];
    memcpy(&d, &bits, 8);
    return push_float(m, d);
}

/* Strings of protocol 0. Only those without escapes are read; names have none. */
static mabn_status push_line(struct machine *m, bool quoted)
{
    char line[MAX_LINE];
    MABN_TRY(take_line(m, line));
    if (strchr(line, '\\'))
        return refuse(m, MABN_ERR_UNSUPPORTED,
                      "escaped string of pickle protocol 0 (save with protocol 2 or later)");
    if (!quoted) return push_text(m, MABN_PICKLE_TEXT, line);
    size_t n = strlen(line);
    if (n < 2 || (line[0] != '\'' && line[0] != '"') || line[n - 1] != line[0])
        return refuse(m, MABN_ERR_FORMAT, "string without quotes");
    line[n - 1] = 0;
    return push_text(m, MABN_PICKLE_BYTES, line + 1);
}

static mabn_status do_number(struct machine *m, int op, bool *done)
{
    uint64_t n = 0;
    *done = true;
    switch (op) {
    case 'N':
        return push(m, 0);
    case 0x88: /* NEWTRUE, NEWFALSE */
    case 0x89:
        return push_int(m, MABN_PICKLE_BOOL, op == 0x88);
    case 'J': /* BININT */
        MABN_TRY(take_number(m, 4, &n));
        return push_int(m, MABN_PICKLE_INT, (int32_t)(uint32_t)n);
    case 'K': /* BININT1 */
    case 'M': /* BININT2 */
        MABN_TRY(take_number(m, op == 'K' ? 1 : 2, &n));
        return push_int(m, MABN_PICKLE_INT, (int64_t)n);
    case 'I':
    case 'L':
        return push_decimal(m, op == 'L');
    case 0x8a: /* LONG1, LONG4 */
    case 0x8b:
        MABN_TRY(take_number(m, op == 0x8a ? 1 : 4, &n));
        return push_long(m, n);
    case 'F':
        return push_decimal_float(m);
    case 'G':
        return push_binary_float(m);
    default:
        *done = false;
        return MABN_OK;
    }
}

static mabn_status do_string(struct machine *m, int op, bool *done)
{
    static const struct {
        int op, width;
        enum mabn_pickle_kind kind;
    } strings[] = {
        {'U', 1, MABN_PICKLE_BYTES}, {'T', 4, MABN_PICKLE_BYTES},  {'C', 1, MABN_PICKLE_BYTES},
        {'B', 4, MABN_PICKLE_BYTES}, {0x8e, 8, MABN_PICKLE_BYTES}, {0x96, 8, MABN_PICKLE_BYTES},
        {0x8c, 1, MABN_PICKLE_TEXT}, {'X', 4, MABN_PICKLE_TEXT},   {0x8d, 8, MABN_PICKLE_TEXT},
    };
    *done = true;
    if (op == 'S' || op == 'V') return push_line(m, op == 'S');
    for (size_t i = 0; i < sizeof strings / sizeof *strings; i++)
        if (strings[i].op == op) {
            uint64_t n = 0;
            MABN_TRY(take_number(m, strings[i].width, &n));
            return push_string(m, strings[i].kind, n);
        }
    *done = false;
    return MABN_OK;
}

/* ---- opcodes: containers, stack, memo ---- */

static mabn_status expect_kind(struct machine *m, uint32_t value, enum mabn_pickle_kind kind,
                               const char *what)
{
    if (node_of(m, value)->kind == kind) return MABN_OK;
    return refuse(m, MABN_ERR_FORMAT, "%s on something else", what);
}

static bool is_opaque(struct machine *m, uint32_t value)
{
    return node_of(m, value)->kind == MABN_PICKLE_OPAQUE;
}

/* Move the values above the mark into the list or dict below it. An unknown object drops them. */
static mabn_status extend(struct machine *m, enum mabn_pickle_kind kind, const char *what)
{
    size_t first = 0;
    uint32_t target = 0;
    MABN_TRY(pop_mark(m, &first));
    size_t n = m->depth - first;
    m->depth = first;
    MABN_TRY(top(m, &target));
    if (is_opaque(m, target)) return MABN_OK;
    MABN_TRY(expect_kind(m, target, kind, what));
    if (kind == MABN_PICKLE_DICT && n % 2)
        return refuse(m, MABN_ERR_FORMAT, "a key without a value");
    for (size_t i = 0; i < n; i++)
        append(node_of(m, target), m->stack[first + i]);
    return MABN_OK;
}

static mabn_status from_mark(struct machine *m, enum mabn_pickle_kind kind)
{
    size_t first = 0;
    MABN_TRY(pop_mark(m, &first));
    size_t n = m->depth - first;
    if (kind == MABN_PICKLE_DICT && n % 2)
        return refuse(m, MABN_ERR_FORMAT, "a key without a value");
    m->depth = first;
    return push(m, new_list(m, kind, n ? m->stack + first : NULL, n));
}

static mabn_status small_tuple(struct machine *m, size_t n)
{
    if (m->depth - floor_of(m) < n) return refuse(m, MABN_ERR_FORMAT, "the stack is empty");
    m->depth -= n;
    return push(m, new_list(m, MABN_PICKLE_TUPLE, m->stack + m->depth, n)); /* n is 1, 2 or 3 */
}

static mabn_status set_item(struct machine *m)
{
    uint32_t key, value, dict;
    MABN_TRY(pop(m, &value));
    MABN_TRY(pop(m, &key));
    MABN_TRY(top(m, &dict));
    if (is_opaque(m, dict)) return MABN_OK;
    MABN_TRY(expect_kind(m, dict, MABN_PICKLE_DICT, "SETITEM"));
    append(node_of(m, dict), key);
    append(node_of(m, dict), value);
    return MABN_OK;
}

static mabn_status append_item(struct machine *m)
{
    uint32_t value, list;
    MABN_TRY(pop(m, &value));
    MABN_TRY(top(m, &list));
    if (is_opaque(m, list)) return MABN_OK;
    MABN_TRY(expect_kind(m, list, MABN_PICKLE_LIST, "APPEND"));
    append(node_of(m, list), value);
    return MABN_OK;
}

static mabn_status do_container(struct machine *m, int op, bool *done)
{
    *done = true;
    switch (op) {
    case ')':
        return push(m, new_node(m, MABN_PICKLE_TUPLE));
    case ']':
        return push(m, new_node(m, MABN_PICKLE_LIST));
    case '}':
        return push(m, new_node(m, MABN_PICKLE_DICT));
    case 0x85: /* TUPLE1, TUPLE2, TUPLE3 */
    case 0x86:
    case 0x87:
        return small_tuple(m, (size_t)(op - 0x84));
    case 't':
        return from_mark(m, MABN_PICKLE_TUPLE);
    case 'l':
        return from_mark(m, MABN_PICKLE_LIST);
    case 'd':
        return from_mark(m, MABN_PICKLE_DICT);
    case 'a':
        return append_item(m);
    case 'e':
        return extend(m, MABN_PICKLE_LIST, "APPENDS");
    case 's':
        return set_item(m);
    case 'u':
        return extend(m, MABN_PICKLE_DICT, "SETITEMS");
    default:
        *done = false;
        return MABN_OK;
    }
}

static mabn_status memo_put(struct machine *m, uint64_t index)
{
    uint32_t value = 0;
    MABN_TRY(top(m, &value));
    if (index >= m->end - m->start || index >= MABN_PICKLE_MAX_OPCODES)
        return refuse(m, MABN_ERR_LIMIT, "memo index %llu in a pickle of %llu bytes",
                      (unsigned long long)index, (unsigned long long)(m->end - m->start));
    if (index >= m->memo_size) {
        size_t size = (size_t)index + 1 + m->memo_size / 2;
        m->memo = mabn_xrealloc(m->memo, size * sizeof *m->memo);
        memset(m->memo + m->memo_size, 0, (size - m->memo_size) * sizeof *m->memo);
        m->memo_size = size;
    }
    if (!m->memo[index]) m->memo_count++;
    m->memo[index] = value + 1;
    return MABN_OK;
}

static mabn_status memo_get(struct machine *m, uint64_t index)
{
    if (index >= m->memo_size || !m->memo[index])
        return refuse(m, MABN_ERR_FORMAT, "memo %llu was never set", (unsigned long long)index);
    return push(m, m->memo[index] - 1);
}

static mabn_status memo_text(struct machine *m, bool put)
{
    char line[MAX_LINE], *end;
    MABN_TRY(take_line(m, line));
    unsigned long long index = strtoull(line, &end, 10);
    if (line[0] < '0' || line[0] > '9' || *end) return refuse(m, MABN_ERR_FORMAT, "bad memo index");
    return put ? memo_put(m, index) : memo_get(m, index);
}

static mabn_status do_memo(struct machine *m, int op, bool *done)
{
    uint64_t n = 0;
    *done = true;
    switch (op) {
    case 'q': /* BINPUT, LONG_BINPUT */
    case 'r':
        MABN_TRY(take_number(m, op == 'q' ? 1 : 4, &n));
        return memo_put(m, n);
    case 'h': /* BINGET, LONG_BINGET */
    case 'j':
        MABN_TRY(take_number(m, op == 'h' ? 1 : 4, &n));
        return memo_get(m, n);
    case 'p':
    case 'g':
        return memo_text(m, op == 'p');
    case 0x94: /* MEMOIZE */
        return memo_put(m, m->memo_count);
    default:
        *done = false;
        return MABN_OK;
    }
}

static mabn_status do_stack(struct machine *m, int op, bool *done)
{
    uint32_t value = 0;
    size_t first = 0;
    uint64_t n = 0;
    *done = true;
    switch (op) {
    case '(':
        MABN_GROW(m->marks, m->mark_count, m->mark_capacity);
        m->marks[m->mark_count++] = m->depth;
        return MABN_OK;
    case '0':
        return pop(m, &value);
    case '1':
        MABN_TRY(pop_mark(m, &first));
        m->depth = first;
        return MABN_OK;
    case '2':
        MABN_TRY(top(m, &value));
        return push(m, value);
    case '.':
        m->stopped = true;
        return MABN_OK;
    case 0x80: /* PROTO */
        MABN_TRY(take_number(m, 1, &n));
        if (n > 5) return refuse(m, MABN_ERR_UNSUPPORTED, "pickle protocol %d", (int)n);
        return MABN_OK;
    case 0x95: /* FRAME: its length only helps readers of a pipe */
        return take_number(m, 8, &n);
    default:
        *done = false;
        return MABN_OK;
    }
}

/* ---- opcodes: names, calls, state ---- */

/* Short, printable form of a name from the file. */
static const char *printable(char out[128], const char *module, const char *name)
{
    snprintf(out, 128, "%.60s.%.60s", module, name);
    for (char *p = out; *p; p++)
        if ((unsigned char)*p < 0x20 || (unsigned char)*p > 0x7e) *p = '?';
    return out;
}

static mabn_status push_opaque(struct machine *m, const char *name)
{
    char *copy = mabn_xstrdup(name); /* it may belong to a node, and nodes move */
    uint32_t value = new_node(m, MABN_PICKLE_OPAQUE);
    node_of(m, value)->u.string.text = copy;
    return push(m, value);
}

static mabn_status push_global(struct machine *m, const char *module, const char *name)
{
    for (size_t i = 0; i < sizeof allowed / sizeof *allowed; i++)
        if (!strcmp(allowed[i].module, module) && !strcmp(allowed[i].name, name)) {
            uint32_t value = new_node(m, MABN_PICKLE_GLOBAL);
            node_of(m, value)->u.integer = allowed[i].global;
            node_of(m, value)->element = (uint8_t)allowed[i].dtype;
            return push(m, value);
        }
    char text[128];
    return push_opaque(m, printable(text, module, name));
}

static mabn_status do_global(struct machine *m)
{
    char module[MAX_LINE], name[MAX_LINE];
    MABN_TRY(take_line(m, module));
    MABN_TRY(take_line(m, name));
    return push_global(m, module, name);
}

static mabn_status do_stack_global(struct machine *m)
{
    uint32_t name, module;
    MABN_TRY(pop(m, &name));
    MABN_TRY(pop(m, &module));
    const char *a = mabn_pickle_text(m->pickle, module), *b = mabn_pickle_text(m->pickle, name);
    if (!a || !b) return refuse(m, MABN_ERR_FORMAT, "STACK_GLOBAL without two strings");
    return push_global(m, a, b);
}

/* PyTorch's reference to a storage: the tuple ("storage", class, key, location, count, …). Its older
 * files refer to a module's class in the same way: ("module", class, file, source). */
static mabn_status do_persistent_id(struct machine *m)
{
    uint32_t id;
    MABN_TRY(pop(m, &id));
    const struct mabn_pickle_node *tuple = node_of(m, id);
    const bool filled = tuple->kind == MABN_PICKLE_TUPLE && tuple->u.list.count >= 2;
    const char *word = filled ? mabn_pickle_text(m->pickle, tuple->u.list.items[0]) : NULL;
    if (word && !strcmp(word, "module") && is_opaque(m, tuple->u.list.items[1]))
        return push(m, tuple->u.list.items[1]);
    if (!word || strcmp(word, "storage") || tuple->u.list.count < 5)
        return refuse(m, MABN_ERR_FORMAT, "persistent id is not a storage");
    return push(m, new_list(m, MABN_PICKLE_STORAGE, tuple->u.list.items, tuple->u.list.count));
}

/* OrderedDict() or OrderedDict([[key, value], …]). */
static mabn_status make_dict(struct machine *m, const uint32_t *args, size_t n)
{
    uint32_t dict = new_node(m, MABN_PICKLE_DICT);
    if (n > 1) return refuse(m, MABN_ERR_FORMAT, "OrderedDict with %zu arguments", n);
    if (n == 1) {
        const struct mabn_pickle_node *list = node_of(m, args[0]);
        if (list->kind != MABN_PICKLE_LIST)
            return refuse(m, MABN_ERR_FORMAT, "OrderedDict of something that is not a list");
        for (uint32_t i = 0; i < list->u.list.count; i++) {
            const struct mabn_pickle_node *pair = node_of(m, list->u.list.items[i]);
            if ((pair->kind != MABN_PICKLE_LIST && pair->kind != MABN_PICKLE_TUPLE) ||
                pair->u.list.count != 2)
                return refuse(m, MABN_ERR_FORMAT, "OrderedDict of something that is not a pair");
            append(node_of(m, dict), pair->u.list.items[0]);
            append(node_of(m, dict), pair->u.list.items[1]);
        }
        /* Opcodes bound the number of pairs only if the list is used once. */
        m->opcodes += list->u.list.count;
    }
    return push(m, dict);
}

/* _codecs.encode(text, "latin1"): how Python 3 writes bytes in protocol 2. */
static mabn_status make_latin1(struct machine *m, const uint32_t *args, size_t n)
{
    const char *codec = n == 2 ? mabn_pickle_text(m->pickle, args[1]) : NULL;
    if (!codec || (strcmp(codec, "latin1") && strcmp(codec, "latin-1")) ||
        node_of(m, args[0])->kind != MABN_PICKLE_TEXT ||
        node_of(m, args[0])->u.string.offset == UINT64_MAX)
        return refuse(m, MABN_ERR_FORMAT, "_codecs.encode of something that is not Latin-1 text");
    uint32_t value = new_node(m, MABN_PICKLE_LATIN1);
    struct mabn_pickle_node *node = node_of(m, value);
    node->u.string.offset = node_of(m, args[0])->u.string.offset;
    node->u.string.length = node_of(m, args[0])->u.string.length;
    return push(m, value);
}

static bool is_global(struct machine *m, uint32_t value, enum mabn_pickle_global g)
{
    return node_of(m, value)->kind == MABN_PICKLE_GLOBAL && node_of(m, value)->u.integer == g;
}

/* The results of the allowed callables. */
static mabn_status call(struct machine *m, enum mabn_pickle_global g, uint32_t tuple)
{
    const uint32_t *args = node_of(m, tuple)->u.list.items;
    size_t n = node_of(m, tuple)->u.list.count;
    switch (g) {
    case MABN_GLOBAL_ORDERED_DICT:
        return make_dict(m, args, n);
    case MABN_GLOBAL_COUNTER:
        if (n == 1 && node_of(m, args[0])->kind == MABN_PICKLE_DICT) return push(m, args[0]);
        break;
    case MABN_GLOBAL_DEFAULT_DICT:
        if (n <= 1) return push(m, new_node(m, MABN_PICKLE_DICT));
        break;
    case MABN_GLOBAL_REBUILD_TENSOR:
        if (n >= 4) return push(m, new_list(m, MABN_PICKLE_TENSOR, args, n));
        break;
    case MABN_GLOBAL_REBUILD_TENSOR_V3:
        if (n < 7) break;
        MABN_TRY(push(m, new_list(m, MABN_PICKLE_TENSOR, args, n)));
        node_of(m, m->stack[m->depth - 1])->element = 1;
        return MABN_OK;
    case MABN_GLOBAL_REBUILD_FROM_TYPE: /* function, type, its arguments, state */
        if (n != 4 || node_of(m, args[2])->kind != MABN_PICKLE_TUPLE) break;
        if (is_opaque(m, args[0])) return push_opaque(m, node_of(m, args[0])->u.string.text);
        if (is_global(m, args[0], MABN_GLOBAL_REBUILD_TENSOR) ||
            is_global(m, args[0], MABN_GLOBAL_REBUILD_TENSOR_V3))
            return call(m, (enum mabn_pickle_global)node_of(m, args[0])->u.integer, args[2]);
        break;
    case MABN_GLOBAL_REBUILD_PARAMETER:
        if (n >= 1 && is_opaque(m, args[0]))
            return push_opaque(m, node_of(m, args[0])->u.string.text);
        if (n >= 1 && node_of(m, args[0])->kind == MABN_PICKLE_TENSOR) return push(m, args[0]);
        break;
    case MABN_GLOBAL_SIZE:
        if (n == 1 && (node_of(m, args[0])->kind == MABN_PICKLE_TUPLE ||
                       node_of(m, args[0])->kind == MABN_PICKLE_LIST))
            return push(m, args[0]);
        break;
    case MABN_GLOBAL_DEVICE:
        if (n >= 1 && mabn_pickle_text(m->pickle, args[0])) return push(m, args[0]);
        break;
    case MABN_GLOBAL_RECONSTRUCT:
        if (n == 3 && is_opaque(m, args[0])) /* a subclass: numpy's matrix, recarray */
            return push_opaque(m, node_of(m, args[0])->u.string.text);
        if (n == 3 && is_global(m, args[0], MABN_GLOBAL_NDARRAY))
            return push(m, new_node(m, MABN_PICKLE_ARRAY));
        break;
    case MABN_GLOBAL_DTYPE:
        if (n >= 1) return push(m, new_list(m, MABN_PICKLE_DTYPE, args, n));
        break;
    case MABN_GLOBAL_SCALAR:
        if (n == 2) return push(m, new_list(m, MABN_PICKLE_SCALAR, args, n));
        break;
    case MABN_GLOBAL_FROMBUFFER:
        if (n == 4) return push(m, new_list(m, MABN_PICKLE_BUFFER, args, n));
        break;
    case MABN_GLOBAL_ENCODE:
        return make_latin1(m, args, n);
    case MABN_GLOBAL_STORAGE:
    case MABN_GLOBAL_TORCH_DTYPE:
    case MABN_GLOBAL_NDARRAY:
        break;
    }
    return refuse(m, MABN_ERR_FORMAT, "REDUCE: arguments do not fit the callable");
}

static mabn_status do_reduce(struct machine *m)
{
    uint32_t tuple, callable;
    MABN_TRY(pop(m, &tuple));
    MABN_TRY(pop(m, &callable));
    if (node_of(m, callable)->kind != MABN_PICKLE_GLOBAL && !is_opaque(m, callable))
        return refuse(m, MABN_ERR_UNSUPPORTED, "REDUCE: refused: a value that cannot be called");
    MABN_TRY(expect_kind(m, tuple, MABN_PICKLE_TUPLE, "REDUCE"));
    if (is_opaque(m, callable)) return push_opaque(m, node_of(m, callable)->u.string.text);
    return call(m, (enum mabn_pickle_global)node_of(m, callable)->u.integer, tuple);
}

/* NEWOBJ and NEWOBJ_EX: cls.__new__(cls, *args, **kwargs), of an unknown class. */
static mabn_status do_new_object(struct machine *m, int op)
{
    uint32_t class, ignored;
    MABN_TRY(pop(m, &ignored));
    if (op == 0x92) MABN_TRY(pop(m, &ignored));
    MABN_TRY(pop(m, &class));
    if (!is_opaque(m, class))
        return refuse(m, MABN_ERR_UNSUPPORTED, "NEWOBJ (0x%02x) is refused", op);
    return push_opaque(m, node_of(m, class)->u.string.text);
}

/* Sets: their contents are not used here. */
static mabn_status do_set(struct machine *m, int op)
{
    uint32_t target;
    size_t first = 0;
    if (op != 0x8f) {
        MABN_TRY(pop_mark(m, &first));
        m->depth = first;
    }
    if (op != 0x90) return push_opaque(m, "builtins.set");
    MABN_TRY(top(m, &target));
    return expect_kind(m, target, MABN_PICKLE_OPAQUE, "ADDITEMS");
}

static mabn_status do_build(struct machine *m)
{
    uint32_t state, target;
    MABN_TRY(pop(m, &state));
    MABN_TRY(top(m, &target));
    struct mabn_pickle_node *node = node_of(m, target), *s = node_of(m, state);
    switch ((enum mabn_pickle_kind)node->kind) {
    case MABN_PICKLE_DICT: /* attributes of an OrderedDict: PyTorch's _metadata */
        if (s->kind != MABN_PICKLE_DICT) break;
        node->attribute = state;
        return MABN_OK;
    case MABN_PICKLE_DTYPE:
        if (s->kind != MABN_PICKLE_TUPLE) break;
        node->attribute = state;
        return MABN_OK;
    case MABN_PICKLE_ARRAY:
        if (s->kind != MABN_PICKLE_TUPLE || node->u.list.count) break;
        for (uint32_t i = 0; i < s->u.list.count; i++)
            append(node, s->u.list.items[i]);
        m->opcodes += s->u.list.count;
        return MABN_OK;
    case MABN_PICKLE_OPAQUE:
        return MABN_OK;
    default:
        break;
    }
    return refuse(m, MABN_ERR_UNSUPPORTED, "BUILD: refused: state for a value that takes none");
}

static mabn_status do_object(struct machine *m, int op, bool *done)
{
    *done = true;
    switch (op) {
    case 'c':
        return do_global(m);
    case 0x93:
        return do_stack_global(m);
    case 'Q':
        return do_persistent_id(m);
    case 'R':
        return do_reduce(m);
    case 'b':
        return do_build(m);
    case 0x81:
    case 0x92:
        return do_new_object(m, op);
    case 0x8f: /* EMPTY_SET, ADDITEMS, FROZENSET */
    case 0x90:
    case 0x91:
        return do_set(m, op);
    default:
        *done = false;
        return MABN_OK;
    }
}

static const char *refused_opcode(int op)
{
    switch (op) {
    case 'i':
        return "INST";
    case 'o':
        return "OBJ";
    case 'P':
        return "PERSID";
    case 0x82:
    case 0x83:
    case 0x84:
        return "EXT";
    case 0x97:
    case 0x98:
        return "an out-of-band buffer";
    default:
        return NULL;
    }
}

static mabn_status step(struct machine *m)
{
    uint8_t op = 0;
    bool done = false;
    m->opcode_at = m->position;
    if (++m->opcodes > MABN_PICKLE_MAX_OPCODES)
        return refuse(m, MABN_ERR_LIMIT, "more than %d opcodes", MABN_PICKLE_MAX_OPCODES);
    MABN_TRY(take(m, &op, 1));
    static mabn_status (*const groups[])(struct machine *, int, bool *) = {
        do_memo, do_string, do_number, do_container, do_stack, do_object,
    };
    for (size_t i = 0; i < sizeof groups / sizeof *groups && !done; i++)
        MABN_TRY(groups[i](m, op, &done));
    if (done) return MABN_OK;
    const char *name = refused_opcode(op);
    if (name) return refuse(m, MABN_ERR_UNSUPPORTED, "%s (0x%02x) is refused", name, op);
    return refuse(m, MABN_ERR_FORMAT, "0x%02x is not an opcode", op);
}

mabn_status mabn_pickle_read(struct mabn_pickle *pickle, const struct mabn_source *source,
                             uint64_t offset, uint64_t size)
{
    memset(pickle, 0, sizeof *pickle);
    if (offset > source->size || size > source->size - offset)
        return mabn_fail(MABN_ERR_FORMAT, "'%s': truncated pickle", source->name);
    struct machine m = {.pickle = pickle, .source = source, .start = offset, .end = offset + size};
    m.position = offset;
    m.window = mabn_xmalloc(WINDOW);
    new_node(&m, MABN_PICKLE_NONE);
    mabn_status status = MABN_OK;
    while (!status && !m.stopped)
        status = step(&m);
    if (!status) status = pop(&m, &pickle->root);
    pickle->end = m.position;
    free(m.window);
    free(m.stack);
    free(m.marks);
    free(m.memo);
    if (status) mabn_pickle_release(pickle);
    return status;
}

void mabn_pickle_release(struct mabn_pickle *pickle)
{
    for (size_t i = 0; i < pickle->count; i++) {
        struct mabn_pickle_node *node = &pickle->nodes[i];
        if (node->kind == MABN_PICKLE_OPAQUE)
            free(node->u.string.text);
        else if (node->kind >= MABN_PICKLE_LIST && node->kind != MABN_PICKLE_GLOBAL)
            free(node->u.list.items);
        else if (node->kind >= MABN_PICKLE_TEXT && node->kind <= MABN_PICKLE_LATIN1)
            free(node->u.string.text);
        else if (node->kind == MABN_PICKLE_BIGINT)
            free(node->u.string.text);
    }
    free(pickle->nodes);
    memset(pickle, 0, sizeof *pickle);
}

const char *mabn_pickle_text(const struct mabn_pickle *pickle, uint32_t value)
{
    const struct mabn_pickle_node *node = &pickle->nodes[value];
    if (node->kind != MABN_PICKLE_TEXT && node->kind != MABN_PICKLE_BYTES) return NULL;
    const char *text = node->u.string.text;
    return text && strlen(text) == node->u.string.length ? text : NULL;
}

const char *mabn_pickle_class(const struct mabn_pickle *pickle, uint32_t value)
{
    const struct mabn_pickle_node *node = &pickle->nodes[value];
    return node->kind == MABN_PICKLE_OPAQUE ? node->u.string.text : NULL;
}

uint32_t mabn_pickle_get(const struct mabn_pickle *pickle, uint32_t dict, const char *key)
{
    const struct mabn_pickle_node *node = &pickle->nodes[dict];
    if (node->kind != MABN_PICKLE_DICT) return 0;
    for (uint32_t i = 0; i + 1 < node->u.list.count; i += 2) {
        const char *text = mabn_pickle_text(pickle, node->u.list.items[i]);
        if (text && !strcmp(text, key)) return node->u.list.items[i + 1];
    }
    return 0;
}

bool mabn_pickle_has(const struct mabn_pickle *pickle, uint32_t dict, const char *key)
{
    const struct mabn_pickle_node *node = &pickle->nodes[dict];
    if (node->kind != MABN_PICKLE_DICT) return false;
    for (uint32_t i = 0; i + 1 < node->u.list.count; i += 2) {
        const char *text = mabn_pickle_text(pickle, node->u.list.items[i]);
        if (text && !strcmp(text, key)) return true;
    }
    return false;
}

bool mabn_pickle_integer(const struct mabn_pickle *pickle, uint32_t value, int64_t *out)
{
    const struct mabn_pickle_node *node = &pickle->nodes[value];
    if (node->kind != MABN_PICKLE_INT && node->kind != MABN_PICKLE_BOOL) return false;
    *out = node->u.integer;
    return true;
}
