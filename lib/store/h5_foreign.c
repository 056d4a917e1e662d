/* Files without our index, written or changed by another program: libhdf5 must find their arrays,
 * and libhdf5 1.10 crashes on about one of 200 damaged files. So it runs in a child process that
 * cannot open files or start programs and has tight limits. The child sends back an index in the
 * format of h5_index.c, which is then checked like any other. If the child dies, the file is
 * refused.
 *
 * Only what we would write ourselves is accepted: hard links, groups, contiguous arrays of known
 * types; scalar attributes of the root (others are passed over).  */
#include <errno.h>
#include <fcntl.h>
#include <hdf5.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/attr.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/progress.h"
#include "store/h5_private.h"

enum { MAX_DEPTH = 16, CPU_SECONDS = 20, WAIT_SECONDS = 30 };
#define MAX_MEMORY ((rlim_t)4 << 30)

/* ---- the child: walking ---- */

struct walk {
    struct mabn_h5_table table;
    hid_t file;
};

static mabn_status refused(const char *name, const char *why)
{
    return mabn_fail(MABN_ERR_UNSUPPORTED, "'%s' %s", name, why);
}

/* The text of a scalar string attribute, malloc'd; NULL when it is something else. */
static char *read_text(hid_t attribute)
{
    hid_t type = H5Aget_type(attribute), space = H5Aget_space(attribute);
    char *text = NULL;
    if (H5Tget_class(type) == H5T_STRING && H5Sget_simple_extent_npoints(space) == 1) {
        hid_t memory = H5Tcopy(H5T_C_S1);
        H5Tset_cset(memory, H5Tget_cset(type));
        size_t size = H5Tget_size(type);
        if (H5Tis_variable_str(type) > 0) {
            char *borrowed = NULL;
            H5Tset_size(memory, H5T_VARIABLE);
            if (H5Aread(attribute, memory, &borrowed) >= 0 && borrowed)
                text = mabn_xstrdup(borrowed);
        } else if (size < 1 << 28) {
            text = (char *)mabn_xcalloc(size + 1, 1);
            H5Tset_size(memory, size + 1);
            if (H5Aread(attribute, memory, text) < 0) text[0] = '\0';
        }
        H5Tclose(memory);
    }
    H5Sclose(space);
    H5Tclose(type);
    return text;
}

static void add_attribute(struct mabn_h5_table *t, hid_t attribute, const char *name)
{
    hid_t type = H5Aget_type(attribute), space = H5Aget_space(attribute);
    H5T_class_t class = H5Tget_class(type);
    bool scalar = H5Sget_simple_extent_npoints(space) == 1;
    long long integer;
    double real;
    char *text;
    if (class == H5T_INTEGER && scalar) {
        if (H5Aread(attribute, H5T_NATIVE_LLONG, &integer) >= 0)
            mabn_h5_table_set(t, name, MABN_H5_KIND_INT64)->integer = integer;
    } else if (class == H5T_FLOAT && scalar) {
        if (H5Aread(attribute, H5T_NATIVE_DOUBLE, &real) >= 0)
            mabn_h5_table_set(t, name, MABN_H5_KIND_FLOAT64)->real = real;
    } else if ((text = read_text(attribute))) {
        mabn_h5_table_set(t, name, MABN_H5_KIND_TEXT)->text = text;
    }
    H5Sclose(space);
    H5Tclose(type);
}

static void walk_attributes(struct walk *w)
{
    H5O_info_t info;
    char name[256];
    if (H5Oget_info(w->file, &info) < 0) return;
    for (hsize_t i = 0; i < info.num_attrs && i < MABN_H5_MAX_ATTRIBUTES; i++) {
        hid_t a =
            H5Aopen_by_idx(w->file, ".", H5_INDEX_NAME, H5_ITER_INC, i, H5P_DEFAULT, H5P_DEFAULT);
        if (a < 0) continue;
        ssize_t n = H5Aget_name(a, sizeof name, name);
        if (n > 0 && (size_t)n < sizeof name) add_attribute(&w->table, a, name);
        H5Aclose(a);
    }
}

/* The array's attribute for types that HDF5 lacks. */
static bool marked(hid_t set, const char *word)
{
    if (H5Aexists(set, "dtype") <= 0) return false;
    hid_t a = H5Aopen(set, "dtype", H5P_DEFAULT);
    char *text = a < 0 ? NULL : read_text(a);
    bool same = text && !strcmp(text, word);
    free(text);
    if (a >= 0) H5Aclose(a);
    return same;
}

