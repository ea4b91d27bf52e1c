"""Shared by the benchmarks on a GPU: the device, time that waits for it, a deadline, results that are gone on with.

A script measures one case after another, writes its JSON file after each, and ends in time. The same command goes on
with the cases that are missing; on another machine, or with another torch or other settings, it begins anew.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

sys.path.append(str(Path(__file__).resolve().parents[1]))

from report import RESULTS, Report, machine

MOST_MINUTES = 8.0


def parser_of(text: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options of all these scripts; text: the script's docstring."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--minutes", type=_minutes, default=7.0, help="end after about so many, at most 8; the same command goes on"
    )
    parser.add_argument("--fresh", action="store_true", help="begin anew")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    return parser


def _minutes(text: str) -> float:
    minutes = float(text)
    if not 0 < minutes <= MOST_MINUTES:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most {MOST_MINUTES:g}, got {text}")
    return minutes


def cuda_or_exit() -> torch.device:
    """Return the GPU, or end the process with exit code 2 where there is none."""
    if not torch.cuda.is_available():
        print("error: this benchmark must have a GPU that torch can use, found none", file=sys.stderr)
        raise SystemExit(2)
    return torch.device("cuda")


def deadline(minutes: float) -> Callable[[], bool]:
    """Return a function that tells whether so many minutes have passed since now."""
    end_s = time.monotonic() + 60 * minutes
    return lambda: time.monotonic() >= end_s


def wait_for(device: torch.device) -> None:
    """Wait until the device has done what was launched."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def calls_per_s(call: Callable[[], object], device: torch.device, *, calls: int) -> float:
    """Rate of calls one after another, as a training makes them: the device is waited for at the end alone."""
    wait_for(device)
    began_s = time.perf_counter()
    for _ in range(calls):
        call()
    wait_for(device)
    return calls / (time.perf_counter() - began_s)


def hardware(device: torch.device) -> dict[str, Any]:
    """GPU, CPU and versions of torch and CUDA, as JSON."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {"gpu": gpu, "torch": torch.__version__, "cuda": torch.version.cuda, **machine()}


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
