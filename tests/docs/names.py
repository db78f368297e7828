#!/usr/bin/env python3
"""What the pages name exists: flags, commands, files, and the daemon's sentences.

  names.py VHOST_USER_BLK VHOST_BENCH

Compares docs/vhost-user-blk.md with --help both ways; a flag elsewhere must be one of ours.
"""

from __future__ import annotations

import re
import subprocess
import sys

from pages import TOP, Block, all_blocks, check, first_code, pages, prose, table_rows

FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
MANUAL = TOP / "docs/vhost-user-blk.md"
FOREIGN_FLAGS = {"--fix", "--realtime"}  # of ./run lint and tests/bench/run
TREE = re.compile(r"(?<![\w/.-])(?:build|docs|examples|libvhost|systemd|tests|tools)/[\w./@-]+")


def flags_of(*command: str) -> set[str]:
    text = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"^  (--[a-z-]+)", text, re.M))


def flag_complaints() -> list[str]:
    ours, bench = flags_of(sys.argv[1]), flags_of(sys.argv[2]) | flags_of(sys.argv[2], "net")
    rows = {FLAG.findall(row[0])[0] for row in table_rows(MANUAL) if FLAG.match(first_code(row[0]))}
    complaints = [f"{MANUAL.name}: no row for {flag}" for flag in sorted(ours - rows)]
    complaints += [f"{MANUAL.name}: a row for {flag}, which the daemon does not know"
                   for flag in sorted(rows - ours)]
    for page in pages():
        named = set(FLAG.findall(re.sub(r"<!--|-->", "", prose(page))))
        complaints += [f"{page.name}: {flag} is no flag of ours"
                       for flag in sorted(named - ours - bench - FOREIGN_FLAGS)]
    for block in all_blocks():
        for program, known in (("vhost-user-blk", ours), ("vhost-bench", bench)):
            for command in commands(block, program):
                complaints += [f"{block.place}: {program} does not know {flag}"
                               for flag in FLAG.findall(command) if flag not in known]
    return complaints


def commands(block: Block, program: str) -> list[str]:
    """The lines of a block that run a program, with their continuations."""
    lines = block.text.replace("\\\n", " ").splitlines()
    return [line for line in lines if re.match(rf"(\S+/)?{program}\s", line.strip())]


def run_complaints() -> list[str]:
    """Commands of ./run that the pages name are in its help."""
    usage = subprocess.run([TOP / "run"], capture_output=True, text=True, check=True).stdout
    known = set(re.findall(r"^  ([a-z]+) ", usage, re.M)) | set(re.findall(r"\./run ([a-z]+)", usage))
    return [f"{page.name}: ./run {word} is no command"
            for page in pages()
            for word in re.findall(r"\./run ([a-z]+)", page.read_text()) if word not in known]


def path_complaints() -> list[str]:
    """Files and folders that blocks name, and links."""
    complaints = []
    for block in all_blocks():
        for name in TREE.findall(block.text if block.language == "sh" else ""):
            if not name.startswith("build/") and not (TOP / name).exists():
                complaints.append(f"{block.place}: there is no {name}")
    for page in pages():
        for target in re.findall(r"\]\(([^)#:]+)[^)]*\)", page.read_text()):
            if not (page.parent / target).exists():
                complaints.append(f"{page.name}: a link to {target}, which is not there")
    return complaints


def sentence_complaints() -> list[str]:
    """The troubleshooting tables quote the source. String literals are joined as C++ joins them."""
    sources = [path for room in ("backends/blk", "common", "libvhost")
               for path in sorted((TOP / room).rglob("*.cpp"))]
    text = "\n".join(path.read_text() for path in sources)
    joined = re.sub(r'"\s*\n?\s*"', "", text)
    quoted = [first_code(row[0]) for row in troubleshooting_rows()]
    if len(quoted) < 30:
        return [f"{MANUAL.name}: the troubleshooting tables were not found"]
    complaints = [f"{MANUAL.name}: nothing in the source says '{sentence}'"
                  for sentence in quoted if sentence and sentence not in joined]
    for said in re.findall(r'fail\(Fault::operator_,\s*"(--[^"]+)"', joined):
        if not said.endswith(" ") and not any(sentence in said for sentence in quoted if sentence):
            complaints.append(f"{MANUAL.name}: no row for '{said}'")
    return complaints


def troubleshooting_rows() -> list[list[str]]:
    text = MANUAL.read_text().split("## Troubleshooting", 1)[-1]
    return [[cell.strip() for cell in line.strip("|").split(" | ")]
            for line in text.splitlines() if line.startswith("| `")]


if __name__ == "__main__":
    sys.exit(check(flag_complaints, run_complaints, path_complaints, sentence_complaints))