static enum mabn_h5_type integer_type(hid_t type)
{
    bool sign = H5Tget_sign(type) != H5T_SGN_NONE;
    switch (H5Tget_size(type)) {
    case 1:
        return sign ? MABN_H5_I8 : MABN_H5_U8;
    case 2:
        return sign ? MABN_H5_I16 : MABN_H5_U16;
    case 4:
        return sign ? MABN_H5_I32 : MABN_H5_U32;
    case 8:
        return sign ? MABN_H5_I64 : MABN_H5_U64;
    }
    return (enum mabn_h5_type)0;
}

static enum mabn_h5_type float_type(hid_t type)
{
    if (H5Tequal(type, H5T_IEEE_F32LE) > 0) return MABN_H5_F32;
    if (H5Tequal(type, H5T_IEEE_F64LE) > 0) return MABN_H5_F64;
    return H5Tget_size(type) == 2 && H5Tget_ebias(type) == 15 ? MABN_H5_F16 : (enum mabn_h5_type)0;
}

/* 0 when there is no such type. */
static enum mabn_h5_type type_of(hid_t set, hid_t type, size_t *width)
{
    enum mabn_h5_type found = (enum mabn_h5_type)0;
    H5T_class_t class = H5Tget_class(type);
    *width = H5Tget_size(type);
    if (class == H5T_STRING) return H5Tis_variable_str(type) ? found : MABN_H5_STRING;
    if (class == H5T_ENUM) return *width == 1 ? MABN_H5_BOOL : found; /* as h5py writes bool */
    if (*width > 1 && H5Tget_order(type) != H5T_ORDER_LE) return found;
    if (class == H5T_FLOAT) return float_type(type);
    if (class != H5T_INTEGER) return found;
    found = integer_type(type);
    if (found == MABN_H5_U16 && marked(set, "bfloat16")) return MABN_H5_BF16;
    if (found == MABN_H5_U8 && marked(set, "bool")) return MABN_H5_BOOL;
    return found;
}

static mabn_status add_array(struct walk *w, hid_t set, const char *name)
{
    struct mabn_h5_item item = {0};
    hsize_t dims[H5S_MAX_RANK];
    hid_t type = H5Dget_type(set), space = H5Dget_space(set), list = H5Dget_create_plist(set);
    size_t width;
    mabn_status status = MABN_OK;
    item.type = type_of(set, type, &width);
    item.rank = H5Sget_simple_extent_ndims(space);
    if (!item.type)
        status = refused(name, "is an array of a type that is not read");
    else if (H5Pget_layout(list) != H5D_CONTIGUOUS || H5Pget_external_count(list) != 0)
        status = refused(name, "is not stored in one piece ('h5repack -l CONTI -f NONE' helps)");
    else if (item.rank < 0 || item.rank > MABN_H5_MAX_RANK ||
             H5Sget_simple_extent_dims(space, dims, NULL) < 0)
        status = refused(name, "has too many dimensions");
    if (!status) {
        for (int i = 0; i < item.rank; i++)
            item.dims[i] = dims[i];
        if (item.type == MABN_H5_STRING) item.width = width;
        status = mabn_h5_item_check(&item, name);
    }
    if (!status && item.bytes) {
        item.offset = H5Dget_offset(set);
        if (item.offset == HADDR_UNDEF || H5Dget_storage_size(set) != item.bytes)
            status = refused(name, "was never written");
    }
    if (!status) mabn_h5_table_add(&w->table, &item, name);
    H5Pclose(list);
    H5Sclose(space);
    H5Tclose(type);
    return status;
}

static mabn_status walk_group(struct walk *w, hid_t group, const char *path, int depth);

static mabn_status walk_link(struct walk *w, hid_t group, const char *name, const char *path,
                             int depth)
{
    H5L_info_t link;
    mabn_status status = MABN_OK;
    if (w->table.item_count >= MABN_H5_MAX_ITEMS) return refused(path, "is one array too many");
    if (H5Lget_info(group, name, &link, H5P_DEFAULT) < 0 || link.type != H5L_TYPE_HARD)
        return refused(path, "is a link, not an array");
    hid_t object = H5Oopen(group, name, H5P_DEFAULT);
    switch (object < 0 ? H5I_BADID : H5Iget_type(object)) {
    case H5I_GROUP:
        status = walk_group(w, object, path, depth + 1);
        break;
    case H5I_DATASET:
        status = add_array(w, object, path);
        break;
    default:
        status = refused(path, "is neither a group nor an array");
    }
    if (object >= 0) H5Oclose(object);
    return status;
}

