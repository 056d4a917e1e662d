#include "image/oddities.h"

#include "base/log.h"

static void add(struct mabn_image_oddity *o, int64_t number)
{
    int64_t first = __atomic_load_n(&o->first, __ATOMIC_RELAXED);
    while (number < first && !__atomic_compare_exchange_n(&o->first, &first, number, true,
                                                          __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        ;
    __atomic_fetch_add(&o->count, 1, __ATOMIC_RELAXED);
}

void mabn_image_oddities_add(struct mabn_image_oddities *o, int64_t number,
                             const struct mabn_image_info *info)
{
    if (info->pictures > 1) {
        add(&o->several, number);
        __atomic_fetch_add(&o->further, (int64_t)info->pictures - 1, __ATOMIC_RELAXED);
    }
    if (info->alpha) add(&o->alpha, number);
    if (info->orientation > 1) add(&o->turned, number);
}

void mabn_image_oddities_tell(const struct mabn_image_oddities *o,
                              const char *(*name)(const void *context, int64_t number),
                              const void *context, const char *done, const char *turned)
{
    if (o->several.count)
        mabn_warn("%lld file%s more than one picture (the first: '%s'): the first of each is %s, "
                  "%lld other%s left out",
                  (long long)o->several.count, o->several.count == 1 ? " holds" : "s hold",
                  name(context, o->several.first), done, (long long)o->further,
                  o->further == 1 ? " is" : "s are");
    if (o->alpha.count)
        mabn_warn(
            "%lld picture%s an alpha channel or a transparent colour (the first: '%s'), which "
            "is ignored: pixels have the colours stored under it",
            (long long)o->alpha.count, o->alpha.count == 1 ? " has" : "s have",
            name(context, o->alpha.first));
    if (o->turned.count && turned)
        mabn_warn("%lld picture%s an EXIF orientation (the first: '%s'): %s",
                  (long long)o->turned.count, o->turned.count == 1 ? " has" : "s have",
                  name(context, o->turned.first), turned);
}
