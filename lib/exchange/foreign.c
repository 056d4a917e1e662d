/* Files that are not read, named for what they are: by their first bytes, by the names in a zip
 * archive, by words in an HDF5 file. Whoever has the wrong file then knows what to do. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "exchange/weights_impl.h"

/* ---- by the first bytes ---- */

static const struct {
    size_t at;
    const char *bytes;
    size_t length;
    const char *what;
} kinds[] = {
#define MAGIC(at, bytes, what)            \
    {                                     \
        at, bytes, sizeof bytes - 1, what \
    }
    MAGIC(0, "\x1f\x8b", "compressed by gzip: unpack it first"),
    MAGIC(0, "BZh", "compressed by bzip2: unpack it first"),
    MAGIC(0,
          "\xfd"
          "7zXZ",
          "compressed by xz: unpack it first"),
    MAGIC(0, "\x28\xb5\x2f\xfd", "compressed by zstd: unpack it first"),
    MAGIC(0, "7z\xbc\xaf", "a 7-Zip archive: unpack it first"),
    MAGIC(0, "Rar!", "a RAR archive: unpack it first"),
    MAGIC(257, "ustar", "a tar archive: unpack it first"),
    MAGIC(0, "\x93NUMPY", "an array of NumPy (.npy), without names for its tensors"),
    MAGIC(4, "TFL3", "a model of TensorFlow Lite"),
    MAGIC(0, "GGUF", "a GGUF model of llama.cpp"),
    MAGIC(0, "version https://git-lfs", "a pointer of Git LFS: git lfs pull fetches the file"),
    MAGIC(0, "<!DOCTYPE", "an HTML page: the download failed"),
    MAGIC(0, "<!doctype", "an HTML page: the download failed"),
    MAGIC(0, "<html", "an HTML page: the download failed"),
    MAGIC(0, "<?xml", "XML: an answer of a server, or a model of OpenVINO"),
    MAGIC(0, "7767517", "a model of ncnn"),
#undef MAGIC
};

/* The index of a checkpoint in parts, as transformers writes it, or other JSON. */
static mabn_status is_json(const char *name, const char *text)
{
    const char *map = strstr(text, "\"weight_map\"");
    if (!map) return mabn_fail(MABN_ERR_FORMAT, "'%s' is JSON, not weights", name);
    char part[100] = "";
    for (const char *p = strchr(map, ':'); p && !*part; p = strchr(p + 1, ':'))
        sscanf(p, ": \"%99[^\"]", part);
    return mabn_fail(MABN_ERR_UNSUPPORTED,
                     "'%s' is the index of a checkpoint in parts%s%s%s: save it as one file first",
                     name, *part ? " ('" : "", part, *part ? "' and others)" : "");
}

mabn_status mabn_weights_check_foreign(const struct mabn_source *source)
{
    enum { MOST = 4096 };
    char *head = mabn_xcalloc(MOST + 1, 1);
    const size_t n = source->size < MOST ? (size_t)source->size : MOST;
    mabn_status status = mabn_source_read(source, 0, head, n);
    if (!status && !n) status = mabn_fail(MABN_ERR_FORMAT, "'%s' is empty", source->name);
    for (size_t i = 0; !status && i < sizeof kinds / sizeof *kinds; i++)
        if (n >= kinds[i].at + kinds[i].length &&
            !memcmp(head + kinds[i].at, kinds[i].bytes, kinds[i].length))
            status = mabn_fail(MABN_ERR_UNSUPPORTED, "'%s' is %s", source->name, kinds[i].what);
    if (!status && n >= 2 && head[0] == '{' && strchr(" \t\r\n\"}", head[1]) && !memchr(head, 0, n))
        status = is_json(source->name, head);
    if (!status && n >= 2 && head[0] == '[' && strchr(" \t\r\n[{]", head[1]) && !memchr(head, 0, n))
        status = mabn_fail(MABN_ERR_UNSUPPORTED,
                           "'%s' is a JSON list, as COCO results are, not weights or annotations",
                           source->name);
    mabn_free(head);
    return status;
}

/* ---- zip archives ---- */

static bool ends(const char *name, const char *ending)
{
    const size_t n = strlen(name), k = strlen(ending);
    return n >= k && !strcmp(name + n - k, ending);
}

struct found {
    const char *what;
    char packed[100];
};

static void look_at_name(void *context, const char *name)
{
    static const struct {
        const char *name, *what;
    } parts[] = {
        {"constants.pkl", "a TorchScript program: save the model's state_dict() instead"},
        {"serialized_exported_program.json",
         "a program of torch.export: save the model's state_dict() instead"},
        {"models/model.json", "a program of torch.export: save the model's state_dict() instead"},
        {"model.weights.h5", "a model of Keras"},
        {"MAR-INF/MANIFEST.json", "an archive of TorchServe: unpack the weights in it first"},
        {".npy", "an archive of NumPy (.npz): save its arrays as safetensors"},
    };
    static const char *const weights[] = {".pth",  ".pt", ".ckpt",        ".bin",
                                          ".onnx", ".h5", ".safetensors", ".tar"};
    struct found *f = context;
    for (size_t i = 0; !f->what && i < sizeof parts / sizeof *parts; i++)
        if (ends(name, parts[i].name)) f->what = parts[i].what;
    for (size_t i = 0; !*f->packed && i < sizeof weights / sizeof *weights; i++)
        if (ends(name, weights[i])) snprintf(f->packed, sizeof f->packed, "%s", name);
}

mabn_status mabn_zip_name_foreign(mabn_status status, const struct mabn_source *source)
{
    struct found found = {NULL, ""};
    char *message = mabn_error_detach();
    const mabn_status read = mabn_zip_names(source, look_at_name, &found);
    if (!read && found.what)
        status = mabn_fail(MABN_ERR_UNSUPPORTED, "'%s' is %s", source->name, found.what);
    else if (!read && *found.packed)
        status = mabn_fail(MABN_ERR_UNSUPPORTED,
                           "'%s' is a zip archive that holds '%s': unpack it first", source->name,
                           found.packed);
    else
        status = mabn_fail(status, "%s", message);
    free(message);
    return status;
}

/* ---- HDF5 ---- */

mabn_status mabn_hdf5_name_foreign(mabn_status status, const struct mabn_source *source)
{
    static const char *const words[] = {"keras_version", "layer_names", "model_weights"};
    enum { MOST = 64 << 10 };
    char *message = mabn_error_detach(), *head = mabn_xmalloc(MOST);
    const size_t n = source->size < MOST ? (size_t)source->size : MOST;
    const bool read = !mabn_source_read(source, 0, head, n);
    bool keras = read && memmem(head, n, "vars", 5) && memmem(head, n, "layers", 7);
    for (size_t i = 0; read && i < sizeof words / sizeof *words; i++)
        keras |= memmem(head, n, words[i], strlen(words[i])) != NULL;
    if (keras)
        status = mabn_fail(MABN_ERR_UNSUPPORTED, "'%s' is a model of Keras", source->name);
    else
        status = mabn_fail(status, "%s", message);
    free(message);
    mabn_free(head);
    return status;
}