struct names {
    char **list;
    size_t count, capacity;
};

static herr_t take_name(hid_t group, const char *name, const H5L_info_t *info, void *context)
{
    struct names *names = (struct names *)context;
    (void)group, (void)info;
    if (names->count >= MABN_H5_MAX_ITEMS) return -1;
    MABN_GROW(names->list, names->count, names->capacity);
    names->list[names->count++] = mabn_xstrdup(name);
    return 0;
}

static mabn_status walk_group(struct walk *w, hid_t group, const char *path, int depth)
{
    struct names names = {0};
    mabn_status status = MABN_OK;
    if (depth > MAX_DEPTH) return refused(path, "is nested too deep");
    if (H5Literate(group, H5_INDEX_NAME, H5_ITER_INC, NULL, take_name, &names) < 0)
        status = refused(path, "cannot be read");
    for (size_t i = 0; i < names.count; i++) {
        char *below = mabn_xasprintf("%s/%s", path, names.list[i]);
        if (!status) status = walk_link(w, group, names.list[i], below, depth);
        free(below);
        free(names.list[i]);
    }
    free(names.list);
    return status;
}

static int compare_items(const void *a, const void *b)
{
    const struct mabn_h5_item *x = (const struct mabn_h5_item *)a;
    const struct mabn_h5_item *y = (const struct mabn_h5_item *)b;
    if (x->offset != y->offset) return x->offset < y->offset ? -1 : 1;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

static mabn_status check_overlap(struct mabn_h5_table *t)
{
    if (t->item_count) qsort(t->items, t->item_count, sizeof *t->items, compare_items);
    for (size_t i = 1; i < t->item_count; i++)
        if (t->items[i].offset < t->items[i - 1].offset + t->items[i - 1].bytes)
            return refused(t->items[i].name, "shares its bytes with another array");
    return MABN_OK;
}

static mabn_status walk_file(struct walk *w, int fd, uint64_t size)
{
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    H5PLset_loading_state(0);
    w->file = mabn_h5_open_foreign(fd, size);
    if (w->file < 0) return mabn_fail(MABN_ERR_FORMAT, "HDF5 cannot open it");
    walk_attributes(w);
    hid_t root = H5Gopen2(w->file, "/", H5P_DEFAULT);
    if (root < 0) return mabn_fail(MABN_ERR_FORMAT, "HDF5 finds no root group");
    MABN_TRY(walk_group(w, root, "", 0));
    return check_overlap(&w->table);
}

/* ---- the child: locked in ---- */

/* System calls that reading an open file and computing need; all others fail with EPERM. */
static void allow_few_calls(void)
{
#if defined(__x86_64__) || defined(__aarch64__)
#ifdef __x86_64__
    enum { ARCH = AUDIT_ARCH_X86_64 };
#else
    enum { ARCH = AUDIT_ARCH_AARCH64 };
#endif
    static const int calls[] = {
        SYS_read,         SYS_pread64,     SYS_write,         SYS_close,        SYS_fstat,
        SYS_lseek,        SYS_newfstatat,  SYS_mmap,          SYS_munmap,       SYS_brk,
        SYS_mremap,       SYS_futex,       SYS_madvise,       SYS_mprotect,     SYS_getpid,
        SYS_exit,         SYS_exit_group,  SYS_gettid,        SYS_rt_sigaction, SYS_rt_sigprocmask,
        SYS_rt_sigreturn, SYS_sigaltstack, SYS_clock_gettime, SYS_getrandom,
    };
    enum { CALLS = sizeof calls / sizeof *calls };
    struct sock_filter code[CALLS + 6];
    unsigned n = 0;
    code[n++] =
        (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch));
    code[n++] =
        (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)ARCH, 0, CALLS + 1);
    code[n++] =
        (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (unsigned i = 0; i < CALLS; i++)
        code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)calls[i],
                                                 (unsigned char)(CALLS - i), 0);
    code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM);
    code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = {(unsigned short)n, code};
    /* Without filters in the kernel, only the limits below apply. */
    if (!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
#endif
}

