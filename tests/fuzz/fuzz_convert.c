/* What the names and shapes of a checkpoint lead to: mabn-convert's guess of the program, the network
 * and its norms, detectors above all, from tables of tensors that are nearly right.
 *
 * The first byte chooses options. The rest is text, a tensor a line: its name, then its dimensions
 * ("rpn.head.conv.weight 8 8 3 3"); all are zeros. They become a safetensors file in memory. What the
 * converter then writes without a complaint must be a network that is built and takes every tensor. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/log.h"
#include "base/str.h"
#include "device/device.h"
#include "exchange/convert.h"
#include "model/model_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

enum { MAX_BYTES = 4 << 20, MAX_TENSORS = 1000 };

static struct mabn_device *device;
static char output[64];

static void set_up(void)
{
    if (device) return;
    mabn_log_set_level(MABN_LOG_QUIET);
    if (mabn_device_open(&device, "cpu", 1)) abort();
    snprintf(output, sizeof output, "/dev/shm/fuzz_convert.%d.h5", (int)getpid());
}

/* A line's name; false: it has none that JSON takes as it is. */
static bool is_name(const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (text[i] < 33 || text[i] > 126 || text[i] == '"' || text[i] == '\\') return false;
    return n > 0 && n < 200;
}

static bool ends_with(const char *text, size_t n, const char *end)
{
    const size_t m = strlen(end);
    return n >= m && !memcmp(text + n - m, end, m);
}

/* One tensor's entry in the header; its bytes begin at *offset. */
static bool add_tensor(struct mabn_str *header, const char *line, size_t length, uint64_t *offset)
{
    const char *space = memchr(line, ' ', length);
    const size_t n = space ? (size_t)(space - line) : length;
    const bool whole = ends_with(line, n, "iters") || ends_with(line, n, "num_batches_tracked");
    uint64_t count = 1;
    char shape[128] = "", *rest;
    if (!is_name(line, n)) return false;
    char *copy = strndup(line + n, length - n), *at = copy;
    for (int i = 0; i < 6; i++, at = rest) {
        const unsigned long long d = strtoull(at, &rest, 10);
        if (rest == at) break;
        if (d > MAX_BYTES || (count *= d) > MAX_BYTES) {
            free(copy);
            return false;
        }
        snprintf(shape + strlen(shape), sizeof shape - strlen(shape), "%s%llu", *shape ? "," : "",
                 d);
    }
    free(copy);
    const uint64_t end = *offset + count * (whole ? 8 : 4);
    if (end > MAX_BYTES) return false;
    mabn_str_printf(header,
                    "%s\"%.*s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%llu,%llu]}",
                    header->length > 1 ? "," : "", (int)n, line, whole ? "I64" : "F32", shape,
                    (unsigned long long)*offset, (unsigned long long)end);
    *offset = end;
    return true;
}

/* The file as a descriptor in memory. */
static int make_file(const char *text, size_t size)
{
    struct mabn_str header;
    uint64_t offset = 0;
    int tensors = 0;
    mabn_str_init(&header);
    mabn_str_add_char(&header, '{');
    for (const char *at = text, *end = text + size; at < end && tensors < MAX_TENSORS;) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        if (!stop) stop = end;
        tensors += add_tensor(&header, at, (size_t)(stop - at), &offset);
        at = stop + 1;
    }
    mabn_str_add_char(&header, '}');
    const int fd = memfd_create("fuzz.safetensors", 0);
    const uint64_t length = header.length;
    if (fd < 0 || write(fd, &length, 8) != 8 ||
        write(fd, header.text, header.length) != (ssize_t)header.length ||
        ftruncate(fd, (off_t)(8 + length + offset)))
        abort();
    mabn_str_release(&header);
    return fd;
}

/* A file of ours that was written without a complaint holds a whole network. */
static void use(void)
{
    struct mabn_model_file file;
    struct mabn_params *params;
    const struct mabn_model_load load = {.momentum = false};
    if (mabn_model_file_open(&file, output)) return; /* tensors of no network that is known */
    if (!file.detects) {
        mabn_model_file_release(&file);
        return;
    }
    if (mabn_params_new(&params, device)) abort();
    if (mabn_detector_declare(params, device, &file.detector, false)) abort();
    if (mabn_model_file_load(&file, params, &load)) abort();
    mabn_params_free(params);
    mabn_model_file_release(&file);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct mabn_convert_options o;
    struct mabn_convert *c;
    struct mabn_str text;
    char path[40];
    set_up();
    if (!size) return 0;
    mabn_convert_options_init(&o);
    o.to = (bytes[0] & 3) == 3 ? -1 : (bytes[0] & 3);
    if (!(bytes[0] & 4)) o.to = -1;
    o.body = (enum mabn_convert_body)((bytes[0] >> 3) % 3);
    if (!(bytes[0] & 32)) o.body = MABN_BODY_AS_IS;
    o.fold_frozen = bytes[0] & 64;
    const int fd = make_file((const char *)bytes + 1, size - 1);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    mabn_str_init(&text);
    if (!mabn_convert_open(&c, path, &o)) {
        mabn_convert_list(c, &text);
        mabn_convert_describe(c, &text);
        const size_t complaints = mabn_convert_complain(c, 5, &text);
        const bool known = !mabn_convert_is_unknown(c);
        if (!complaints && known && !mabn_convert_remarks(c, &text) &&
            !mabn_convert_write(c, output, MABN_WEIGHTS_HDF5, true, "fuzz", "fuzz", NULL) &&
            o.to < 0 && o.body == MABN_BODY_AS_IS)
            use();
        unlink(output);
        mabn_convert_free(c);
    }
    mabn_str_release(&text);
    close(fd);
    return 0;
}
