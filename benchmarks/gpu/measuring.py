"""Shared by the benchmarks on a GPU: the device, the hardware, options; and `cases`, which they go on with.

A script measures one case after another, writes its JSON file after each, and ends in time. The same command goes on
with the cases that are missing; on another machine, or with another torch or other settings, it begins anew.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.append(str(Path(__file__).resolve().parents[1]))

from cases import Cases, deadline
from report import RESULTS, machine

__all__ = ["Cases", "cuda_or_exit", "deadline", "hardware", "parser_of"]

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


def hardware(device: torch.device) -> dict[str, Any]:
    """GPU, CPU and versions of torch and CUDA, as JSON."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {"gpu": gpu, "torch": torch.__version__, "cuda": torch.version.cuda, **machine()}
