"""Check the version ranges of pyproject.toml in new virtual environments: ``python tests/version_ranges.py COMMAND``.

``lowest [PYTEST ARGUMENT...]`` installs the lowest version of every dependency, extras included, and runs the tests
with them: all that are not slow, unless arguments say otherwise. What only tests need, and what dependencies bring in
turn, is as new as pip finds. torch is the one that constraints.txt pins and not the lowest, whose wheel is not to be
had for the CPU alone from the package index.

``neighbours`` resolves one environment of torso, without its test extra, and the packages in ``NEIGHBOURS``. It
installs nothing, and prints the versions that pip chose of what torso needs itself.

Both need a package index, ``lowest`` a C++ compiler too; ``--venv`` keeps the environment.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import tomllib
import venv
from itertools import chain
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
NEIGHBOURS = ("tritonclient[grpc]==2.73.*", "kserve==0.21.*", "ray==2.60.*")
TESTS = ("-m", "not slow and not web", "-n", "2", "--dist", "worksteal")
OLD = ("-W", "ignore::DeprecationWarning")  # an old package calls what newer ones around it call old
PINNED = {"torch"}  # tested with the version in constraints.txt instead of the lowest


def requirements() -> list[Requirement]:
    """Return what torso needs, and what its extras need that are not for tests."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = (texts for name, texts in project["optional-dependencies"].items() if not name.startswith("test"))
    return [Requirement(text) for text in chain(project["dependencies"], *extras)]


def lowest_versions() -> dict[str, str]:
    """Return the lowest version of each requirement, by name."""
    lowest: dict[str, Version] = {}
    for requirement in requirements():
        floors = [Version(part.version) for part in requirement.specifier if part.operator == ">="]
        if len(floors) != 1:
            raise SystemExit(f"{requirement.name} must have one lowest version, got {requirement}; add >= to it")
        lowest[requirement.name] = max(floors[0], lowest.get(requirement.name, floors[0]))
    return {name: str(version) for name, version in lowest.items() if name not in PINNED} | pinned_versions()


def pinned_versions() -> dict[str, str]:
    """Return the versions in constraints.txt of the packages that are not tested with their lowest."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line)
    return {name: pins[name] for name in PINNED}


def make_environment(folder: Path) -> Path:
    """Make a virtual environment and return its Python."""
    venv.create(folder, with_pip=True, clear=True)
    return folder / "bin" / "python"


def pip_install(python: Path, constraints: dict[str, str], *arguments: str) -> None:
    """Install with the constraints, in the repository's folder; what is built finds the environment's programs."""
    file = python.parents[1] / "constraints.txt"
    file.write_text("".join(f"{name}=={version}\n" for name, version in constraints.items()))
    command = [python, "-m", "pip", "--disable-pip-version-check", "install", "--progress-bar=off", "-c", file]
    path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run([*command, *arguments], cwd=ROOT, env=os.environ | {"PATH": path}, check=True)


def run_tests(folder: Path, arguments: list[str]) -> int:
    """Run the tests with the lowest versions; return pytest's exit status."""
    lowest = lowest_versions()
    python = make_environment(folder)
    print(" ".join(f"{name}=={version}" for name, version in lowest.items()), flush=True)
    pip_install(python, {}, "swig", "wheel")  # gymnasium 1.1 brings Box2D as C++ sources
    pip_install(python, lowest, "--editable", ".[test]")
    return subprocess.run([python, "-m", "pytest", *OLD, *(arguments or TESTS)], cwd=ROOT, check=False).returncode


def resolve_neighbours(folder: Path) -> int:
    """Resolve torso and its neighbours into one environment; return 0, or raise with pip's reason on stderr."""
    python = make_environment(folder)
    report = folder / "report.json"
    pip_install(python, pinned_versions(), "--dry-run", "--report", str(report), ".", *NEIGHBOURS)
    items = [item["metadata"] for item in json.loads(report.read_text())["install"]]
    found = {canonicalize_name(item["name"]): item["version"] for item in items}
    mine = {canonicalize_name(requirement.name) for requirement in requirements()}
    neighbours = {canonicalize_name(Requirement(text).name) for text in NEIGHBOURS}
    print(" ".join(f"{name}=={found[name]}" for name in sorted(found.keys() & (mine | neighbours))))
    return 0


def main() -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=Path, help="make the environment here and keep it")
    parser.add_argument("command", choices=["lowest", "neighbours"])
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="pytest's, of lowest")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.venv or Path(scratch) / "venv"
        return run_tests(folder, given.arguments) if given.command == "lowest" else resolve_neighbours(folder)


if __name__ == "__main__":
    sys.exit(main())
