"""Who may import whom: the arrows between the packages, read off the source and, for the lazy doors, off a process."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Each package may import itself, base, and these.
ARROWS: dict[str, set[str]] = {
    "base": set(),
    "nets": set(),
    "envs": set(),
    "insight": {"nets", "envs"},
    "agents": {"nets", "envs", "insight"},
    "proto": set(),
    "serve": {"nets", "proto"},
    "cli": {"nets", "envs", "insight", "agents", "proto", "serve"},
}
# And of other distributions, these belong to one room of the house.
THIRD_PARTY = {
    "grpc": {"proto", "serve"},
    "onnxruntime": {"serve"},
    "gymnasium": {"envs", "agents"},
    "ale_py": {"envs"},
    "tyro": {"cli"},
}


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every module that a file imports, whole names, wherever in the file the import stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} is a relative import"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def files() -> list[tuple[str, Path]]:
    return [(package, path) for package in ARROWS for path in sorted((ROOT / package).rglob("*.py"))]


def test_every_package_is_drawn() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages == set(ARROWS)


@pytest.mark.parametrize(
    ("package", "path"), files(), ids=lambda value: value.name if isinstance(value, Path) else value
)
def test_arrows(package: str, path: Path) -> None:
    for name, line in imports(path):
        parts = name.split(".")
        where = f"{package}/{path.name}:{line} imports {name}"
        assert parts[0] not in ARROWS, f"{where}: write torso.{name}"
        if parts[0] == "torso" and len(parts) > 1 and parts[1] in ARROWS:
            assert parts[1] == package or parts[1] in ARROWS[package], where
        assert package in THIRD_PARTY.get(parts[0], {package}), where


def loaded_after(statement: str) -> set[str]:
    """The top-level names in ``sys.modules`` of a fresh process after a statement."""
    code = f"{statement}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement", ["from torso.serve import Client, AsyncClient", "import torso", "import torso.cli"]
)
def test_thin_imports(statement: str) -> None:
    heavy = {"torch", "onnxruntime", "onnx", "gymnasium", "sklearn", "matplotlib", "PIL"}
    assert not loaded_after(statement) & heavy


def test_playing_with_a_model_that_is_elsewhere_needs_no_torch() -> None:
    statement = (
        "from torso.agents import World, evaluate, evaluation_seeds; import torso.envs.games.atari, torso.cli.worlds"
    )
    assert not loaded_after(statement) & {"torch", "onnxruntime", "onnx", "sklearn", "matplotlib", "cv2"}
