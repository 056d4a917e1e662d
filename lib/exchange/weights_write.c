/* The common part of all writers: declarations and notes, then tensors, then commit. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "exchange/weights_impl.h"

struct mabn_weights_writer *mabn_weights_writer_new(const struct mabn_weights_sink *sink,
                                                    const char *path, bool force)
{
    struct mabn_weights_writer *writer = mabn_xcalloc(1, sizeof *writer);
    writer->sink = sink;
    writer->path = mabn_xstrdup(path);
    writer->force = force;
    mabn_str_init(&writer->graph);
    return writer;
}

mabn_status mabn_weights_declare(struct mabn_weights_writer *writer, const struct mabn_weight *w)
{
    if (writer->begun) MABN_BUG("tensor '%s' declared after the first write", w->name);
    struct mabn_weight t = *w;
    if (!mabn_shape_count(&t.shape, &t.count) ||
        !mabn_size_mul(t.count, mabn_dtype_size(t.dtype), &t.bytes))
        return mabn_fail(MABN_ERR_ARG, "tensor '%s' has an impossible shape", t.name);
    if (writer->count >= MABN_WEIGHT_MAX_COUNT)
        return mabn_fail(MABN_ERR_LIMIT, "more than %d tensors", MABN_WEIGHT_MAX_COUNT);
    t.name = mabn_xstrdup(w->name);
    MABN_GROW(writer->items, writer->count, writer->capacity);
    writer->items[writer->count++] = t;
    return MABN_OK;
}

mabn_status mabn_weights_set_note(struct mabn_weights_writer *writer, const char *key,
                                  const char *value)
{
    if (writer->begun) MABN_BUG("note '%s' set after the first write", key);
    struct mabn_weights_note *note = mabn_notes_find(&writer->notes, key);
    if (note) {
        free(note->value);
        note->value = mabn_xstrdup(value);
    } else {
        mabn_notes_add(&writer->notes, key, value);
    }
    return MABN_OK;
}

const char *mabn_weights_writer_note(const struct mabn_weights_writer *writer, const char *key)
{
    const struct mabn_weights_note *note = mabn_notes_find(&writer->notes, key);
    return note ? note->value : NULL;
}

mabn_status mabn_weights_begin(struct mabn_weights_writer *writer)
{
    if (writer->begun) return MABN_OK;
    writer->begun = true;
    writer->written = mabn_xcalloc(writer->count + 1, sizeof *writer->written);
    return writer->sink->begin(writer);
}

mabn_status mabn_weights_write(struct mabn_weights_writer *writer, size_t index, const void *data)
{
    MABN_TRY(mabn_weights_begin(writer));
    if (index >= writer->count || writer->written[index])
        MABN_BUG("tensor %zu is not declared, or written twice", index);
    writer->written[index] = true;
    MABN_TRY(writer->sink->put(writer, index, data));
    if (writer->out.path)
        mabn_start_writeback(writer->out.fd, &writer->unflushed, writer->items[index].bytes);
    return MABN_OK;
}

mabn_status mabn_weights_commit(struct mabn_weights_writer *writer)
{
    MABN_TRY(mabn_weights_begin(writer));
    for (size_t i = 0; i < writer->count; i++)
        if (!writer->written[i]) MABN_BUG("tensor '%s' was not written", writer->items[i].name);
    MABN_TRY(writer->sink->finish(writer));
    return writer->out.path ? mabn_outfile_commit(&writer->out) : MABN_OK;
}

void mabn_weights_writer_free(struct mabn_weights_writer *writer)
{
    if (!writer) return;
    if (writer->begun) writer->sink->free_backend(writer->backend);
    if (writer->out.path) mabn_outfile_abort(&writer->out);
    for (size_t i = 0; i < writer->count; i++)
        free((char *)writer->items[i].name);
    free(writer->items);
    mabn_notes_release(&writer->notes);
    free(writer->written);
    mabn_str_release(&writer->graph);
    free(writer->path);
    free(writer);
}
