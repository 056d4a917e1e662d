# Speed, always beside a peer in the same run, and comparisons of numbers with peers. Slow and noisy:
# nothing here runs in check.
#
#   make bench            all of the below that this machine can run
#   make bench-net        ResNet-50 beside PyTorch 2 and onnxruntime, PEER_ROUNDS rounds in turns, then batch 1
#                         on one thread and on two; about ten minutes on two idle cores
#   make bench-start      how soon mabn-eval and mabn-train compute: ResNet-50, four photographs; a small network
#   make bench-detector   Mask R-CNN beside torchvision's, on photographs of coco-tiny
#   make bench-overfit    a Mask R-CNN learns 32 photographs by heart; an hour
#   make bench-precision  training in bfloat16 beside float32: the losses of 500 steps drawn together
#   make bench-norm       the norms beside a copy of the same bytes
#   make bench-roi        RoIAlign beside torchvision's
#   make bench-nms        suppression and pasting beside torchvision's
#   make bench-loader     the loader beside a bare libjpeg-turbo loop on the same JPEGs
#   make bench-scenes     how many of COCO's photographs a second a detector's loader prepares
#   make bench-pack       mabn-pack beside tar, on the class tree BENCH_TREE
#   make bench-convert    mabn-convert beside cp
#   make bench-coco       mabn-score beside pycocotools, faster-coco-eval and hotcoco
#   make peer             numbers: norms, a detector's operations, pictures, masks, scores, logits
#
# MABN_SHARED=DIR: real data (imagenet-sample, coco-tiny); what needs it is left out without.
# pycocotools, faster-coco-eval, hotcoco, lvis and tidecv come from PyPI into build/venv when they are first needed,
# PyTorch 2, torchvision and onnxruntime into build/venv-torch (gigabytes, unless pip is set up for the CPU's wheels).
# NET_PYTHON=/usr/bin/python3: bench-net beside Debian's PyTorch.

PEER_ROUNDS  ?= 2
BENCH_IMAGES ?= $(if $(MABN_SHARED),$(MABN_SHARED)/data/imagenet-sample)
BENCH_TREE   ?= $(BENCH_IMAGES)
VENV         := build/venv/ready
TORCH_VENV   := build/venv-torch/ready
NET_PYTHON   ?= build/venv-torch/bin/python
PYTHON       ?= /usr/bin/python3
COCO_TINY     = $(MABN_SHARED)/data/coco-tiny/train2017 $(MABN_SHARED)/data/coco-tiny/annotations/instances_train2017.json
tools_first  := PATH="$(abspath $(B)/bin):$$PATH"

.PHONY: bench bench-net bench-start bench-detector bench-overfit bench-precision bench-norm bench-roi bench-nms bench-loader bench-scenes bench-pack bench-convert bench-coco peer
bench: bench-norm bench-loader bench-pack bench-convert $(if $(MABN_SHARED),bench-coco) bench-roi bench-nms bench-net

bench-net: $(TORCH_VENV) all
	@$(tools_first) $(NET_PYTHON) tests/peer/resnet.py --rounds $(PEER_ROUNDS)
	@for t in 1 2; do $(tools_first) $(NET_PYTHON) tests/peer/resnet.py --rounds $(PEER_ROUNDS) \
	    --only inference --batch 1 --steps 10 --threads $$t || exit 1; done
bench-start: all
	@$(tools_first) tests/bench/start.sh $(BENCH_IMAGES)
bench-detector: $(TORCH_VENV) all
	$(if $(MABN_SHARED),,$(error bench-detector needs MABN_SHARED))
	@$(tools_first) build/venv-torch/bin/python tests/peer/detector.py $(COCO_TINY) --rounds $(PEER_ROUNDS)
bench-overfit: all
	$(if $(MABN_SHARED),,$(error bench-overfit needs MABN_SHARED))
	@$(tools_first) tests/bench/overfit.sh $(COCO_TINY) build/overfit
bench-precision: deps-demo all
	@$(tools_first) tests/bench/precision.sh build/precision
bench-norm: $(B)/tests/bench/bench_norm
	$(B)/tests/bench/bench_norm
bench-roi: deps-peer lib
	$(PYTHON) tests/peer/roi_align.py --bench
bench-nms: deps-peer lib
	$(PYTHON) tests/peer/nms_paste.py --bench
bench-loader: $(B)/tests/bench/bench_loader
	$(B)/tests/bench/bench_loader $(BENCH_FLAGS) $(BENCH_IMAGES)
bench-scenes: $(B)/tests/bench/bench_scenes
	$(B)/tests/bench/bench_scenes $(BENCH_FLAGS) $(firstword $(COCO_TINY))
bench-pack: $(B)/bin/mabn-pack
	tests/bench/pack-tar.sh $(B)/bin $(BENCH_TREE)
bench-convert: deps-peer $(B)/bin/mabn-convert
	tests/bench/convert_speed.sh 1024 7 $(B)/bin
bench-coco: $(VENV) $(B)/bin/mabn-score
	$(if $(MABN_SHARED),,$(error bench-coco needs MABN_SHARED))
	build/venv/bin/python tests/bench/coco_score.py $(MABN_SHARED) --bin $(B)/bin --runs 3

$(VENV): | deps-peer
	$(PYTHON) -m venv build/venv
	build/venv/bin/pip install -q numpy pycocotools faster-coco-eval hotcoco lvis tidecv opencv-python-headless
	@touch $@

$(TORCH_VENV): | deps-peer
	$(PYTHON) -m venv build/venv-torch
	build/venv-torch/bin/pip install -q torch torchvision onnxruntime numpy pillow
	@touch $@

peer: deps-peer all $(VENV)
	$(PYTHON) tests/peer/norms.py
	$(if $(strip $(PLUGINS)),$(MAKE) --no-print-directory dist-programs && $(PYTHON) tests/peer/sync.py --build $(B))
	$(PYTHON) tests/peer/roi_align.py
	$(PYTHON) tests/peer/detector_ops.py
	$(PYTHON) tests/peer/nms_paste.py
	$(PYTHON) tests/peer/resize.py $(B)
	build/venv/bin/python tests/peer/coco_masks.py $(B)
	build/venv/bin/python tests/peer/coco_random.py --bin $(B)/bin
	build/venv/bin/python tests/peer/coco_why.py --bin $(B)/bin
	build/venv/bin/python tests/peer/lvis_random.py --bin $(B)/bin
	build/venv/bin/python tests/peer/coco_boundary.py --bin $(B)/bin
	$(PYTHON) tests/peer/coco_packed.py --bin $(B)/bin
	$(if $(MABN_SHARED),$(PYTHON) tests/peer/convert_logits.py $(MABN_SHARED)/data/imagenet-sample $(B)/bin 4)
	$(if $(MABN_SHARED),$(PYTHON) tests/peer/convert_detector.py --tools $(B)/bin)
