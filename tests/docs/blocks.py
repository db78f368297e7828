#!/usr/bin/env python3
"""Does with each block of code what the comment above it says (docs/testing.md).

  blocks.py FOLDER...     the folders hold the programs under test

Paths under /tmp, /run/vhost-user-* and /srv/images stand for a scratch folder. QEMU is started
with all its devices, but stopped before the guest's first instruction, and quits at once.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from pages import TOP, Block, blocks, check, pages

KNOWN = ("run", "run: QEMU with its devices, stopped before the first instruction", "config",
         "config of vhost-user-net")
# What makes a good configuration file a bad one.
WRONG = {
    KNOWN[2]: ("vhost-user-blk", "--blk-file", "none", "no such file; create it"),
    KNOWN[3]: ("vhost-user-net", "--fd", "3", "--fd and --port exclude each other"),
}
QEMU = shutil.which("qemu-system-x86_64")
# Without -accel kvm, which a test machine may lack.
QEMU_STANDIN = """#!/bin/bash
arguments=()
while (($#)); do
  if [[ $1 == -accel ]]; then shift 2; continue; fi
  arguments+=("$1"); shift
done
echo quit | timeout 60 REAL "${arguments[@]}" -S -display none -serial none -monitor stdio
"""


def form_complaints() -> list[str]:
    complaints = []
    for page in pages():
        if len(blocks(page)) != page.read_text().count("\n```") / 2:
            complaints.append(f"{page.name}: a block of code is not closed")
        for block in blocks(page):
            reason = re.match(r"names: .{10}", block.how)
            if block.how not in KNOWN and not reason and not block.how.startswith(
                    ("excerpt ", "compiles with ")):
                complaints.append(f"{block.place}: no comment says how the block is tested")
            if block.language == "sh":
                done = subprocess.run(["bash", "-n"], input=block.text, text=True,
                                      capture_output=True, check=False)
                complaints += [f"{block.place}: {done.stderr}"] if done.returncode else []
    return complaints


def excerpt_complaints() -> list[str]:
    complaints = []
    for block in (block for page in pages() for block in blocks(page)):
        if block.how.startswith("excerpt "):
            source = TOP / block.how.removeprefix("excerpt ")
            if block.text not in source.read_text():
                complaints.append(f"{block.place}: this is not what {source.name} says")
    return complaints


def compile_complaints() -> list[str]:
    complaints = []
    for block in (block for page in pages() for block in blocks(page)):
        if block.how.startswith("compiles with "):
            header = block.how.removeprefix("compiles with ")
            source = f'#include "{header}"\nint block() {{\n{block.text}\nreturn 0;\n}}\n'
            done = subprocess.run(
                ["c++", "-std=c++23", "-fsyntax-only", "-w", "-I", TOP, "-x", "c++", "-"],
                input=source, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                complaints.append(f"{block.place}: {done.stderr}")
    return complaints


def config_complaints() -> list[str]:
    """With one flag that is wrong, the only thing left to complain about is that flag."""
    complaints = []
    for block in (block for page in pages() for block in blocks(page) if block.how in WRONG):
        program, flag, value, complaint = WRONG[block.how]
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch, "test.conf")
            file.write_text(local(block.text, scratch))
            done = subprocess.run([program, "--config", file, flag, value], capture_output=True,
                                  text=True, env=environment(scratch), check=False)
            if done.returncode != 2 or complaint not in done.stderr:
                complaints.append(f"{block.place}: {done.stderr}")
    return complaints


def run_complaints() -> list[str]:
    return [complaint for page in pages() for complaint in run_page(page)]


def run_page(page: Path) -> list[str]:
    chosen = [block for block in blocks(page) if runs(block)]
    if not chosen:
        return []
    scratch = tempfile.mkdtemp(prefix="docs-")
    log = Path(scratch, "log")
    try:
        with log.open("w") as output:
            process = subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", local(script(chosen), scratch)],
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                env=environment(scratch), cwd=scratch, start_new_session=True)
            try:
                status = process.wait(timeout=120)
            except subprocess.TimeoutExpired:
                status = "none: it took too long"
            finally:
                end_session(process.pid)
        if status == 0:
            return []
        return [f"{page.name}: status {status}\n{log.read_text()}"]
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def runs(block: Block) -> bool:
    if block.how == KNOWN[1] and QEMU is None:
        print(f"{block.place}: skipped, there is no QEMU")
        return False
    return block.how in KNOWN[:2]


def script(chosen: list[Block]) -> str:
    """All blocks of a page in one shell; what runs in the background has to go on running."""
    parts, background = [], 0
    for block in chosen:
        background += len(re.findall(r"&$", block.text, re.M))
        parts.append(f"echo '== {block.place}'\n{block.text}\nsleep 0.2\n"
                     f"(( $(jobs -rp | wc -l) >= {background} )) || "
                     "{ echo 'a program in the background has ended'; exit 1; }\n")
    return "".join(parts) + "kill $(jobs -rp) 2>/dev/null || true\nwait\n"


def local(text: str, scratch: str) -> str:
    return re.sub(r"/tmp/|/run/vhost-user-(blk|net)/|/srv/images/", scratch + "/", text)


def environment(scratch: str) -> dict[str, str]:
    path = ":".join([scratch + "/bin", *sys.argv[1:], os.environ["PATH"]])
    if QEMU is not None:
        standin = Path(scratch, "bin/qemu-system-x86_64")
        standin.parent.mkdir(exist_ok=True)
        standin.write_text(QEMU_STANDIN.replace("REAL", QEMU))
        standin.chmod(0o755)
    return os.environ | {"PATH": path}


def end_session(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        pass


if __name__ == "__main__":
    sys.exit(check(form_complaints, excerpt_complaints, compile_complaints, config_complaints,
                   run_complaints))
