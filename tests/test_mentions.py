"""Mentions of modules, names and files of torso, in prose and in code, lead to something that exists."""

from __future__ import annotations

import importlib
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = "agents|base|benchmarks|cli|docs|envs|insight|nets|proto|serve|tests"
DOTTED = re.compile(r"(?<![\w./-])torso\.(?:agents|cli|envs|insight|nets|proto|serve)(?:\.[a-zA-Z_]\w*)+")
PATHS = re.compile(rf"(?<![\w./-])(?:{FOLDERS})(?:/[\w.-]+)+\.\w+")
RECORDS = ("CHANGELOG.md", "benchmarks/results/")  # of a day, and of what there was on it
MADE_UP = {"torso.serve.test", "torso.serve.Server2"}  # a logger's name and a service that there is not, in tests


def texts() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "*.py", "*.md", "*.toml", "Makefile"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    paths = [ROOT / name for name in listed.stdout.split() if not name.startswith(RECORDS)]
    return [path for path in paths if path.is_file() and "_pb2" not in path.name]


@cache
def exists(name: str) -> bool:
    """Whether a dotted name leads to a module, or to an attribute of one."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError as error:
            if not name.startswith(str(error.name)):  # an extra's package
                return True
            continue
        for attribute in parts[end:]:
            if attribute not in getattr(found, "__annotations__", {}) and not hasattr(found, attribute):
                return False
            found = getattr(found, attribute, None)
        return True
    return False


@pytest.mark.parametrize("path", texts(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_name_that_is_mentioned_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    names = set(DOTTED.findall(text)) - MADE_UP
    assert [name for name in sorted(names) if not exists(name)] == []
    files = {name for name in PATHS.findall(text) if not re.search(r"runs/|\.(png|jsonl)$", name)}
    assert [name for name in sorted(files) if not (ROOT / name).exists()] == []
