# Kill tests: kill -9 at random moments, then compare with an undisturbed run bit for bit.
KILL_TRIALS ?= 50
.PHONY: check-kill
check-kill: $(BIN)
	@for script in tests/kill/*.sh; do "$$script" $(B)/bin $(KILL_TRIALS) || exit 1; done
