# mabn: train and judge vision networks when the batch is small.
#
#   make              build the library and the tools
#   make demo         install what is missing, build, train on real photographs, show the table
#   make check        install what is missing, build, run all tests (no GPU needed)
#   make install      PREFIX=/usr/local DESTDIR=   (uninstall takes the same)
#
# Knobs, on the command line or in config.mk:
#   DEBUG=1                 -O0 -g3
#   SAN=address,undefined   sanitizers (a build folder of its own)
#   DNNL_HOME=DIR           oneDNN of DIR/include and DIR/lib rather than the system's, as in a Python
#                           environment with its packages onednn and onednn-devel
#   CUDA=0                  leave the CUDA backend out (default: 1 when nvcc and cudnn.h are found)
#   CUDNN_HOME=DIR          cuDNN where it is not beside CUDA, as in Python's nvidia/cudnn
#   CUDA_ARCH="90"          GPU architectures to compile for, a list (default: 80 86 89 90, of which
#                           the newest but 90 serves GPUs newer than all of them)
#   DEVELOPER=1             warnings are errors (CI sets it)
#   V=1                     show whole commands
#   JOBS=N                  tests that run at a time (default: as many as there are cores)
#   CC=, NVCC=, CFLAGS=     as usual
#
# More targets:
#   check-unit check-cli check-golden check-san                   parts of the tests
#   check-headers check-rooms check-unused check-format           what the source must be
#   check-dist                                                    several ranks, where MPI is
#   check-distros                                                 Debian 12, 13 and arm64, from bare
#                                                                 systems: tests/distros
#   check-gpu bench-gpu bundle-gpu                                on a GPU: tests/gpu
#   check-kill check-race                                         kill -9 50 times; ThreadSanitizer
#   fuzz fuzz-long                                                fuzzers, a minute each or 20 on
#                                                                 every core
#   bench peer                                                    speed; other tools beside ours
#   format lint clean

-include config.mk

.SUFFIXES:
.DELETE_ON_ERROR:
.SECONDARY:
.DEFAULT_GOAL := all
MAKEFLAGS += --no-builtin-rules

CC ?= cc
ifeq ($(origin CC),default)
CC := cc
endif
NVCC ?= $(or $(shell command -v nvcc 2>/dev/null),$(wildcard /usr/local/cuda/bin/nvcc))
CLANG ?= clang
PKG_CONFIG ?= pkg-config
PREFIX ?= /usr/local
V ?= 0
Q := $(if $(filter 1,$(V)),,@)
say = $(if $(filter 1,$(V)),@:,@printf '  %-5s %s\n')

# ---- what is here -------------------------------------------------------------------------

ROOMS    := $(sort $(notdir $(patsubst %/,%,$(wildcard lib/*/))))
LIB_C    := $(filter-out lib/dist/mpi_plugin.c,$(sort $(wildcard lib/*/*.c lib/*/*/*.c)))
LIB_CU   := $(sort $(wildcard lib/*/*.cu lib/*/*/*.cu))
TOOLS    := $(patsubst cmd/%.c,%,$(sort $(wildcard cmd/mabn-*.c)))
UNIT     := $(patsubst tests/unit/%.c,%,$(sort $(wildcard tests/unit/test_*.c)))
FUZZ     := $(patsubst tests/fuzz/%.c,%,$(sort $(wildcard tests/fuzz/fuzz_*.c)))
BENCH    := $(patsubst tests/bench/%.c,%,$(sort $(wildcard tests/bench/bench_*.c)))
MAN      := $(sort $(wildcard man/*.[1-8]))

CUDA_ARCH ?= 80 86 89 90
# For GPUs newer than all of these, which the driver compiles for when it first meets them.
CUDA_PTX  := $(lastword $(filter-out 90,$(CUDA_ARCH)))
CUDA_HOME ?= $(if $(NVCC),$(patsubst %/bin/nvcc,%,$(realpath $(NVCC))))
CUDNN_H   := $(firstword $(wildcard $(addsuffix /cudnn.h,$(CUDNN_HOME)/include \
               $(CUDA_HOME)/include /usr/include /usr/include/$(shell uname -m)-linux-gnu)))
ifndef CUDA
CUDA := $(if $(and $(NVCC),$(CUDNN_H)),1,0)
ifeq ($(CUDA)$(if $(NVCC),y),0y)
$(info no cudnn.h beside nvcc: a build without CUDA (CUDNN_HOME=DIR says where it is))
endif
endif

# Not every system's pkg-config knows these two.
NO_PC    := $(shell for p in hdf5 libgif; do $(PKG_CONFIG) --exists $$p 2>/dev/null || echo $$p; done)
PKGS     := $(filter-out $(NO_PC),hdf5 libjpeg libpng libwebp libwebpdemux libgif zlib libxxhash cairo \
              freetype2 fontconfig)
# HDF5 renames calls in new versions; this keeps the names of 1.10.
PKG_CF   := -DH5_USE_110_API $(shell $(PKG_CONFIG) --cflags $(PKGS) 2>/dev/null)
PKG_LIBS := $(shell $(PKG_CONFIG) --libs $(PKGS) 2>/dev/null)
OTHERS   := $(addprefix -l,$(NO_PC:lib%=%))

ifdef DNNL_HOME
DNNL_LIB := $(patsubst %/libdnnl.so,%,$(firstword $(wildcard $(abspath $(DNNL_HOME))/lib*/libdnnl.so)))
$(if $(and $(DNNL_LIB),$(wildcard $(DNNL_HOME)/include/oneapi/dnnl/dnnl.h)),,\
    $(error DNNL_HOME: no include/oneapi/dnnl/dnnl.h or lib/libdnnl.so in '$(DNNL_HOME)'))
