"""Names in a model or a run are data: no module is imported and no function is called because they say so."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from torso.agents import DQN
from torso.errors import EnvError

IDENTITY = "torso/Identity-v0"
NOT_IMPORTED = r"names '{}', whose module '{}' must be imported already, got one that is not"
NO_WRAPPER = r"names the wrapper '{}', which must be a class derived from gymnasium.Wrapper, got {};"
ADVICE = {"env_id": r"give DQN.load\(.*, env\)$", "wrappers": r"give DQN.load\(.*, wrappers=\[...\]\)$"}

called: list[Any] = []


def calls(env: Any) -> Any:
    """Record that it was called, as a function that wraps an env."""
    called.append(env)
    return env


class Same(gym.Wrapper[Any, Any, Any, Any]):
    """Wrapper that changes nothing."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run and a model of it."""
    folder = tmp_path_factory.mktemp("trained")
    agent = DQN(IDENTITY, min_replay_size=20, evaluation_episodes=1).learn(30, out=folder / "run")
    agent.save(folder / "model")
    return folder


@pytest.fixture
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module on the path that makes this file when it is imported."""
    (tmp_path / "evil_names.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "imported"
    sys.modules.pop("evil_names", None)


@pytest.fixture(params=["model", "run"])
def naming(request: pytest.FixtureRequest, trained: Path, tmp_path: Path) -> Callable[..., Path]:
    """``naming(wrappers=[...])``: a copy of the model, or of the run, that records this instead."""

    def copy(**records: Any) -> Path:
        target = Path(shutil.copytree(trained / request.param, tmp_path / request.param))
        if request.param == "run":
            config = json.loads((target / "config.json").read_text())
            config["settings"].update(records)
            (target / "config.json").write_text(json.dumps(config))
        else:
            card = json.loads((target / "model.json").read_text())
            card["provenance"].update(records)
            (target / "model.json").write_text(json.dumps(card))
        return target

    return copy


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ({"env_id": "evil_names:Env-v0"}, NOT_IMPORTED.format("evil_names:Env-v0", "evil_names")),
        ({"env_id": "sys:evil_names:Env-v0"}, NOT_IMPORTED.format("sys:evil_names:Env-v0", "sys:evil_names")),
        ({"wrappers": ["evil_names:Wrapper"]}, NOT_IMPORTED.format("evil_names:Wrapper", "evil_names")),
        ({"wrappers": ["builtins:print"]}, NO_WRAPPER.format("builtins:print", "builtin_function_or_method")),
        ({"wrappers": ["os:system"]}, NO_WRAPPER.format("os:system", "builtin_function_or_method")),
        ({"wrappers": ["builtins:open"]}, NO_WRAPPER.format("builtins:open", ".*")),
        ({"wrappers": ["gymnasium:Env"]}, NO_WRAPPER.format("gymnasium:Env", "type")),
        ({"wrappers": [f"{__name__}:calls"]}, NO_WRAPPER.format(f"{__name__}:calls", "function")),
        ({"wrappers": "os:system"}, "must name its wrappers in a list, got 'os:system'"),
        ({"wrappers": [3]}, r"must name its wrappers in a list, got \[3\]"),
        ({"env_id": 3}, "must name the env of its training, got 3"),
    ],
)
def test_what_files_name_is_neither_imported_nor_called(
    naming: Callable[..., Path], evil: Path, records: dict[str, Any], message: str
) -> None:
    [key] = records
    with pytest.raises(EnvError, match=f"{message}.*{ADVICE[key]}"):
        DQN.load(naming(**records)).evaluate(1)
    assert not evil.exists()
    assert not called


def test_what_the_program_has_or_gives_is_used(naming: Callable[..., Path], evil: Path) -> None:
    path = naming(wrappers=[f"{__name__}:Same", "gymnasium.wrappers:FlattenObservation"])
    assert DQN.load(path).world.wrappers == [Same, gym.wrappers.FlattenObservation]
    assert DQN.load(path, wrappers=[calls]).evaluate(1).returns
    assert called
    called.clear()
    assert DQN.load(path, IDENTITY).world.wrappers == [Same, gym.wrappers.FlattenObservation]
    assert not evil.exists()


def test_arguments_of_another_kind_are_refused(naming: Callable[..., Path]) -> None:
    with pytest.raises(EnvError, match=r"the recorded env_kwargs must be arguments by name, got \[1\]"):
        DQN.load(naming(env_kwargs=[1]))
