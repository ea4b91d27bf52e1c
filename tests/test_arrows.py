"""Import order between folders and rooms, as ``rooms.py`` has it, read from the source and from processes."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from rooms import FOLDERS, THIRD_PARTY, TIERS, WITHOUT

ROOT = Path(__file__).parents[1]


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every module that a file imports, whole names, wherever in the file the import stands."""
    yield from imported_by(ast.parse(path.read_text(encoding="utf-8")), path)


def imports_at_run_time(path: Path) -> Iterator[tuple[str, int]]:
    """The same, without what only type checkers read."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tree.body = [
        node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
    ]
    yield from imported_by(tree, path)


def imported_by(tree: ast.AST, path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} is a relative import"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def files() -> list[tuple[str, Path]]:
    return [(folder, path) for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


def room_of(folder: str, path: Path) -> str:
    """The sub-package that a file stands in, or its own name where it is loose."""
    return path.relative_to(ROOT / folder).parts[0].removesuffix(".py")


def each_file(value: object) -> str | None:
    return value.relative_to(ROOT).as_posix() if isinstance(value, Path) else None


def test_every_folder_and_every_room_is_drawn() -> None:
    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} == set(FOLDERS)
    for folder, tiers in TIERS.items():
        drawn = [room for tier in tiers for room in sorted(tier)]
        assert len(drawn) == len(set(drawn))
        found = {room_of(folder, path) for path in (ROOT / folder).rglob("*.py")}
        assert found - {"__init__", "__main__"} == set(drawn), folder


def test_contributing_shows_the_table() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    lines = text.partition("<!-- rooms -->")[2].partition("<!-- /rooms -->")[0].strip().splitlines()[2:]
    shown = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    drawn = []
    for folder, others in FOLDERS.items():
        below = ", ".join(sorted(others)) or ("nothing" if folder in ("base", "proto") else "base")
        tiers = " < ".join(", ".join(f"`{room}`" for room in sorted(tier)) for tier in TIERS.get(folder, []))
        drawn.append([f"`{folder}/`", below, tiers])
    assert shown == drawn


@pytest.mark.parametrize(("folder", "path"), files(), ids=each_file)
def test_arrows_between_folders(folder: str, path: Path) -> None:
    for name, line in imports(path):
        parts = name.split(".")
        where = f"{path.relative_to(ROOT)}:{line} imports {name}"
        assert parts[0] not in FOLDERS, f"{where}: write torso.{name}"
        if parts[0] == "torso" and len(parts) > 1 and parts[1] in FOLDERS:
            assert parts[1] == folder or parts[1] in FOLDERS[folder], where
        assert folder in THIRD_PARTY.get(parts[0], {folder}), where
    for name, line in imports_at_run_time(path):
        kept_out = WITHOUT.get(name.partition(".")[0], set()) & {folder, f"{folder}/{room_of(folder, path)}"}
        assert not kept_out, f"{path.relative_to(ROOT)}:{line} imports {name}"


@pytest.mark.parametrize(("folder", "path"), [each for each in files() if each[0] in TIERS], ids=each_file)
def test_arrows_between_rooms(folder: str, path: Path) -> None:
    room = room_of(folder, path)
    if room in ("__init__", "__main__"):  # they hand on what stands anywhere in the folder
        return
    tiers = TIERS[folder]
    mine = next(index for index, tier in enumerate(tiers) if room in tier)
    below = {room, *(name for tier in tiers[:mine] for name in tier)}
    for name, line in imports(path):
        parts = name.split(".")
        if parts[:2] == ["torso", folder]:
            assert parts[2] in below, f"{path.relative_to(ROOT)}:{line} imports {name}, which is not below {room}"


def test_no_file_is_in_a_circle_of_imports() -> None:
    """At run time, that is: what only type checkers read may point back within a room."""
    modules = {module_name(folder, path): path for folder, path in files()}
    graph = {}
    for name, path in modules.items():
        found = {
            known for imported, _ in imports_at_run_time(path) for known in (imported, imported.rpartition(".")[0])
        }
        graph[name] = {known for known in found & set(modules) if modules[known].name != "__init__.py"}
    assert len(list(TopologicalSorter(graph).static_order())) == len(modules)  # CycleError names a circle


def module_name(folder: str, path: Path) -> str:
    inside = path.relative_to(ROOT / folder).with_suffix("").parts
    return ".".join(
        ["torso", *([] if folder == "base" else [folder]), *(part for part in inside if part != "__init__")]
    )


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


def test_specifications_are_plain_data() -> None:
    statement = (
        "from torso.nets import InputSpec, LogitsHeadSpec, MLPSpec, NetworkSpec, read_card\n"
        "spec = NetworkSpec(input=InputSpec(shape=(3,)), torso=MLPSpec(), head=LogitsHeadSpec(num_classes=2))\n"
        "assert NetworkSpec.from_json(spec.to_json()) == spec"
    )
    assert not loaded_after(statement) & {"torch", "onnxruntime", "onnx", "PIL", "cv2", "safetensors"}


def test_playing_with_a_model_that_is_elsewhere_needs_no_torch() -> None:
    statement = (
        "from torso.agents import World, evaluate, evaluation_seeds\n"
        "import torso.envs.games.atari, torso.cli.worlds, torso.cli.commands.play"
    )
    assert not loaded_after(statement) & {"torch", "onnxruntime", "onnx", "sklearn", "matplotlib", "cv2"}
