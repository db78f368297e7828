#!/usr/bin/env python3
"""What the pages name exists: flags, commands, files, and the daemon's sentences.

  names.py VHOST_USER_BLK VHOST_BENCH VHOST_USER_NET

Compares each daemon's manual with --help both ways; a flag elsewhere must be one of ours.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from pages import TOP, Block, all_blocks, check, first_code, pages, prose, table_rows

FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
DAEMONS = {"vhost-user-blk": sys.argv[1], "vhost-user-net": sys.argv[3]}
FOREIGN_FLAGS = {"--fix", "--only", "--realtime"}  # of ./run lint and the benchmarks
TREE = re.compile(r"(?<![\w/.-])(?:build|docs|examples|libvhost|systemd|tests|tools)/[\w./@-]+")


def manual(program: str) -> Path:
    return TOP / f"docs/{program}.md"


def flags_of(*command: str) -> set[str]:
    text = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"^  (--[a-z-]+)", text, re.M))


def flag_complaints() -> list[str]:
    known = {program: flags_of(path) for program, path in DAEMONS.items()}
    complaints = []
    for program, ours in known.items():
        page = manual(program)
        rows = {FLAG.findall(row[0])[0] for row in table_rows(page, "## Flags")
                if FLAG.match(first_code(row[0]))}
        complaints += [f"{page.name}: no row for {flag}" for flag in sorted(ours - rows)]
        complaints += [f"{page.name}: a row for {flag}, which the daemon does not know"
                       for flag in sorted(rows - ours)]
    known["vhost-bench"] = flags_of(sys.argv[2]) | flags_of(sys.argv[2], "net")
    all_known = FOREIGN_FLAGS.union(*known.values())
    for page in pages():
        named = set(FLAG.findall(re.sub(r"<!--|-->", "", prose(page))))
        complaints += [f"{page.name}: {flag} is no flag of ours"
                       for flag in sorted(named - all_known)]
    for block in all_blocks():
        for program, flags in known.items():
            for command in commands(block, program):
                complaints += [f"{block.place}: {program} does not know {flag}"
                               for flag in FLAG.findall(command) if flag not in flags]
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
    sources = [path for room in ("backends", "common", "libvhost")
               for path in sorted((TOP / room).rglob("*.cpp"))]
    text = "\n".join(path.read_text() for path in sources)
    joined = re.sub(r'"\s*\n?\s*"', "", text)
    complaints, quoted = [], []
    for page in map(manual, DAEMONS):
        sentences = [first_code(row[0]) for row in troubleshooting_rows(page)]
        if len(sentences) < 20:
            return [f"{page.name}: the troubleshooting tables were not found"]
        complaints += [f"{page.name}: nothing in the source says '{sentence}'"
                       for sentence in sentences if sentence and sentence not in joined]
        quoted += sentences
    for said in re.findall(r'(?:fail\(Fault::operator_,|refuse\()\s*"(--[^"]+)"', joined):
        if not said.endswith(" ") and not any(sentence in said for sentence in quoted if sentence):
            complaints.append(f"no manual has a row for '{said}'")
    return complaints


def troubleshooting_rows(page: Path) -> list[list[str]]:
    text = page.read_text().split("## Troubleshooting", 1)[-1]
    return [[cell.strip() for cell in line.strip("|").split(" | ")]
            for line in text.splitlines() if line.startswith("| `")]


if __name__ == "__main__":
    sys.exit(check(flag_complaints, run_complaints, path_complaints, sentence_complaints))
