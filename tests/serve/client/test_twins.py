"""`Client` and `AsyncClient` are equal line by line, apart from a table of substitutions and two method bodies."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import torso.serve.client.async_client as async_module
import torso.serve.client.sync_client as sync_module

SUBSTITUTIONS = {
    "AsyncClient": "Client",
    "AsyncActStream": "ActStream",
    "AsyncIterator": "Iterator",
    "pipelined_async": "pipelined",
    "aio_channel": "channel",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "grpc.aio.AioRpcError": "grpc.RpcError",
    "grpc.aio": "grpc",
    "asyncio": "time",  # for sleep
}
# Their bodies differ: the blocking stream takes the model's description, asyncio's one awaits it when it is entered;
# asyncio's channels are closed concurrently.
DIFFERENT = {"act_stream", "close"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Synchronous(ast.NodeTransformer):
    """Remove async and await."""

    def visit_Await(self, node: ast.Await) -> ast.AST:
        return self.visit(node.value)  # type: ignore[no-any-return]

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return self.generic_visit(ast.FunctionDef(**vars(node)))

    def visit_AsyncFor(self, node: ast.AsyncFor) -> ast.AST:
        return self.generic_visit(ast.For(**vars(node)))

    def visit_AsyncWith(self, node: ast.AsyncWith) -> ast.AST:
        return self.generic_visit(ast.With(**vars(node)))


def parse(module: object) -> ast.Module:
    return ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))  # type: ignore[attr-defined]


def methods(tree: ast.Module) -> list[Function]:
    [client] = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    functions = [node for node in client.body if isinstance(node, Function)]
    assert len(functions) == len([node for node in client.body if not isinstance(node, ast.Expr)])  # and nothing else
    return functions


def without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, Function)) and ast.get_docstring(node) is not None:
            del node.body[0]
    return tree


def lines(text: str) -> list[str]:
    """Split code into lines, its imports sorted."""
    found = [line for line in text.splitlines() if line]
    imports = [line for line in found if line.startswith(("import ", "from "))]
    return sorted(imports) + found[len(imports) :]


def code(tree: ast.Module) -> list[str]:
    return lines(ast.unparse(without_docstrings(tree)))


def code_as_sync(tree: ast.Module) -> list[str]:
    text = ast.unparse(Synchronous().visit(without_docstrings(tree)))
    names = "|".join(map(re.escape, SUBSTITUTIONS))  # the longer of two that begin alike comes first in the table
    return lines(re.sub(rf"\b({names})\b", lambda name: SUBSTITUTIONS[name[0]], text))


def emptied(tree: ast.Module) -> ast.Module:
    """Remove the bodies of the methods that differ."""
    for method in methods(tree):
        if method.name in DIFFERENT:
            method.body = [ast.Pass()]
    return tree


def test_the_clients_are_equal_line_by_line() -> None:
    assert code_as_sync(emptied(parse(async_module))) == code(emptied(parse(sync_module)))


def test_no_more_methods_are_excepted_than_differ() -> None:
    pairs = zip(methods(parse(async_module)), methods(parse(sync_module)), strict=True)
    differing = {
        twin.name
        for other, twin in pairs
        if code_as_sync(ast.Module([other], type_ignores=[])) != code(ast.Module([twin], type_ignores=[]))
    }
    assert differing == DIFFERENT


def test_every_substitution_is_needed() -> None:
    text = ast.unparse(without_docstrings(parse(async_module)))
    assert [name for name in SUBSTITUTIONS if not re.search(rf"\b{re.escape(name)}\b", text)] == []


def test_the_docstrings_of_the_methods_are_the_same() -> None:
    def documented(module: object) -> dict[str, str | None]:
        found = {method.name: ast.get_docstring(method) for method in methods(parse(module))}
        return {name: text for name, text in found.items() if not name.startswith("_")}

    assert documented(async_module) == documented(sync_module)
    assert all(documented(sync_module).values())
