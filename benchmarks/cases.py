"""Cases of a benchmark that is gone on with: each is written as soon as it is measured, and not measured again."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from report import Report


def deadline(minutes: float) -> Callable[[], bool]:
    """Return a function that tells whether so many minutes have passed since now."""
    end_s = time.monotonic() + 60 * minutes
    return lambda: time.monotonic() >= end_s


class Cases:
    """Cases measured so far, by name, in ``NAME.json``; about: what must be equal for them to be gone on with."""

    def __init__(self, name: str, about: Mapping[str, Any], folder: Path, *, fresh: bool = False) -> None:
        self.report = Report(name, folder)
        about = json.loads(json.dumps(about))
        path = folder / f"{name}.json"
        before = json.loads(path.read_text()) if path.is_file() and not fresh else {}
        self.by_name: dict[str, Any] = before.get("cases", {}) if before.get("about") == about else {}
        self.report.data |= {"about": about, "cases": self.by_name}

    def measure(self, cases: Mapping[str, Callable[[], Any]], is_over: Callable[[], bool]) -> bool:
        """Measure those that are missing until time is over; whether all are there now. Each is written at once."""
        for name, case in cases.items():
            if name in self.by_name:
                continue
            if is_over():
                missing = sum(each not in self.by_name for each in cases)
                print(f"{missing} of {len(cases)} cases are missing: the same command goes on", file=sys.stderr)
                return False
            self.by_name[name] = case()
            print(f"measured: {name}", file=sys.stderr)
            self.report.write_data()
        return True
