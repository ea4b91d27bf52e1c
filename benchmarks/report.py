"""Report of a benchmark: a JSON file of raw numbers and the text that it printed, under ``results/``."""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"


def machine() -> dict[str, Any]:
    """The machine that the numbers are of, without its name."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return {"cpu": model, "cores": os.cpu_count(), "python": platform.python_version(), "system": platform.system()}


def _script() -> str:
    """The running script, as it is called from the checkout's root."""
    path = Path(sys.argv[0]).resolve()
    return str(Path("benchmarks") / (path.relative_to(HERE) if path.is_relative_to(HERE) else path.name))


def _shown(argument: str) -> str:
    """An argument without the folders that only this machine has."""
    if not argument.startswith("/"):
        return argument
    folder, name = Path(argument).parts[-2:]
    return f"PEERS/bin/{name}" if folder == "bin" else f"FOLDER/{name}"


def json_text(data: Any) -> str:
    """Format as indented JSON, each list of numbers on one line."""
    lists = re.compile(r"\[([\s\d.,eE+-]+)\]")
    return lists.sub(lambda found: f"[{', '.join(found[1].replace(',', ' ').split())}]", json.dumps(data, indent=1))


class Report:
    """Prints as it goes and keeps what was printed. ``name`` is the files' name, ``folder`` where they are written."""

    def __init__(self, name: str, folder: Path = RESULTS) -> None:
        self.name = name
        self._folder = folder
        self.lines: list[str] = []
        self.data: dict[str, Any] = {
            "command": " ".join(["python", _script(), *map(_shown, sys.argv[1:])]),
            "date": datetime.now(UTC).date().isoformat(),
            "machine": machine(),
        }
        self.say(f"# {name}")
        self.say(f"`{self.data['command']}`, {self.data['date']}, {machine()['cores']} cores, {machine()['cpu']}")
        self.say()

    def say(self, line: str = "") -> None:
        """Print a line and keep it."""
        print(line, flush=True)
        self.lines.append(line)

    def table(self, header: list[str], rows: list[list[Any]]) -> None:
        """Print a Markdown table and keep it."""
        self.header(header)
        for row in rows:
            self.row(row)
        self.say()

    def header(self, names: list[str]) -> None:
        """Begin a table whose rows are yet to be measured."""
        self.row(names)
        self.say("|" + "---|" * len(names))

    def row(self, cells: list[Any]) -> None:
        """Print a row of a table and keep it."""
        self.say("| " + " | ".join(str(cell) for cell in cells) + " |")

    def write_data(self) -> None:
        """Write ``NAME.json`` into the folder."""
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / f"{self.name}.json").write_text(json_text(self.data) + "\n")

    def write(self) -> None:
        """Write ``NAME.json`` and ``NAME.md`` into the folder."""
        self.write_data()
        (self._folder / f"{self.name}.md").write_text("\n".join(self.lines) + "\n")
