"""Size and names of the rooms: few files each, names that are used once, a docstring that says where to begin."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import pytest
from rooms import FOLDERS, LARGEST_ROOM, MOST_LOOSE, TIERS, TWINS

ROOT = Path(__file__).parents[1]
ROOMS = sorted(path.parent for folder in FOLDERS for path in (ROOT / folder).glob("*/__init__.py"))
# Names that several modules define for the same job: each command's and each script's entry, each folder's lazy names.
SHARED_NAMES = {"main", "run", "presets", "logger"}


def sources(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*.py") if not path.name.startswith("__") and "_pb2" not in path.name]


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.relative_to(ROOT).as_posix())
def test_a_room_is_small_and_says_what_it_is(room: Path) -> None:
    assert 2 <= len(sources(room)) <= LARGEST_ROOM
    assert room.name not in {path.stem for path in sources(room)}, "a file is called like its folder"
    tree = ast.parse((room / "__init__.py").read_text(encoding="utf-8"))
    [docstring] = tree.body  # and nothing else
    assert isinstance(docstring, ast.Expr)
    lines = [line for line in (ast.get_docstring(tree) or "").splitlines() if line]
    assert 2 <= len(lines) <= 3
    assert any("Begin with `" in line for line in lines), "it should say where to begin reading"
    named = [word.partition("`")[0] for word in " ".join(lines).split("`")[1::2]]
    assert all((room / name).is_file() for name in named if name.endswith(".py")), named


@pytest.mark.parametrize("folder", FOLDERS)
def test_few_files_are_in_no_room(folder: str) -> None:
    assert len(sources(ROOT / folder)) <= (MOST_LOOSE if folder in TIERS else LARGEST_ROOM)


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_two_files_of_a_folder_have_one_name(folder: str) -> None:
    places = defaultdict(list)
    for path in (ROOT / folder).rglob("*.py"):
        if path.name not in ("__init__.py", "__main__.py"):
            places[path.stem].append(path.parent.name)
    assert {name for name, found in places.items() if len(found) > 1} <= TWINS.get(folder, set())


def test_no_two_classes_or_functions_have_one_name() -> None:
    places = defaultdict(set)
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            if "_pb2" in path.name:
                continue
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                for name in defined(node):
                    if not name.startswith("_") and name not in SHARED_NAMES:
                        places[name].add(path.relative_to(ROOT).as_posix())
    assert {name: sorted(found) for name, found in places.items() if len(found) > 1} == {}


def defined(node: ast.stmt) -> list[str]:
    """The class, function or type alias that a statement defines; constants, in capitals, are each module's own."""
    if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    names = [target.id for target in targets if isinstance(target, ast.Name)]
    return [name for name in names if not name.isupper() or (len(name) > 1 and not name.replace("_", "").isupper())]
