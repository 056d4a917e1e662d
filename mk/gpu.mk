# The CUDA kernels' tests and benchmark.
#
# Everywhere: lib/*/*.cu and tests/gpu/test_cuda_*.cu compile as C++ against the executor
# (tests/gpu/executor) with ASan and UBSan, and run among the unit tests; EXECUTOR=0 leaves them out.
# With a GPU: `make check-gpu` builds the same programs with nvcc and runs them there;
# `make bench-gpu` prints what the kernels reach; `make bundle-gpu` packs both for another machine.

CUDA_TESTS := $(patsubst tests/gpu/%.cu,%,$(sort $(wildcard tests/gpu/test_cuda_*.cu)))
CUDA_BENCH := $(patsubst tests/gpu/%.cu,%,$(sort $(wildcard tests/gpu/bench_*.cu)))
CUDA_PROBE := $(patsubst tests/gpu/%.cu,%,$(sort $(wildcard tests/gpu/probe_*.cu)))

# ---- on the executor ------------------------------------------------------------------------

CXX ?= g++
ifeq ($(origin CXX),default)
CXX := g++
endif
E := build/executor$(addprefix -,$(DNNL_KEY))
E_FLAGS := -std=c++17 -O1 -g1 -Itests/gpu/executor -Ilib -Itests/unit -Itests/gpu -D_GNU_SOURCE \
           -DMABN_CUDA=1 -Wall -Wextra -Wno-unknown-pragmas -fno-strict-aliasing \
           $(if $(filter 1,$(DEVELOPER)),-Werror) \
           -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
E_CFLAGS := -std=c11 -O1 -g1 -Ilib -D_GNU_SOURCE -DMABN_CUDA=1 -Wall -Wextra $(PKG_CF) -fopenmp \
            -fno-strict-aliasing $(if $(filter 1,$(DEVELOPER)),-Werror) \
            -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
# A change of stacks asks the sanitizers' run time for its thread-local data: a quarter of a test's
# time is saved where that is not a call into a shared library. gcc has it as an archive too.
E_STATIC := -static-libasan -static-libubsan
E_LDFLAGS = -fsanitize=address,undefined $(shell echo 'int main() {}' | \
            $(CXX) -x c++ -Werror -fsanitize=address,undefined $(E_STATIC) -o /dev/null - 2>/dev/null && echo $(E_STATIC))
# NVIDIA's libraries are stand-ins there; their libraries.cpp includes cuda_libraries.cu.
E_LIB_CU := $(filter-out %/cuda_libraries.cu,$(LIB_CU))
# Rooms whose C files know of CUDA: the plain library has them without.
E_LIB_C := $(wildcard lib/device/*.c lib/net/*.c lib/net/*/*.c) lib/dist/nccl.c \
           $(addprefix lib/model/,bench.c rcnn.c)
