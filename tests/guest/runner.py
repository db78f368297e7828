"""A small test runner: tests are functions with a sentence for a name, registered by @promise.

One line per test with its time, a failure with its traceback and the ends of all logs, and the
summary "N passed, N failed[, N skipped]" at the end. A test that raises Skip is skipped; one
that returns has passed; anything else is a failure. Each test runs in a Lab of its own.

Tests of a group are run only when they, or the group, are asked for.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from lab import Lab, Setting
from namespace import NotAllowed

Test = Callable[[Lab], None]
_promises: dict[str, Test] = {}
_groups: dict[str, list[str]] = {}


class Skip(Exception):
    """This test cannot be run here; the text says why."""


@dataclass
class Tally:
    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __str__(self) -> str:
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        return f"{self.passed} passed, {self.failed} failed{skipped}"


def promise(test: Test) -> Test:
    """Registers a test under its function's name."""
    if test.__name__ in _promises:
        raise ValueError(f"two tests are called {test.__name__}")
    _promises[test.__name__] = test
    return test


def promise_of(group: str, name: str, test: Test) -> None:
    """Registers a test of a group under a name of its own."""
    _promises[name] = test
    _groups.setdefault(group, []).append(name)


def promise_in(group: str) -> Callable[[Test], Test]:
    """Registers a test of a group under its function's name."""
    def register(test: Test) -> Test:
        promise_of(group, test.__name__, test)
        return test
    return register


def names() -> list[str]:
    return list(_promises)


def select(wanted: list[str]) -> list[str]:
    """The tests, or groups, called so, or whose names contain a wanted word; all that are of no
    group if none is wanted."""
    if not wanted:
        grouped = [name for group in _groups.values() for name in group]
        return [name for name in _promises if name not in grouped]
    chosen = []
    for word in wanted:
        found = [word] if word in _promises else _groups.get(word, [])
        found = found or [name for name in _promises if word in name]
        if not found:
            raise LookupError(f"there is no test {word}; --list shows them all")
        chosen += [name for name in found if name not in chosen]
    return chosen


def run(chosen: list[str], setting: Setting) -> Tally:
    tally = Tally()
    for name in chosen:
        begin = time.monotonic()
        outcome, report = _run_one(_promises[name], setting)
        setattr(tally, outcome, getattr(tally, outcome) + 1)
        print(f"{outcome:8}{time.monotonic() - begin:6.1f} s  {name}{report}", flush=True)
    return tally


def _run_one(test: Test, setting: Setting) -> tuple[str, str]:
    lab = Lab(setting)
    try:
        with lab:
            test(lab)
            lab.finish()
    except (Skip, NotAllowed) as reason:
        lab.discard()
        return "skipped", f": {reason}"
    except Exception:  # A test may fail in any way; the others still run.
        report = f"\n{traceback.format_exc()}{lab.logs()}\n--- kept in {lab.folder}"
        return "failed", report
    lab.discard()
    return "passed", ""
