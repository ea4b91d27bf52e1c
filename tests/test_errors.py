"""Exception hierarchy: the tree that errors.py draws is the one that it defines; the form of messages."""

from __future__ import annotations

import inspect
import re

import pytest

import torso.errors as errors


def defined() -> dict[str, type[BaseException]]:
    return {
        name: each
        for name, each in vars(errors).items()
        if inspect.isclass(each) and each.__module__ == errors.__name__
    }


def drawn() -> dict[str, tuple[str | None, str | None]]:
    """Each error's parent and, in brackets, the built-in error that it is too."""
    found: dict[str, tuple[str | None, str | None]] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"    ([│├└─ ]*)(\w+Error)(?: \((\w+)\))?(?:\s|$)", line)
        if match:
            indent, name, builtin = match.groups()
            del above[len(indent) // 4 :]
            found[name] = (above[-1] if above else None, builtin)
            above.append(name)
    return found


def test_the_tree_is_drawn_as_it_is() -> None:
    tree = drawn()
    assert set(tree) == set(defined())
    for name, (parent, builtin) in tree.items():
        bases = [base.__name__ for base in defined()[name].__bases__]
        assert bases == [each for each in (parent or "Exception", builtin) if each], name


def test_an_input_error_says_what_its_field_must_be_and_what_it_got() -> None:
    error = errors.InputError("mask", expected="bool [2, 3]", got="int8 [2, 3]")
    assert str(error) == "mask must be bool [2, 3], got int8 [2, 3]"
    assert (error.field, error.expected, error.got, error.came) == ("mask", "bool [2, 3]", "int8 [2, 3]", "int8 [2, 3]")


def test_a_missing_extra_names_its_install_command() -> None:
    error = errors.MissingExtraError("LunarLander-v3", "box2d")
    assert str(error) == "LunarLander-v3 needs the extra 'box2d': pip install 'torso[box2d]'"
    assert (error.what, error.extra) == ("LunarLander-v3", "box2d")
    with pytest.raises(ImportError):
        raise error
