#!/usr/bin/python3
"""detectors.py NORM: a whole Mask R-CNN R50-FPN of random blobs, in the layouts of Detectron
(detectron.pkl: {blobs}, momenta and lr too) and of detectron2 (detectron2.pkl: {model}), with frozen
norms in the body or, where NORM is gn, group norms everywhere and convolutions in the box head; `reference` gets the names that the
reference's detector has for them, count-FILE the lines that --list prints for each file. Channels
are few, in the proportions of a ResNet-50: names do not depend on them.
"""
import pickle
import sys

import numpy as np

gn = sys.argv[1] == "gn"
random = np.random.default_rng(1)
caffe2, detectron2, reference = {}, {}, []
C = 4


def put(c2, d2, ours, shape):
    value = random.standard_normal(shape).astype(np.float32)
    if c2:
        caffe2[c2] = value
    if d2:
        detectron2[d2] = value
    if ours:
        reference.append(ours)


def norm(c2, d2, ours, width):
    kinds = ("gn" if gn else "bn", (("_s", "weight"), ("_b", "bias")))
    for c, leaf in kinds[1]:
        put("%s_%s%s" % (c2, kinds[0], c), "%s.norm.%s" % (d2, leaf), "%s.%s" % (ours, leaf), width)
    if not gn:
        for leaf in ("running_mean", "running_var"):
            put(None, "%s.norm.%s" % (d2, leaf), "%s.%s" % (ours, leaf), width)


def conv_norm(c2, d2, conv, bn, shape, norm2=None):
    put(c2 + "_w", d2 + ".weight", conv + ".weight", shape)
    norm(norm2 or c2, d2, bn, shape[0])


def layer(c2, d2, ours, shape, with_norm):
    if with_norm and gn:
        put(c2 + "_w", d2 + ".weight", ours + ".0.weight", shape)
        norm(c2, d2, ours + ".1", shape[0])
    else:
        for c, leaf, size in (("_w", ".weight", shape), ("_b", ".bias", shape[:1])):
            put(c2 and c2 + c, d2 and d2 + leaf, ours and ours + leaf, size)


body, there = "backbone.body.", "backbone.bottom_up."
conv_norm("conv1", there + "stem.conv1", body + "stem.conv1", body + "stem.bn1",
          (C, 3, 7, 7),
          "conv1" if gn else "res_conv1")
came = C
for stage, blocks in enumerate((3, 4, 6, 3)):
    inner, outer = C << stage, 2 * C << stage
    for b in range(blocks):
        c2, d2 = "res%d_%d_branch" % (stage + 2, b), there + "res%d.%d." % (stage + 2, b)
        ours = body + "layer%d.%d." % (stage + 1, b)
        for k in (1, 2, 3):
            conv_norm(c2 + "2" + "abc"[k - 1], d2 + "conv%d" % k, ours + "conv%d" % k,
                      ours + "bn%d" % k,
                      ((inner, came, 1, 1), (inner, inner, 3, 3), (outer, inner, 1, 1))[k - 1])
        if b == 0:
            conv_norm(c2 + "1", d2 + "shortcut", ours + "downsample.0", ours + "downsample.1",
                      (outer, came, 1, 1))
        came = outer
for stage, blocks in enumerate((3, 4, 6, 3)):
    level = "res%d_%d_sum" % (stage + 2, blocks - 1)
    side = "" if stage == 3 else "_lateral"
    layer("fpn_inner_%s%s" % (level, side), "backbone.fpn_lateral%d" % (stage + 2),
          "backbone.fpn.fpn_inner%d" % (stage + 1), (C, 2 * C << stage, 1, 1), True)
    layer("fpn_" + level, "backbone.fpn_output%d" % (stage + 2),
          "backbone.fpn.fpn_layer%d" % (stage + 1), (C, C, 3, 3), True)
rpn = "proposal_generator.rpn_head."
layer("conv_rpn_fpn2", rpn + "conv", "rpn.head.conv", (C, C, 3, 3), False)
layer("rpn_cls_logits_fpn2", rpn + "objectness_logits", "rpn.head.cls_logits", (3, C, 1, 1), False)
layer("rpn_bbox_pred_fpn2", rpn + "anchor_deltas", "rpn.head.bbox_pred", (12, C, 1, 1), False)
for i in range(5):
    put(None, "proposal_generator.anchor_generator.cell_anchors.%d" % i,
        "rpn.anchor_generator.cell_anchors.%d" % i, (3, 4))
    sides = [(32 << i) / r ** 0.5 for r in (0.5, 1, 2)], [(32 << i) * r ** 0.5 for r in (0.5, 1, 2)]
    detectron2["proposal_generator.anchor_generator.cell_anchors.%d" % i] = np.float32(
        [[-w / 2, -h / 2, w / 2, h / 2] for w, h in zip(*sides)])
box, mask = "roi_heads.box.", "roi_heads.mask."
for k in range(1, 5 if gn else 1):
    convs = box + "feature_extractor.xconvs.%d"
    conv_norm("head_conv%d" % k, "roi_heads.box_head.conv%d" % k, convs % (3 * k - 3),
              convs % (3 * k - 2), (C, C, 3, 3))
for k in (1,) if gn else (1, 2):
    layer("fc%d" % (k + 5), "roi_heads.box_head.fc%d" % k, box + "feature_extractor.fc%d" % (k + 5),
          (C, C * 49 if k == 1 else C), False)
layer("cls_score", "roi_heads.box_predictor.cls_score", box + "predictor.cls_score", (81, C), False)
layer("bbox_pred", None, box + "predictor.bbox_pred", (324, C), False)
layer(None, "roi_heads.box_predictor.bbox_pred", None, (320, C), False)
for k in (1, 2, 3, 4):
    layer("_[mask]_fcn%d" % k, "roi_heads.mask_head.mask_fcn%d" % k,
          mask + "feature_extractor.mask_fcn%d" % k, (C, C, 3, 3), True)
layer("conv5_mask", "roi_heads.mask_head.deconv", mask + "predictor.conv5_mask", (C, C, 2, 2), False)
layer("mask_fcn_logits", None, mask + "predictor.mask_fcn_logits", (81, C, 1, 1), False)
layer(None, "roi_heads.mask_head.predictor", None, (80, C, 1, 1), False)

for name in list(caffe2):
    caffe2[name + "_momentum"] = np.zeros_like(caffe2[name])
caffe2["lr"] = np.float32([0.02])
for name in ("pixel_mean", "pixel_std"):
    detectron2[name] = np.zeros((3, 1, 1), np.float32)
with open("detectron.pkl", "wb") as f:
    pickle.dump({"blobs": caffe2, "cfg": "MODEL: {TYPE: generalized_rcnn}\n"}, f, protocol=2)
with open("detectron2.pkl", "wb") as f:
    pickle.dump({"model": detectron2, "__author__": "nobody", "matching_heuristics": True}, f)
with open("reference", "w") as f:
    f.write("".join(name + "\n" for name in reference))
for file, blobs in (("detectron.pkl", caffe2), ("detectron2.pkl", detectron2)):
    with open("count-" + file, "w") as f:
        f.write(str(len(blobs)))
