"""The guest's kernel: Debian's, downloaded and unpacked, never installed (see debian.py).

The architecture's metapackage names the package of the current version. The result is kept in the
cache folder; once it is there, apt is not asked again.

A package that was never installed has no modules.dep (depmod writes it at installation), so
the order of loading is worked out here, from what every module says of itself: the "depends="
entry of its .modinfo section. Newer releases have their modules compressed.
"""

from __future__ import annotations

import lzma
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from architecture import X86_64, Architecture
from debian import Apt, NotToBeHad, unpack


@dataclass(frozen=True)
class Kernel:
    release: str
    image: Path
    folder: Path  # Of its modules.

    def modules(self, wanted: tuple[str, ...]) -> tuple[Path, ...]:
        """The files of these modules and of all they need, in the order of loading."""
        return load_order(self.folder, wanted)


def obtain(cache: Path, architecture: Architecture = X86_64) -> Kernel:
    """The kernel in `cache`, downloaded first if it is not there."""
    root = cache / ("kernel" if architecture.is_native else f"kernel-{architecture.name}")
    if not root.is_dir():
        _download(cache, root, architecture)
    images = sorted((root / "boot").glob("vmlinu[xz]-*"))
    if not images:
        raise NotToBeHad(f"{root} holds no kernel; remove that folder and try again")
    release = images[-1].name.partition("-")[2]
    folders = [root / "lib/modules" / release, root / "usr/lib/modules" / release]
    folder = next(path for path in folders if path.is_dir())
    return Kernel(release, images[-1], folder)


def load_order(folder: Path, wanted: tuple[str, ...]) -> tuple[Path, ...]:
    """The wanted modules and all that they need, needed ones first. Unknown names are built in."""
    available = {module_name(path): path for path in folder.rglob("*.ko*")}
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


def module_name(path: Path) -> str:
    return path.name.partition(".ko")[0].replace("-", "_")


def module_content(path: Path) -> bytes:
    """As the kernel loads it."""
    content = path.read_bytes()
    return lzma.decompress(content) if path.suffix == ".xz" else content


def _dependencies(module: Path) -> list[str]:
    found = re.search(rb"\0depends=([^\0]*)\0", module_content(module))
    return [name.replace("-", "_") for name in found[1].decode().split(",") if name] if found else []


def _download(cache: Path, root: Path, architecture: Architecture) -> None:
    partial = root.with_name(root.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    apt = Apt(architecture, cache)
    package = apt.dependency(architecture.kernel_package, r"linux-image-\S+")
    print(f"fetching {package} from Debian", flush=True)
    archive = apt.download(package, partial)
    unpack(archive, partial)
    archive.unlink()
    partial.rename(root)
