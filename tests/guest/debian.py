"""Debian's packages, downloaded and unpacked, never installed; for this architecture or another.

For another, apt works in a folder of its own, with lists of its own and the belief that nothing is
installed: so this machine's packages stay as they are, and it names all that a package needs.
Where packages come from is read from this machine's sources. No root is needed.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from architecture import Architecture

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


class NotToBeHad(Exception):
    """A package cannot be had; the text says what the reader can do."""


class Apt:
    def __init__(self, architecture: Architecture, cache: Path) -> None:
        """`cache` is where apt has its folder for another architecture, whose lists are renewed."""
        self._environment = {**os.environ, "LC_ALL": "C"}
        self._archives: Path | None = None
        if not architecture.is_native:
            folder = cache / f"apt-{architecture.name}"
            self._archives = folder / "cache/archives"
            self._environment["APT_CONFIG"] = str(_configure(architecture, folder))
            self._run("apt-get", "update", "-q")

    def dependency(self, package: str, pattern: str) -> str:
        """What `package` depends on that matches."""
        text = self._run("apt-cache", "depends", package)
        found = re.search(rf"Depends: ({pattern})", text)
        if not found:
            raise NotToBeHad(f"apt does not know {package}: run apt-get update as root first")
        return found[1]

    def download(self, package: str, folder: Path) -> Path:
        self._run("apt-get", "download", "-q", package, cwd=folder)
        return next(folder.glob(f"{package}_*.deb"))

    def download_all(self, packages: list[str]) -> list[Path]:
        """These packages of another architecture, and all that they need."""
        assert self._archives is not None, "of this architecture too much is installed already"
        self._run("apt-get", "install", "-q", "-y", "--download-only", "--no-install-recommends",
                  *packages)
        return sorted(self._archives.glob("*.deb"))

    def _run(self, *command: str, cwd: Path | None = None) -> str:
        result = subprocess.run(
            command, cwd=cwd, env=self._environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False,
        )
        if result.returncode != 0:
            raise NotToBeHad(f"{' '.join(command)} failed: {result.stderr.strip()[-400:]}")
        return result.stdout


def unpack(package: Path, root: Path) -> None:
    """As dpkg-deb -x, but a link in `root` that stands for a folder stays."""
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as files:
        subprocess.run(
            ["tar", "-x", "--keep-directory-symlink", "--no-same-owner", "-C", root],
            stdin=files.stdout, check=True,
        )


def _configure(architecture: Architecture, folder: Path) -> Path:
    for part in ("state/lists/partial", "cache/archives/partial", "etc/apt.conf.d",
                 "etc/preferences.d", "etc/sources.list.d"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "status").touch()
    (folder / "etc/sources.list").write_text(
        f"deb [signed-by={KEYRING}] {_archive()} {architecture.suite} main\n"
    )
    configuration = folder / "apt.conf"
    configuration.write_text(
        f'APT::Architecture "{architecture.debian}";\n'
        f'APT::Architectures {{ "{architecture.debian}"; }};\n'
        'APT::Sandbox::User "root";\n'
        'Acquire::Languages "none";\n'
        f'Dir::Cache "{folder}/cache";\n'
        f'Dir::State "{folder}/state";\n'
        f'Dir::State::status "{folder}/status";\n'
        f'Dir::Etc "{folder}/etc";\n'
    )
    return configuration


def _archive() -> str:
    """Where this machine has Debian's packages from."""
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Identifier: Packages",
         "Origin: Debian", "Label: Debian", "Component: main"],
        capture_output=True, text=True, check=False,
    ).stdout.split()
    if not listed:
        raise NotToBeHad("this machine's apt has no list of Debian: run apt-get update as root")
    return listed[0]
