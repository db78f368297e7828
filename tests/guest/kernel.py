"""The guest's kernel: Debian's cloud kernel, downloaded and unpacked, never installed.

The metapackage linux-image-cloud-amd64 names the package of the current version. `apt-get
download` and `dpkg-deb -x` need no root. The result is kept in the cache folder; once it is
there, apt is not asked again.

A package that was never installed has no modules.dep (depmod writes it at installation), so
the order of loading is worked out here, from what every module says of itself: the "depends="
entry of its .modinfo section.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

METAPACKAGE = "linux-image-cloud-amd64"


class KernelMissing(Exception):
    """The kernel package cannot be had; the text says what the reader can do."""


@dataclass(frozen=True)
class Kernel:
    release: str
    image: Path
    folder: Path  # Of its modules.

    def modules(self, wanted: tuple[str, ...]) -> tuple[Path, ...]:
        """The files of these modules and of all they need, in the order of loading."""
        return load_order(self.folder, wanted)


def obtain(cache: Path) -> Kernel:
    """The kernel in `cache`, downloaded first if it is not there."""
    root = cache / "kernel"
    if not root.is_dir():
        _download(cache, root)
    images = sorted((root / "boot").glob("vmlinuz-*"))
    if not images:
        raise KernelMissing(f"{root} holds no kernel; remove that folder and try again")
    release = images[-1].name.removeprefix("vmlinuz-")
    folders = [root / "lib/modules" / release, root / "usr/lib/modules" / release]
    folder = next(path for path in folders if path.is_dir())
    return Kernel(release, images[-1], folder)


def load_order(folder: Path, wanted: tuple[str, ...]) -> tuple[Path, ...]:
    """The wanted modules and all that they need, needed ones first. Unknown names are built in."""
    available = {_module_name(path): path for path in folder.rglob("*.ko")}
    ordered: dict[str, Path] = {}

    def visit(name: str) -> None:
        if name in ordered or name not in available:
            return
        for needed in _dependencies(available[name]):
            visit(needed)
        ordered[name] = available[name]

    for name in wanted:
        visit(name)
    return tuple(ordered.values())


def _module_name(path: Path) -> str:
    return path.name.removesuffix(".ko").replace("-", "_")


def _dependencies(module: Path) -> list[str]:
    found = re.search(rb"\0depends=([^\0]*)\0", module.read_bytes())
    return [name.replace("-", "_") for name in found[1].decode().split(",") if name] if found else []


def _package_name() -> str:
    text = _output("apt-cache", "depends", METAPACKAGE)
    found = re.search(r"Depends: (linux-image-\S+)", text)
    if not found:
        raise KernelMissing(f"apt does not know {METAPACKAGE}: run apt-get update as root first")
    return found[1]


def _download(cache: Path, root: Path) -> None:
    partial = cache / "kernel.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    package = _package_name()
    print(f"fetching {package} from Debian", flush=True)
    _output("apt-get", "download", "-q", package, cwd=partial)
    archive = next(partial.glob("*.deb"))
    _output("dpkg-deb", "-x", str(archive), str(partial))
    archive.unlink()
    partial.rename(root)


def _output(*command: str, cwd: Path | None = None) -> str:
    result = subprocess.run(
        command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        raise KernelMissing(f"{' '.join(command)} failed: {result.stderr.strip()[-400:]}")
    return result.stdout
