#!/usr/bin/env python3
"""Counts the single test cases of one `meson test` run: prints "PASSED FAILED SKIPPED".

Reads BUILD/meson-logs/testlog.junit.xml, where every GoogleTest case stands by itself, and
testlog.json, which knows how each program ended. A program that fails without a failed case (a
crash, a time-out, a sanitizer's report at exit) must not go unseen: there are never fewer
failures than failed programs.
"""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

GOOD_ENDS = {"OK", "SKIP", "EXPECTEDFAIL"}


def main(build: Path) -> None:
    logs = build / "meson-logs"
    passed = failed = skipped = 0
    for case in _cases(logs / "testlog.junit.xml"):
        if case.find("failure") is not None or case.find("error") is not None:
            failed += 1
        elif case.find("skipped") is not None or case.get("status") == "notrun":
            skipped += 1
        else:
            passed += 1
    print(passed, max(failed, _failed_programs(logs / "testlog.json")), skipped)


def _cases(report: Path) -> list[ElementTree.Element]:
    return list(ElementTree.parse(report).iter("testcase")) if report.exists() else []


def _failed_programs(log: Path) -> int:
    if not log.exists():
        return 0
    results = [json.loads(line)["result"] for line in log.read_text().splitlines() if line]
    return sum(result not in GOOD_ENDS for result in results)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
