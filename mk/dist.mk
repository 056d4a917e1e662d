# Many processes. The tools link no MPI: a plug-in is built for each MPI that is here, from
# lib/dist/mpi_plugin.c, and opened under mpirun, mpiexec or srun.
#
#   MPI_OPENMPI=CC MPI_MPICH=CC   the compilers (default: mpicc.openmpi, mpicc.mpich, else what
#                                 mpicc is); empty: without
#   make check-dist               2 to 4 ranks on this machine, under each MPI's mpirun
#   make check-hosts              two hosts, as network namespaces: kill, freeze, cut, stop (root, iproute2)
#   make check-slurm              a Slurm of two nodes: requeue, fewer nodes (root, slurm, munge)
#   TRIALS=N                      of check-hosts: how often each fault happens

first_of = $(firstword $(foreach c,$(1),$(shell command -v $(c) 2>/dev/null)))
mpicc_is := $(shell mpicc -show 2>/dev/null | grep -o 'open-\?mpi\|mpich' | head -n 1)
MPI_OPENMPI ?= $(call first_of,mpicc.openmpi $(if $(filter open%,$(mpicc_is)),mpicc))
MPI_MPICH   ?= $(call first_of,mpicc.mpich $(if $(filter mpich,$(mpicc_is)),mpicc))
PLUGINS := $(if $(MPI_OPENMPI),$(B)/lib/mabn/mabn-mpi-openmpi.so) \
           $(if $(MPI_MPICH),$(B)/lib/mabn/mabn-mpi-mpich.so)

.PHONY: plugins check-dist check-hosts check-slurm dist-programs
all: plugins
plugins: $(PLUGINS)
ifeq ($(strip $(PLUGINS)),)
	@echo "  no MPI: one process only (Debian: apt-get install openmpi-bin libopenmpi-dev)"
endif

define build_plugin
$(say) MPICC $@
$(Q)mkdir -p $(@D) && $(1) -std=c11 -D_GNU_SOURCE -O2 -g $(WARN) -Ilib -fPIC -shared lib/dist/mpi_plugin.c -o $@
endef
$(B)/lib/mabn/mabn-mpi-openmpi.so: lib/dist/mpi_plugin.c lib/dist/mpi_plugin.h lib/base/attr.h
	$(call build_plugin,$(MPI_OPENMPI))
$(B)/lib/mabn/mabn-mpi-mpich.so: lib/dist/mpi_plugin.c lib/dist/mpi_plugin.h lib/base/attr.h
	$(call build_plugin,$(MPI_MPICH))

$(B)/lib/dist/comm.o: CPPFLAGS += -DMABN_LIBDIR='"$(PREFIX)/lib"'

DIST_TEST := $(patsubst %.c,$(B)/%,$(sort $(wildcard tests/dist/test_*.c)))
dist-programs: $(if $(strip $(PLUGINS)),$(DIST_TEST))
check-dist: all dist-programs
	@tests/run-all $(B) dist
check-hosts: all
	tests/dist/two-hosts.sh $(B)
check-slurm: all
	tests/dist/two-nodes.sh $(B)
-include $(DIST_TEST:=.d)