E_O := $(E_LIB_CU:%=$(E)/%.o) $(E_LIB_C:%.c=$(E)/%.o) \
       $(patsubst %.cpp,$(E)/%.cpp.o,$(wildcard tests/gpu/executor/*.cpp))
E_BIN := $(CUDA_TESTS:%=$(B)/tests/unit/%)

$(E)/%.cu.o: %.cu
	$(say) CXX $<
	$(Q)mkdir -p $(@D) && $(CXX) $(E_FLAGS) -MMD -MP -x c++ -c $< -o $@
$(E)/tests/gpu/%.cu.o: E_FLAGS += $(PKG_CF)
$(E)/tests/gpu/executor/cudnn_run.cpp.o $(E)/tests/gpu/executor/executor.cpp.o: E_FLAGS += -O3
$(E)/%.cpp.o: %.cpp
	$(say) CXX $<
	$(Q)mkdir -p $(@D) && $(CXX) $(E_FLAGS) -MMD -MP -c $< -o $@
# Opens NCCL, whose stand-in the executor's dlopen has.
$(E)/lib/dist/nccl.o: E_CFLAGS += -Itests/gpu/executor
$(E)/%.o: %.c
	$(say) CC $<
	$(Q)mkdir -p $(@D) && $(CC) $(E_CFLAGS) -MMD -MP -c $< -o $@
$(E_BIN): $(B)/tests/unit/%: $(E)/tests/gpu/%.cu.o $(E_O) $(LIB)
	$(say) LINK $@
	$(Q)mkdir -p $(@D) && $(CXX) $(LDFLAGS) $(E_LDFLAGS) $(filter %.o,$^) $(LIB) \
		$(PKG_LIBS) $(OTHERS) $(DNNL) -lm -o $@

# Unit tests of both backends, with the executor as their device.
E_UNIT := $(addprefix $(B)/tests/unit/test_cuda_,nodes golden_rcnn)
$(E)/tests/unit/%.o: E_CFLAGS += -Itests/unit -DMABN_TEST_DEVICE='"cuda"' -DMABN_TEST_STEPS=1
$(E_UNIT): $(B)/tests/unit/test_cuda_%: $(E)/tests/unit/test_%.o $(E_O) $(LIB)
	$(say) LINK $@
	$(Q)mkdir -p $(@D) && $(CXX) $(LDFLAGS) $(E_LDFLAGS) $(filter %.o,$^) $(LIB) \
		$(PKG_LIBS) $(OTHERS) $(DNNL) -lm -o $@

# Tools whose GPU is the executor, for tests/cli/executor.bats.
E_TOOLS := $(addprefix $(E)/bin/,mabn-train mabn-eval mabn-bench)
$(E)/bin/%: $(E)/cmd/%.o $(E_O) $(LIB)
	$(say) LINK $@
	$(Q)mkdir -p $(@D) && $(CXX) $(LDFLAGS) $(E_LDFLAGS) $(filter %.o,$^) $(LIB) \
		$(PKG_LIBS) $(OTHERS) $(DNNL) -lm -o $@

# They bring their own sanitizers: the sanitized variant need not run them again.
ifeq ($(SAN)$(filter 0,$(EXECUTOR)),)
unit-programs check-unit: $(E_BIN) $(E_UNIT) $(E_TOOLS)
check-cli: $(E_TOOLS)
endif

-include $(E_UNIT:$(B)/tests/unit/test_cuda_%=$(E)/tests/unit/test_%.d) \
         $(E_TOOLS:$(E)/bin/%=$(E)/cmd/%.d) $(E_O:.o=.d) $(CUDA_TESTS:%=$(E)/tests/gpu/%.cu.d)

# ---- on a GPU -------------------------------------------------------------------------------

G := $(B)/gpu
G_BIN := $(CUDA_TESTS:%=$(G)/tests/unit/%) $(CUDA_BENCH:%=$(G)/bench/%) $(CUDA_PROBE:%=$(G)/probe/%)

define link_gpu
$(say) LINK $@
$(Q)mkdir -p $(@D) && $(CXX) $(LDFLAGS) -Wl,--as-needed $< $(LIB) $(LDLIBS) -o $@
endef
$(G)/tests/unit/%: $(B)/tests/gpu/%.cu.o $(LIB)
	$(link_gpu)
$(G)/bench/%: $(B)/tests/gpu/%.cu.o $(LIB)
	$(link_gpu)
$(G)/probe/%: $(B)/tests/gpu/%.cu.o $(LIB)
	$(link_gpu)
$(B)/tests/gpu/%.cu.o: NVFLAGS += -Itests/unit -Itests/gpu $(filter -I%,$(PKG_CF))

.PHONY: gpu-programs check-gpu bench-gpu bundle-gpu
gpu-programs: $(G_BIN) $(addprefix $(B)/tests/unit/test_,net nodes golden_rcnn) $(B)/tests/bench/bench_scenes
check-gpu:
	@$(MAKE) --no-print-directory CUDA=1 gpu-programs
	@tests/run-all build/release-cuda/gpu unit
	@for t in net nodes golden_rcnn; do MABN_TEST_DEVICE=cuda build/release-cuda/tests/unit/test_$$t || exit 1; done
bench-gpu:
	@$(MAKE) --no-print-directory CUDA=1 gpu-programs
	@for b in build/release-cuda/gpu/bench/*; do $$b || exit 1; done
bundle-gpu:
	@tests/gpu/bundle.sh

-include $(patsubst %,$(B)/tests/gpu/%.cu.d,$(CUDA_TESTS) $(CUDA_BENCH) $(CUDA_PROBE))
