/* Text is cut into runs of letters that one font has; each run is shown with that font. */
#include "coco/lettering.h"

#include <cairo/cairo-ft.h>
#include <fontconfig/fontconfig.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

struct font {
    cairo_font_face_t *face; /* NULL until it is needed */
    FcCharSet *letters;      /* borrowed from its pattern */
};

struct mabn_lettering {
    FcConfig *config;
    FcPattern *wanted;
    FcFontSet *set; /* NULL until a letter is missing in the first font */
    cairo_font_face_t *usual;
    FcCharSet *usual_letters; /* NULL: not known, all are taken to be there */
    FcPattern *usual_match;
    struct font *fonts; /* (set->nfont) */
};

struct mabn_lettering *mabn_lettering_new(void)
{
    FcResult result;
    struct mabn_lettering *l = mabn_xcalloc(1, sizeof *l);
    l->config = FcInitLoadConfigAndFonts();
    l->wanted = FcPatternBuild(NULL, FC_FAMILY, FcTypeString, "DejaVu Sans", NULL);
    FcConfigSubstitute(l->config, l->wanted, FcMatchPattern);
    FcDefaultSubstitute(l->wanted);
    l->usual_match = FcFontMatch(l->config, l->wanted, &result);
    if (l->usual_match &&
        FcPatternGetCharSet(l->usual_match, FC_CHARSET, 0, &l->usual_letters) != FcResultMatch)
        l->usual_letters = NULL;
    l->usual = l->usual_match ? cairo_ft_font_face_create_for_pattern(l->usual_match)
                              : cairo_toy_font_face_create("sans", CAIRO_FONT_SLANT_NORMAL,
                                                           CAIRO_FONT_WEIGHT_NORMAL);
    return l;
}

void mabn_lettering_free(struct mabn_lettering *l)
{
    if (!l) return;
    for (int i = 0; l->set && i < l->set->nfont; i++)
        if (l->fonts[i].face) cairo_font_face_destroy(l->fonts[i].face);
    free(l->fonts);
    cairo_font_face_destroy(l->usual);
    if (l->set) FcFontSetDestroy(l->set);
    if (l->usual_match) FcPatternDestroy(l->usual_match);
    FcPatternDestroy(l->wanted);
    if (l->config) FcConfigDestroy(l->config);
    free(l);
}

/* All fonts, nearest to the wanted one first. */
static void find_fonts(struct mabn_lettering *l)
{
    FcResult result;
    l->set = FcFontSort(l->config, l->wanted, FcFalse, NULL, &result);
    if (!l->set) l->set = FcFontSetCreate();
    l->fonts = mabn_xcalloc((size_t)l->set->nfont + 1, sizeof *l->fonts);
    for (int i = 0; i < l->set->nfont; i++)
        if (FcPatternGetCharSet(l->set->fonts[i], FC_CHARSET, 0, &l->fonts[i].letters) !=
            FcResultMatch)
            l->fonts[i].letters = NULL;
}

/* The font that shows a letter; the usual one if no font has it. */
static cairo_font_face_t *font_of(struct mabn_lettering *l, FcChar32 letter)
{
    if (!l->usual_letters || FcCharSetHasChar(l->usual_letters, letter)) return l->usual;
    if (!l->set) find_fonts(l);
    for (int i = 0; i < l->set->nfont; i++) {
        struct font *f = &l->fonts[i];
        FcBool outline = FcFalse;
        if (!f->letters || !FcCharSetHasChar(f->letters, letter)) continue;
        FcPatternGetBool(l->set->fonts[i], FC_OUTLINE, 0, &outline);
        if (!outline) continue; /* bitmaps have sizes of their own */
        if (!f->face) {
            FcPattern *whole = FcFontRenderPrepare(l->config, l->wanted, l->set->fonts[i]);
            f->face = cairo_ft_font_face_create_for_pattern(whole);
            FcPatternDestroy(whole);
        }
        return f->face;
    }
    return l->usual;
}

/* The next letter: its bytes are copied to `out` (at most 4), or U+FFFD's. */
static size_t next_letter(const char *text, char out[5], FcChar32 *letter)
{
    size_t left = strlen(text);
    int n = FcUtf8ToUcs4((const FcChar8 *)text, letter, left < 4 ? (int)left : 4);
    bool fine = n > 0 && n <= 4 && *letter <= 0x10ffff && (*letter < 0xd800 || *letter > 0xdfff);
    memset(out, 0, 5);
    if (fine) {
        memcpy(out, text, (size_t)n);
        if (*letter < 0x20 || *letter == 0x7f) memcpy(out, " ", 2);
        return (size_t)n;
    }
    *letter = 0xfffd;
    memcpy(out, "\xef\xbf\xbd", 3);
    return 1;
}

/* Walk the runs of a text, and show them if asked to. Returns the width. */
static double walk(struct mabn_lettering *l, cairo_t *cr, const char *text, bool show, double x,
                   double y)
{
    char run[256];
    size_t n = 0;
    double start = x;
    cairo_font_face_t *font = NULL;
    while (*text || n) {
        char bytes[5] = "";
        FcChar32 letter = 0;
        size_t step = *text ? next_letter(text, bytes, &letter) : 0;
        cairo_font_face_t *other = step ? font_of(l, letter) : NULL;
        if (n && (other != font || n + 5 > sizeof run)) {
            cairo_text_extents_t e;
            run[n] = 0;
            n = 0;
            cairo_set_font_face(cr, font);
            cairo_text_extents(cr, run, &e);
            cairo_move_to(cr, x, y);
            if (show) cairo_show_text(cr, run);
            x += e.x_advance;
        }
        if (!step) break;
        font = other;
        memcpy(run + n, bytes, strlen(bytes));
        n += strlen(bytes);
        text += step;
    }
    cairo_new_path(cr);
    return x - start;
}

double mabn_lettering_width(struct mabn_lettering *l, cairo_t *cr, const char *text)
{
    return walk(l, cr, text, false, 0, 0);
}

void mabn_lettering_extents(struct mabn_lettering *l, cairo_t *cr, cairo_font_extents_t *out)
{
    cairo_set_font_face(cr, l->usual);
    cairo_font_extents(cr, out);
}

void mabn_lettering_show(struct mabn_lettering *l, cairo_t *cr, const char *text, double x,
                         double y)
{
    walk(l, cr, text, true, x, y);
}

size_t mabn_lettering_cut(const char *text, size_t most)
{
    size_t n = strlen(text);
    if (n <= most) return n;
    for (n = most; n > 0 && ((unsigned char)text[n] & 0xc0) == 0x80;)
        n--;
    return n;
}
