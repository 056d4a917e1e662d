"""C code beside libmabn.a, loaded into Python."""
import ctypes
import os
import subprocess
import sys
import tempfile


def load(code):
    """The code, and what it needs of libmabn.a, as a shared library."""
    folder = tempfile.mkdtemp()
    source, library = os.path.join(folder, "shim.c"), os.path.join(folder, "shim.so")
    with open(source, "w") as f:
        f.write(code)
    archive = next((a for a in ("build/release/libmabn.a", "build/release-cuda/libmabn.a")
                    if os.path.exists(a)), None)
    if not archive:
        sys.exit(os.path.basename(sys.argv[0]) + ": run from the top of the tree, after make")
    subprocess.run(["cc", "-std=gnu11", "-O2", "-shared", "-fPIC", "-fopenmp", "-Ilib", source,
                    archive, "-lm", "-o", library], check=True)
    return ctypes.CDLL(library)
