# make check-distros: both commands of README on bare Debian systems, by gcc and clang, and an arm64
# build in an emulator. Root makes the systems, with debootstrap; see tests/distros/run for its knobs.
.PHONY: check-distros
check-distros:
	@tests/distros/run