PKG_CF   := -I$(abspath $(DNNL_HOME))/include $(PKG_CF)
# rpath rather than runpath: the libraries that it needs itself lie beside it.
# A build folder of its own.
DNNL_KEY := dnnl$(firstword $(shell echo "$(DNNL_LIB)" | cksum))
DNNL     := -L$(DNNL_LIB) -Wl,--disable-new-dtags,-rpath,$(DNNL_LIB) -ldnnl
else
DNNL     := -ldnnl
endif

# ---- flags --------------------------------------------------------------------------------

# A sanitizer's report needs the lines alone, which takes the compiler a third less time in large loops.
OPT    := $(if $(filter 1,$(DEBUG)),-O0 -g3,-O2 $(if $(SAN),-g1,-g))
WARN   := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wpointer-arith \
          -Wwrite-strings -Wformat=2 -Wno-format-nonliteral $(if $(filter 1,$(DEVELOPER)),-Werror)
# Clang does not know "GCC ivdep", and minds what our tables leave at zero.
WARN   += $(if $(findstring clang,$(shell $(CC) --version 2>/dev/null)),-Wno-unknown-pragmas -Wno-missing-field-initializers)
HARDEN := -fstack-protector-strong $(if $(SAN)$(filter 1,$(DEBUG)),,-D_FORTIFY_SOURCE=2)
SANFL  := $(if $(SAN),-fsanitize=$(SAN) -fno-sanitize-recover=all -fno-omit-frame-pointer)
CPPFLAGS += -Ilib -D_GNU_SOURCE -DMABN_CUDA=$(CUDA) $(PKG_CF)
CFLAGS   += -std=c11 $(OPT) $(WARN) $(HARDEN) $(SANFL) -fopenmp -fno-math-errno -fPIC -pthread
LDFLAGS  += $(SANFL) -fopenmp -pthread
LDLIBS   := $(PKG_LIBS) $(OTHERS) $(DNNL) -lm $(LDLIBS)
# Numeric kernels earn -O3.
O3_ROOMS := tensor norm ops image coco detect

B := build/$(if $(SAN),san,$(if $(filter 1,$(DEBUG)),debug,release))$(if $(filter 1,$(CUDA)),-cuda)$(addprefix -,$(DNNL_KEY))
LIB   := $(B)/libmabn.a
LIB_O := $(LIB_C:%.c=$(B)/%.o)
ifeq ($(CUDA),1)
LIB_O    += $(LIB_CU:%.cu=$(B)/%.cu.o)
NVFLAGS  := -std=c++17 -O3 -lineinfo -Ilib -DMABN_CUDA=1 -Xcompiler -fPIC,-Wall \
            $(foreach a,$(CUDA_ARCH),-gencode arch=compute_$(a)$(if $(filter 90,$(a)),a),code=sm_$(a)$(if $(filter 90,$(a)),a)) \
            $(foreach a,$(CUDA_PTX),-gencode arch=compute_$(a),code=compute_$(a))
CPPFLAGS += -I$(CUDA_HOME)/include
NVFLAGS  += $(if $(CUDNN_H),-I$(dir $(CUDNN_H)))
# The run-time library goes in; cuDNN and cuBLASLt are opened when a GPU is (lib/device).
LDLIBS   += -L$(CUDA_HOME)/lib64 -lcudart_static -ldl -lrt -lpthread -lstdc++
endif
BIN := $(TOOLS:%=$(B)/bin/%)

# ---- building -----------------------------------------------------------------------------

.PHONY: all lib tools
all: lib tools
lib: $(LIB)
tools: $(BIN)

$(LIB): $(LIB_O)
	$(say) AR $@
	$(Q)rm -f $@ && ar crs $@ $^

# Looked for once, so that who lacks a library reads a package's name rather than a header's.
$(B)/needs: pipelines/install-deps.sh
	$(Q)CC='$(CC)' CPPFLAGS='$(CPPFLAGS)' PKG_CONFIG='$(PKG_CONFIG)' pipelines/install-deps.sh -n
	$(Q)mkdir -p $(@D) && touch $@

$(B)/%.o: %.c | $(B)/needs
	$(say) CC $<
	$(Q)mkdir -p $(@D) && $(CC) $(CPPFLAGS) $(CFLAGS) $(if $(DEBUG),,$(if $(filter $(O3_ROOMS),$(word 2,$(subst /, ,$<))),-O3)) -MMD -MP -c $< -o $@

