"""Remote play of Atari: a served model gets raw frames from a thin client, and scores as it does locally."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from torso.envs import make_vector
from torso.nets import (
    InputSpec,
    MLPSpec,
    NetworkSpec,
    ScalarHeadSpec,
    TorchBackend,
    build_network,
    net_spec,
    save_model,
)
from torso.serve import ActStream, Client

Run = Callable[..., Any]
ENV, ENV_KWARGS = "ALE/Breakout-v5", {"noop_max": 9, "use_fire_reset": True}

# Runs a command line, and prints the imported modules on stderr.
THIN = """
import sys
from torso.cli import main
code = main(sys.argv[1:])
print(*{name.partition(".")[0] for name in sys.modules}, file=sys.stderr)
print(*(name for name in sys.modules if name.startswith("torso.")), file=sys.stderr)
sys.exit(code)
"""


@pytest.fixture(scope="module")
def breakout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save an untrained model of Breakout whose greedy actions vary."""
    return untrained(tmp_path_factory.mktemp("breakout") / "breakout", num_actions=4)


@pytest.fixture(scope="module")
def any_game(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save one of all 18 actions, which games have with ``full_action_space``."""
    return untrained(tmp_path_factory.mktemp("any_game") / "any_game", num_actions=18)


def untrained(directory: Path, *, num_actions: int) -> Path:
    pixels = InputSpec(shape=(4, 84, 84), dtype="uint8", layout="chw", scale=1 / 255)
    spec = NetworkSpec(input=pixels, torso=net_spec("nature", pixels), head=ScalarHeadSpec(num_actions=num_actions))
    network = build_network(spec, torch.Generator().manual_seed(4))
    games = make_vector(ENV, 4, seed=0)
    games.reset()
    actions = np.random.default_rng(0).integers(4, size=(60, 4))
    seen = np.concatenate([games.step(each)[0] for each in actions])
    games.close()
    with torch.no_grad():  # no action is the best on average
        dict(network.named_parameters())["head.linear.bias"] -= torch.tensor(
            TorchBackend(network).run(seen)[0].mean(axis=0)
        )
    return save_model(
        directory,
        network,
        kind="policy",
        onnx=False,
        provenance={"env_id": ENV, "env_kwargs": ENV_KWARGS, "seed": 0},
    )


@pytest.fixture(scope="module")
def screen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a model of a wrapped game, with observations of two numbers."""
    spec = NetworkSpec(input=InputSpec(shape=(2,)), torso=MLPSpec(hidden=(8,)), head=ScalarHeadSpec(num_actions=6))
    return save_model(
        tmp_path_factory.mktemp("screen") / "screen",
        build_network(spec, torch.Generator().manual_seed(0)),
        kind="policy",
        onnx=False,
        provenance={
            "env_id": "ALE/Pong-v5",
            "env_kwargs": {"max_episode_steps": 20},
            "wrappers": [f"{__name__}:Brightness"],
        },
    )


class Brightness(gym.ObservationWrapper):
    """Reduce a screen to two numbers."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.observation_space = gym.spaces.Box(0, 255, (2,), np.float32)

    def observation(self, observation: Any) -> Any:
        return np.array([observation.mean(), observation.std()], np.float32)


@pytest.fixture(scope="module")
def address(
    breakout: Path,
    any_game: Path,
    screen: Path,
    tmp_path_factory: pytest.TempPathFactory,
    start_for_module: Callable[..., Any],
) -> Iterator[str]:
    port_file = tmp_path_factory.mktemp("server") / "port"
    # torch locally and on the server, and batches of one: the same bits, so that no near tie is decided differently
    options = ("--port", 0, "--port-file", port_file, "--backend", "torch", "--max-batch-rows", 1, "--drain-s", 0)
    server = start_for_module("serve", breakout, any_game, screen, *options)
    end_s = time.monotonic() + 120
    while not port_file.exists():
        assert server.poll() is None, server.communicate()
        assert time.monotonic() < end_s, "the server is not ready"
        time.sleep(0.02)
    yield f"127.0.0.1:{port_file.read_text().strip()}"
    server.send_signal(signal.SIGTERM)
    log = server.communicate()[1]
    assert server.returncode == 0, log


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Record the shapes of the observations sent on streams."""
    shapes: list[tuple[int, ...]] = []
    submit = ActStream.submit

    def spy(stream: ActStream, observation: Any, **options: Any) -> Any:
        assert observation.dtype == np.uint8
        shapes.append(observation.shape)
        return submit(stream, observation, **options)

    monkeypatch.setattr(ActStream, "submit", spy)
    return shapes


def test_whole_games_score_what_they_score_here(run: Run, breakout: Path, address: str, sent: list[Any]) -> None:
    play = ("play", "--episodes", 3, "--seed", 7, "--json")
    here = json.loads(run(*play, "--model", breakout).out)
    assert sent == []
    there = run(*play, "--model", "breakout", "--address", address)
    assert (there.code, there.err) == (0, "")
    assert json.loads(there.out) == {**here, "model": "breakout"}
    assert sent == [(2, 210, 160, 3)] * sum(here["lengths_steps"])
    assert here["num_cut"] == 0
    assert max(here["returns"]) > min(here["returns"])
    scored = json.loads(run("evaluate", breakout, "--episodes", 3, "--seed", 7, "--json").out)
    assert scored["returns"] == here["returns"]
    text = run("play", "--model", "breakout", "--address", address, "--seed", 7).out
    assert text.startswith(f"episode 1: return {here['returns'][0]:,.1f}, {here['lengths_steps'][0]} steps\n")


@pytest.mark.parametrize(
    ("game", "kwargs"),
    [
        ("Pong", {"max_episode_steps": 200}),
        ("Pong", {"protocol": "dqn2015", "max_num_frames_per_episode": 503}),
        ("Seaquest", {"frameskip": 3, "max_episode_steps": 90, "use_fire_reset": True, "noop_max": 5}),
        ("KingKong", {"protocol": "machado2018", "max_episode_steps": 90}),
    ],
)
def test_other_games_and_protocols(
    run: Run, any_game: Path, address: str, sent: list[Any], game: str, kwargs: dict[str, Any]
) -> None:
    kwargs = {**kwargs, "full_action_space": True}
    env = ("--env", f"ALE/{game}-v5", "--env-kwargs", json.dumps(kwargs), "--episodes", 2, "--json")
    here = json.loads(run("play", "--model", any_game, *env).out)
    assert json.loads(run("play", "--model", "any_game", "--address", address, *env).out) == {
        **here,
        "model": "any_game",
    }
    assert len(sent) == sum(here["lengths_steps"])


def test_it_imports_nothing_that_computes(run: Run, breakout: Path, address: str) -> None:
    options = ("--episodes", "1", "--env", ENV, "--env-kwargs", '{"max_episode_steps": 30}', "--json")
    command = [sys.executable, "-c", THIN, "play", "--address", address, "--model", "breakout", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    imported = set(done.stderr.split())
    assert {"grpc", "ale_py", "torso.serve.client.streams"} <= imported
    assert not imported & {"torch", "onnxruntime", "onnx", "cv2", "sklearn", "scipy", "matplotlib", "safetensors"}
    assert not {name for name in imported if name.startswith("torso.nets")}
    here = json.loads(run("play", "--model", breakout, *options).out)
    assert json.loads(done.stdout) == {**here, "model": "breakout"}


def test_what_is_filmed_is_the_same_game(run: Run, address: str, tmp_path: Path) -> None:
    kwargs = ("--env-kwargs", '{"max_episode_steps": 12}', "--json")
    play = ("play", "--model", "breakout", "--address", address, *kwargs)
    played = json.loads(run(*play).out)
    filmed = run(*play, "--video", tmp_path / "game.mp4")
    assert (filmed.code, filmed.err) == (0, "")
    assert json.loads(filmed.out) == {**played, "video": str(tmp_path / "game.mp4")}


def test_a_wrapped_game_is_played_as_it_is_observed(
    run: Run, screen: Path, address: str, sent: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    act = Client.act
    monkeypatch.setattr(Client, "act", lambda *args, **options: calls.append(1) or act(*args, **options))
    here = json.loads(run("play", "--model", screen, "--json").out)
    assert json.loads(run("play", "--model", "screen", "--address", address, "--json").out) == {
        **here,
        "model": "screen",
    }
    assert (len(calls), sent) == (20, [])


def test_a_model_of_other_inputs_is_refused_as_everywhere(run: Run, address: str) -> None:
    there = ("play", "--model", "screen", "--address", address, "--env", ENV)
    assert run(*there).error.startswith("observations.shape must be float32 [batch, 2], got ")
    assert "unknown model 'nobody'" in run("play", "--model", "nobody", "--address", address, "--env", ENV).error
