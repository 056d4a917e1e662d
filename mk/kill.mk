# Kill tests: kill -9 at random moments, then compare with an undisturbed run bit for bit.
KILL_TRIALS ?= 50
.PHONY: check-kill check-kill-ranks
check-kill: $(BIN)
	@for script in tests/kill/*.sh; do "$$script" $(B)/bin $(KILL_TRIALS) || exit 1; done
# Of several ranks alone, under each MPI: random ranks killed or stopped.
check-kill-ranks: $(BIN) plugins
	@for mpi in openmpi mpich; do MPI=$$mpi tests/kill/ranks.sh $(B)/bin $(KILL_TRIALS) || exit 1; done