# Products and sums in one instruction, where there is one.
$(B)/lib/ops/winograd.o $(B)/lib/ops/implicit_gemm.o: CFLAGS += -ffp-contract=fast

# To the CPU's bits.
$(B)/lib/detect/paste_cuda.cu.o: NVFLAGS += -fmad=false
$(B)/%.cu.o: %.cu
	$(say) NVCC $<
	$(Q)mkdir -p $(@D) && $(NVCC) $(NVFLAGS) -MMD -MP -c $< -o $@

$(B)/bin/%: $(B)/cmd/%.o $(LIB)
	$(say) LINK $@
	$(Q)mkdir -p $(@D) && $(CC) $(LDFLAGS) $< $(LIB) $(LDLIBS) -o $@

$(B)/tests/%: $(B)/tests/%.o $(LIB)
	$(say) LINK $@
	$(Q)$(CC) $(LDFLAGS) $< $(LIB) $(LDLIBS) -o $@

$(B)/tests/%.o: CPPFLAGS += -Itests/unit

# ---- dependencies -------------------------------------------------------------------------

# What a target needs beyond a compiler is installed by one script, which asks through sudo when
# it is not root and does nothing when all is there. The build proper is a second make, because
# this one may have been read before pkg-config existed.
.PHONY: deps-build deps-demo deps-check deps-peer
deps-build deps-demo deps-check deps-peer: deps-%:
	@pipelines/install-deps.sh $*

# ---- checks -------------------------------------------------------------------------------

.PHONY: check check-all check-unit check-cli check-golden check-san check-headers check-rooms check-unused check-format
check: deps-check
	@$(MAKE) --no-print-directory all unit-programs dist-programs
	@tests/check-rooms $(B)
	@tests/check-unused
	@tests/run-all $(B)
check-unit: $(UNIT:%=$(B)/tests/unit/%) $(BIN)
	@tests/run-all $(B) unit
check-cli: $(BIN)
	@tests/run-all $(B) cli
check-golden: $(UNIT:%=$(B)/tests/unit/%) $(BIN)
	@tests/run-all $(B) golden
check-san:
	@$(MAKE) --no-print-directory SAN=address,undefined CUDA=0 all unit-programs
	@tests/run-all build/san unit cli
check-headers:
	@tests/check-headers
check-unused:
	@tests/check-unused
check-format:
	@tests/check-format
check-rooms: $(LIB)
	@tests/check-rooms $(B)

.PHONY: unit-programs bench-programs
unit-programs: $(UNIT:%=$(B)/tests/unit/%)
bench-programs: $(BENCH:%=$(B)/tests/bench/%)

# ---- fuzzing: libFuzzer with ASan and UBSan, FUZZ_SECONDS each --------------------------------

FUZZ_SECONDS ?= 60
FB := build/fuzz$(addprefix -,$(DNNL_KEY))
FUZZ_FLAGS := -std=gnu11 -O1 -g -Ilib -D_GNU_SOURCE -DMABN_CUDA=0 -DMABN_NO_CLONES $(PKG_CF) -pthread \
              -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
$(FB)/%.o: %.c
	$(say) FUZZC $<
	$(Q)mkdir -p $(@D) && $(CLANG) $(FUZZ_FLAGS) -fsanitize=fuzzer-no-link -MMD -MP -c $< -o $@
$(FB)/libmabn.a: $(patsubst %.c,$(FB)/%.o,$(LIB_C))
	$(Q)rm -f $@ && ar crs $@ $^
$(FB)/%: tests/fuzz/%.c $(FB)/libmabn.a
	$(say) FUZZ $@
	$(Q)$(CLANG) $(FUZZ_FLAGS) -fsanitize=fuzzer $< $(FB)/libmabn.a $(PKG_LIBS) $(OTHERS) $(DNNL) -lgomp -lm -o $@
.PHONY: fuzz fuzz-long fuzz-programs
fuzz-programs: $(FUZZ:%=$(FB)/%)
fuzz: fuzz-programs
	@tests/fuzz/run $(FB) $(FUZZ_SECONDS) $(FUZZ)
FUZZ_MINUTES ?= 20
fuzz-long: fuzz-programs
	@tests/fuzz/long $(FB) $(FUZZ_MINUTES) $(FUZZ)

# ---- the rest -----------------------------------------------------------------------------

-include mk/*.mk

.PHONY: help clean format
help:
	@awk '!/^#/ {exit} {sub(/^# ?/, ""); print}' Makefile
clean:
	rm -rf build
format:
	clang-format -i $$(git ls-files '*.c' '*.h' '*.cu' '*.cuh')

-include $(LIB_O:.o=.d) $(BIN:$(B)/bin/%=$(B)/cmd/%.d) $(UNIT:%=$(B)/tests/unit/%.d)
-include $(patsubst %.c,$(FB)/%.d,$(LIB_C))
