"""The pages of documentation, their blocks of code, and a small frame for tests of them."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
BLOCK = re.compile(
    r"^(?:<!-- test: (?P<how>.+?) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S
)


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    how: str  # The comment above it; empty without one.
    text: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(TOP)}, line {self.line}"


def pages() -> list[Path]:
    return [TOP / "README.md", *sorted((TOP / "docs").glob("*.md"))]


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    return [
        Block(page, text.count("\n", 0, found.start()) + 1, found["language"], found["how"] or "",
              found["text"])
        for found in BLOCK.finditer(text)
    ]


def all_blocks() -> list[Block]:
    return [block for page in pages() for block in blocks(page)]


def prose(page: Path) -> str:
    """The page without its blocks of code."""
    return BLOCK.sub("", page.read_text())


def table_rows(page: Path, heading: str = "") -> list[list[str]]:
    """The cells of all tables, or of those up to the next heading; an escaped bar is part of its
    cell."""
    text = page.read_text()
    if heading:
        text = re.split(r"^#", text.split(f"\n{heading}\n", 1)[1], maxsplit=1, flags=re.M)[0]
    rows = []
    for line in text.splitlines():
        if line.startswith("| ") and not line.startswith("| ---"):
            rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return rows


def first_code(cell: str) -> str:
    found = re.match(r"`([^`]+)`", cell)
    return found[1] if found else ""


def check(*checks: Callable[[], list[str]]) -> int:
    """Runs functions that return complaints, prints these; the exit status."""
    complaints = [complaint for one in checks for complaint in one()]
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    print(f"{len(checks)} checks, {len(complaints)} complaints")
    return 1 if complaints else 0
