# make bench-loader MABN_SHARED=DIR: the loader beside a bare libjpeg-turbo loop, on the JPEGs of
# DIR/data/imagenet-sample (or of BENCH_IMAGES); without either, raw pictures only.
BENCH_IMAGES ?= $(if $(MABN_SHARED),$(MABN_SHARED)/data/imagenet-sample)
.PHONY: bench-loader
bench-loader: $(B)/tests/bench/bench_loader
	$(B)/tests/bench/bench_loader $(BENCH_FLAGS) $(BENCH_IMAGES)
