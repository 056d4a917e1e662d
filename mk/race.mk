# make check-race: unit tests and a short training under ThreadSanitizer, by clang, whose OpenMP
# tells it (Archer) what waits for what; gcc's does not and raises false alarms in every loop. Needs
# clang and libomp-dev. What is not ours (oneDNN, HDF5) is not watched.
RB := build/race
RACE := base data dataset coco ops conv norm net scene
.PHONY: check-race race-programs
race-programs: $(RACE:%=$(RB)/tests/unit/test_%) $(RB)/bin/mabn-pack $(RB)/bin/mabn-train
check-race:
	@echo 'int main(void) { return 0; }' | $(CLANG) -x c -fopenmp -o /dev/null - 2>/dev/null || \
	    { echo 'check-race: needs clang and libomp-dev'; exit 1; }
	@$(MAKE) --no-print-directory SAN=thread CUDA=0 B=$(RB) CC="$(CLANG) -DMABN_NO_CLONES" race-programs
	@tests/race $(RB) $(RACE)
