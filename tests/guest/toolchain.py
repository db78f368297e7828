"""The cross compiler of another Debian release, where this one has no libraries to build against.

A linker cannot read the objects of a newer one, so compiler and libraries have to be of one
release. The compiler's packages are unpacked like the libraries. Its programs need the C library of
their release: each is started with the folder of these packages in the place of /usr, in a mount
namespace of its own. That takes root, or a kernel that lets users have namespaces.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from architecture import X86_64, Architecture
from debian import Apt, unpack

START = """\
#!/bin/sh
exec unshare --map-root-user --mount sh -c 'mount --bind {usr} /usr && exec {program} "$@"' sh "$@"
"""


def obtain(architecture: Architecture, folder: Path) -> Path:
    """The folder of the programs to start, made first if it is not there."""
    root = folder / "toolchain"
    if not root.is_dir():
        _make(architecture, folder, root)
    return root / "starters"


def _make(architecture: Architecture, folder: Path, root: Path) -> None:
    print(f"fetching {architecture.compiler} from Debian {architecture.suite}", flush=True)
    partial = folder / "toolchain.partial"
    shutil.rmtree(partial, ignore_errors=True)
    apt = Apt(replace(X86_64, suite=architecture.suite), folder)
    # As they are in every installation of today; the loader's folder belongs to this architecture.
    for name in ("bin", "lib", "lib64", "sbin"):
        (partial / "usr" / name).mkdir(parents=True)
        (partial / name).symlink_to(f"usr/{name}")
    for package in apt.download_all([architecture.compiler, "dash"]):
        unpack(package, partial)
        package.unlink()
    (partial / "starters").mkdir()
    for tool in ("g++", "gcc-ar", "objdump", "strip"):
        program = f"{architecture.name}-linux-gnu-{tool}"
        start = partial / "starters" / program
        start.write_text(START.format(usr=root / "usr", program=f"/usr/bin/{program}"))
        start.chmod(0o755)
    partial.rename(root)
