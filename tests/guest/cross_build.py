"""A build for another architecture, with Debian's cross compiler and the libraries of sysroot.py.

Meson reads the compiler's name and the folders of the sysroot from a cross file, which is written
here because it names them in full.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import toolchain
from architecture import Architecture

TOP = Path(__file__).resolve().parents[2]

CROSS_FILE = """\
[constants]
sysroot = '{sysroot}'
libraries = sysroot / 'usr/lib/{name}-linux-gnu'

[binaries]
cpp = [{launcher}'{tools}g++']
ar = '{tools}gcc-ar'
strip = '{tools}strip'
objdump = '{tools}objdump'
pkgconfig = 'pkg-config'

[properties]
sys_root = sysroot
pkg_config_libdir = [libraries / 'pkgconfig', sysroot / 'usr/share/pkgconfig']

[built-in options]
cpp_args = ['--sysroot=' + sysroot]
cpp_link_args = ['--sysroot=' + sysroot]

[host_machine]
system = 'linux'
cpu_family = '{name}'
cpu = '{name}'
endian = 'little'
"""


def tools_of(architecture: Architecture, folder: Path) -> str:
    """What the names of compiler and linker begin with."""
    prefix = f"{architecture.name}-linux-gnu-"
    if architecture.compiler:
        return f"{toolchain.obtain(architecture, folder)}/{prefix}"
    return prefix


def build(architecture: Architecture, folder: Path, sysroot: Path) -> Path:
    """The build folder, with all programs in it as the sources are now."""
    cross_file = folder / "cross.ini"
    tools = tools_of(architecture, folder)
    launcher = "'ccache', " if shutil.which("ccache") else ""
    text = CROSS_FILE.format(
        sysroot=sysroot, name=architecture.name, launcher=launcher, tools=tools
    )
    output = folder / "build"
    if not cross_file.exists() or cross_file.read_text() != text:
        shutil.rmtree(output, ignore_errors=True)
        cross_file.write_text(text)
    if not (output / "build.ninja").exists():
        subprocess.run(
            ["meson", "setup", output, TOP, "--cross-file", cross_file, "-Doptimization=2",
             # What this release's compiler sees in the headers of another one's libraries.
             "-Dwerror=false"],
            check=True,
        )
    subprocess.run(["ninja", "-C", output], check=True)
    return output
