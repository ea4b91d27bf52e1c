"""Modules in the current folder: imported where they are typed, and never because a model or a run names them."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

GRID = """
import gymnasium as gym, numpy as np
import beside_grid
class Grid(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (2,)); action_space = gym.spaces.Discrete(2)
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(2, np.float32), {}
    def step(self, action):
        self.steps += 1
        return np.zeros(2, np.float32), 1.0, self.steps == 5, False, {}
class Same(gym.Wrapper): pass
gym.register("Grid-v0", Grid)
"""
SMALL = shlex.split("--steps 60 --hidden 8 --min-replay-size 50 --evaluation-episodes 1 --num-envs 1")
Torso = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a user's, with an env in a module and a run that was trained in it."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "gridworld.py").write_text(GRID)
    (folder / "beside_grid.py").write_text("")
    trained = torso_in(folder)(
        "train", "dqn", "--env", "gridworld:Grid-v0", "--wrapper", "gridworld:Same", *SMALL, "--out", "run"
    )
    assert trained.returncode == 0, trained.stderr
    return folder


def torso_in(folder: Path, *how: str) -> Torso:
    def call(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *(how or ("-m", "torso")), *words]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)

    return call


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (("-m", "torso"), ("evaluate", "run", "--env", "gridworld:Grid-v0")),
        (("-m", "torso.cli"), ("evaluate", "run", "--import", "gridworld")),
        ((str(Path(sys.executable).with_name("torso")),), ("--import=gridworld", "play", "--model", "run")),
    ],
)
def test_every_way_to_start_imports_what_is_typed(folder: Path, how: tuple[str, ...], words: tuple[str, ...]) -> None:
    ended = torso_in(folder, *how)(*words, "--episodes", "1", "--json")
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["returns"] == [5.0]


@pytest.mark.parametrize(
    ("words", "where"),
    [
        (("evaluate", "run"), "the model"),
        (("play", "--model", "run"), "the model"),
        (("train", "--out", "run", "--resume", "--import", "other"), "the run in run"),
        (("evaluate", "run", "--import", "other"), "the model"),
        (("evaluate", "wrapped"), "the model"),
    ],
)
def test_what_a_model_or_a_run_names_is_not_imported_from_here(
    folder: Path, words: tuple[str, ...], where: str
) -> None:
    """Not even where the folder is open for another module; a file of its name beside it stays unread."""
    (folder / "evil.py").write_text("open('was-imported', 'w').close()")
    (folder / "other.py").write_text("")
    for name in ("run", "wrapped"):
        _rename_in_run(folder, name)
    ended = torso_in(folder)(*words)
    assert ended.returncode == 2, ended
    names = "evil:Wrapper" if "wrapped" in words else "evil:Env-v0"
    assert ended.stderr == (
        f"error: {where} names {names!r}, whose module 'evil' must be installed, on PYTHONPATH or named on the "
        "command line, got none; if you trust it, add --import evil\n"
    )
    assert not (folder / "was-imported").exists()


def _rename_in_run(folder: Path, name: str) -> None:
    """Make a copy of the run that names evil's env, or its wrapper, in config.json and in its models."""
    source = json.loads((folder / "run" / "config.json").read_text())
    target = folder / name
    if name == "wrapped" and not target.exists():
        shutil.copytree(folder / "run", target)
    own = {"env_id": "evil:Env-v0"} if name == "run" else {"env_id": "CartPole-v1", "wrappers": ["evil:Wrapper"]}
    (target / "config.json").write_text(json.dumps({**source, "settings": {**source["settings"], **own}}))
    for model in ("best", "model"):
        card = json.loads((target / model / "model.json").read_text())
        card["provenance"].update(own)
        (target / model / "model.json").write_text(json.dumps(card))


def test_ctrl_c_says_the_module_that_a_resume_needs(folder: Path) -> None:
    from torso.cli.imports import take_imports, trust, with_imports

    take_imports([])
    trust(["gridworld"])
    assert with_imports("torso train --resume") == "torso train --resume --import gridworld"
    take_imports([])
    assert with_imports("torso train --resume") == "torso train --resume"


def test_the_current_folder_shadows_nothing(folder: Path) -> None:
    """``python -m`` puts the folder before all others; a user's own numpy.py must not be torso's."""
    (folder / "numpy.py").write_text("raise SystemExit('shadowed')")
    try:
        assert torso_in(folder)("evaluate", "missing").stderr.startswith("error: no model at missing")
    finally:
        (folder / "numpy.py").unlink()


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """Server of the run's model, and of ones that name another env, or other wrappers."""
    models = {"grid": {}, "env": {"env_id": "evil:Env-v0"}, "twice": {"env_id": "sys:evil:Env-v0"}}
    models |= {"wrapper": {"env_id": "CartPole-v1", "wrappers": ["evil:Wrapper"]}}
    models |= {"print": {"env_id": "CartPole-v1", "wrappers": ["builtins:print"]}, "list": {"env_kwargs": [1]}}
    for name, records in models.items():
        model = Path(shutil.copytree(folder / "run" / "model", folder / "served" / name))
        card = json.loads((model / "model.json").read_text())
        card["provenance"].update({"env_id": "gridworld:Grid-v0", "wrappers": ["gridworld:Same"], **records})
        (model / "model.json").write_text(json.dumps(card))
    port_file = folder / "served" / "port"
    words = [*(str(folder / "served" / name) for name in models), "--port", "0", "--port-file", str(port_file)]
    with (folder / "served" / "log").open("w") as log:
        command = [sys.executable, "-m", "torso", "serve", *words, "--backend", "torch", "--drain-s", "0"]
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        end_s = time.monotonic() + 120
        while not port_file.exists():
            assert server.poll() is None, (folder / "served" / "log").read_text()
            assert time.monotonic() < end_s, "the server is not ready"
            time.sleep(0.02)
        yield f"127.0.0.1:{port_file.read_text().strip()}"
    finally:
        server.terminate()
        server.wait(60)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("env", "the server names 'evil:Env-v0', whose module 'evil' must be imported already"),
        ("twice", "the server names 'sys:evil:Env-v0', whose module 'sys:evil' must be imported already"),
        ("wrapper", "the server names 'evil:Wrapper', whose module 'evil' must be imported already"),
        (
            "print",
            "the server names the wrapper 'builtins:print', which must be a class derived from gymnasium.Wrapper",
        ),
        ("grid", "the server names 'gridworld:Grid-v0', whose module 'gridworld' must be imported already"),
    ],
)
def test_what_a_server_names_is_neither_imported_nor_called(
    folder: Path, address: str, monkeypatch: pytest.MonkeyPatch, model: str, message: str
) -> None:
    """Not even where its module is installed."""
    (folder / "evil.py").write_text("open('was-imported', 'w').close()")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH")))))
    ended = torso_in(folder)("play", "--model", model, "--address", address)
    assert (ended.returncode, ended.stdout) == (2, ""), ended
    assert ended.stderr.startswith(f"error: {message}"), ended.stderr
    assert not (folder / "was-imported").exists()


@pytest.mark.parametrize("typed", [("--import", "gridworld"), ("--env", "gridworld:Grid-v0")])
def test_what_is_typed_is_imported_for_a_served_model(folder: Path, address: str, typed: tuple[str, ...]) -> None:
    ended = torso_in(folder)("play", "--model", "grid", "--address", address, "--json", *typed)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["returns"] == [5.0]