static void limit(int resource, rlim_t value)
{
    struct rlimit r = {value, value};
    setrlimit((__rlimit_resource_t)resource, &r);
}

/* Suppress what a crashing process would print. */
static void be_silent(void)
{
    int nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (nothing < 0 || dup2(nothing, fd) < 0) close(fd);
}

/* Reset signal handlers: those of the parent, and of sanitizers, are not for this process. */
static void die_plainly(void)
{
    static const int deadly[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGXCPU};
    for (size_t i = 0; i < sizeof deadly / sizeof *deadly; i++)
        signal(deadly[i], SIG_DFL);
}

/* A sanitizer needs address space of its own. */
#if MABN_ADDRESS_SANITIZER || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

static void lock_in(void)
{
    be_silent();
    die_plainly();
    limit(RLIMIT_CORE, 0);
    limit(RLIMIT_FSIZE, 0);
    limit(RLIMIT_NOFILE, 0); /* nothing new can be opened, not even a socket */
    limit(RLIMIT_CPU, CPU_SECONDS);
    if (!SANITIZED) limit(RLIMIT_AS, MAX_MEMORY);
    allow_few_calls();
}

/* First byte: 0 and an index, or a status and its message. */
static void child(int fd, uint64_t size, int out)
{
    struct walk w = {0};
    struct mabn_str answer;
    lock_in();
    mabn_status status = walk_file(&w, fd, size);
    mabn_str_init(&answer);
    mabn_str_add_char(&answer, (char)status);
    if (status)
        mabn_str_add(&answer, mabn_error_message());
    else
        mabn_h5_table_encode(&w.table, &answer);
    _exit(mabn_write_all(out, answer.text, answer.length, "pipe") ? 1 : 0);
}

/* ---- the parent ---- */

static bool read_answer(int fd, struct mabn_str *answer)
{
    char block[65536];
    double until = mabn_now() + WAIT_SECONDS;
    for (;;) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        double left = until - mabn_now();
        if (left <= 0) return false;
        int ready = poll(&p, 1, (int)(left * 1000) + 1);
        if (ready < 0 && errno != EINTR) return false;
        if (ready <= 0) continue;
        ssize_t n = read(fd, block, sizeof block);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return n == 0;
        mabn_str_add_bytes(answer, block, (size_t)n);
        if (answer->length > MABN_H5_MAX_INDEX) return false;
    }
}

/* Read the child's answer: an index, or why there is none. */
static mabn_status take_answer(struct mabn_str *answer, uint64_t size, struct mabn_h5_table *t,
                               const char *path)
{
    if (answer->text[0]) {
        for (char *p = answer->text + 1; *p; p++) /* names from the file go to a terminal */
            if (*p < ' ' || *p > '~') *p = '?';
        return mabn_fail((mabn_status)answer->text[0], "'%s': %s", path, answer->text + 1);
    }
    MABN_TRY(
        mabn_h5_table_parse(t, (const uint8_t *)answer->text + 1, answer->length - 1, size, path));
    for (size_t i = 0; i < t->item_count; i++)
        t->items[i].hashed = false;
    return MABN_OK;
}

mabn_status mabn_h5_index_foreign(int fd, uint64_t size, struct mabn_h5_table *t, const char *path)
{
    struct mabn_str answer;
    mabn_status status;
    int ends[2], result = 0;
    if (pipe2(ends, O_CLOEXEC)) return mabn_fail_errno("cannot read '%s'", path);
    mabn_h5_lock(); /* so that no other thread is inside libhdf5 when we fork */
    pid_t pid = fork();
    if (!pid) child(fd, size, ends[1]);
    mabn_h5_unlock();
    close(ends[1]);
    if (pid < 0) {
        close(ends[0]);
        return mabn_fail_errno("cannot read '%s'", path);
    }
    mabn_str_init(&answer);
    if (!read_answer(ends[0], &answer)) kill(pid, SIGKILL);
    close(ends[0]);
    while (waitpid(pid, &result, 0) < 0 && errno == EINTR) {
    }
    if (!WIFEXITED(result) || WEXITSTATUS(result) || !answer.length)
        status = mabn_fail(MABN_ERR_FORMAT, "'%s' is damaged or hostile: HDF5 failed on it", path);
    else
        status = take_answer(&answer, size, t, path);
    mabn_str_release(&answer);
    return status;
}
