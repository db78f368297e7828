"""The libraries of another architecture, to build against and to run tests with.

They are those that the build needs (tools/packages.txt), the packages of the purpose "target", and
whatever they depend on, unpacked under build/cross/ARCHITECTURE/sysroot. The list of packages is
kept beside it: when it has changed, the sysroot is made anew.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from architecture import Architecture
from debian import Apt, unpack

PACKAGES = Path(__file__).resolve().parents[2] / "tools/packages.txt"


def obtain(architecture: Architecture, folder: Path) -> Path:
    """The sysroot in `folder`, made first if it is not there or of other packages."""
    root = folder / "sysroot"
    packages = _packages()
    made_of = folder / "sysroot.packages"
    if root.is_dir() and made_of.exists() and made_of.read_text().split() == packages:
        return root
    print(f"fetching libraries of {architecture.name} from Debian {architecture.suite}", flush=True)
    partial = folder / "sysroot.partial"
    for path in (partial, root):
        shutil.rmtree(path, ignore_errors=True)
    for name in ("bin", "lib", "sbin"):  # As they are in every installation of today.
        (partial / "usr" / name).mkdir(parents=True)
        (partial / name).symlink_to(f"usr/{name}")
    apt = Apt(architecture, folder)
    for package in apt.download_all(packages):
        unpack(package, partial)
        package.unlink()
    _make_links_relative(partial)
    partial.rename(root)
    made_of.write_text("\n".join(packages))
    return root


def _packages() -> list[str]:
    lines = [line.split()[:2] for line in PACKAGES.read_text().splitlines()]
    return sorted(
        line[1] for line in lines
        if line[:1] == ["target"] or (line[:1] == ["build"] and line[1].endswith("-dev"))
    )


def _make_links_relative(root: Path) -> None:
    """A linker here would follow an absolute link to this machine's own files."""
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(folder, name)
            if path.is_symlink() and (target := os.readlink(path)).startswith("/"):
                path.unlink()
                path.symlink_to(os.path.relpath(root / target.lstrip("/"), path.parent))
