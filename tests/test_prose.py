"""Style of the prose in code: first lines that can be searched for, one error dialect, settings documented one way."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from rooms import FOLDERS

ROOT = Path(__file__).parents[1]
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py") if "_pb2" not in path.name)
RIDDLES = ("What ", "Which ", "Who ", "Whom ", "How ", "Where ", "The road ", "The way ")
SETTINGS = ("Config", "Options", "Settings")
# Its text is a part of its type: it is a positional argument of the command line.
DOCUMENTED_ELSEWHERE = {("_Options", "algorithm")}


def identify(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", FILES, ids=identify)
def test_first_lines_begin_with_a_term(path: Path) -> None:
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            first = (ast.get_docstring(node) or "").partition("\n")[0]
            if first.startswith(RIDDLES):
                found.append(first)
    assert found == []


@pytest.mark.parametrize("path", FILES, ids=identify)
def test_errors_speak_one_dialect(path: Path) -> None:
    """``X must be A, got B``; not ``X: expected A, got B``."""
    texts = [text for text in raised_texts(ast.parse(path.read_text(encoding="utf-8"))) if ": expected " in text]
    assert texts == []


def raised_texts(tree: ast.AST) -> Iterator[str]:
    """The text of each error that is raised with one, ``{}`` in place of values."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            for argument in node.exc.args:
                parts = argument.values if isinstance(argument, ast.JoinedStr) else [argument]
                constants = [part.value if isinstance(part, ast.Constant) else "{}" for part in parts]
                yield "".join(map(str, constants))


def test_every_setting_has_its_text_below_it() -> None:
    missing, documented = [], 0
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and node.name.endswith(SETTINGS) and node.decorator_list:
                for field, below in zip(node.body, [*node.body[1:], None], strict=True):
                    if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
                        continue
                    text = below.value if isinstance(below, ast.Expr) else None
                    if isinstance(text, ast.Constant) and isinstance(text.value, str):
                        documented += 1
                    elif (node.name, field.target.id) not in DOCUMENTED_ELSEWHERE:
                        missing.append(f"{identify(path)}: {node.name}.{field.target.id}")
    assert missing == []
    assert documented > 150
