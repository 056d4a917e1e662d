# make bench-pack [BENCH_TREE=DIR]: mabn-pack beside tar, on a class tree.
.PHONY: bench-pack
bench-pack: $(B)/bin/mabn-pack
	tests/bench/pack-tar.sh $(B)/bin $(BENCH_TREE)
