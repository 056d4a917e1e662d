# ResNet-50 beside PyTorch on this machine; PEER_ROUNDS rounds of everything, in turns.
PEER_ROUNDS ?= 3
.PHONY: bench-net
bench: bench-net
bench-net: all
	@PATH=$(abspath $(B)/bin):$$PATH tests/peer/resnet.py --rounds $(PEER_ROUNDS)
