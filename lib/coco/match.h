/* Private to lib/coco: fill an evaluation by matching every image of a join. */
#ifndef MABN_COCO_MATCH_H
#define MABN_COCO_MATCH_H

#include "base/status.h"

MABN_BEGIN_DECLS

struct mabn_coco_evaluation;
struct mabn_coco_join;

MABN_MUST_USE mabn_status mabn_coco_match(struct mabn_coco_evaluation *e,
                                          const struct mabn_coco_join *join);

MABN_END_DECLS
#endif
