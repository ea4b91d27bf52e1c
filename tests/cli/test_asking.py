"""classify, act, play and serve: a local model and the same model served give equal predictions."""

from __future__ import annotations

import io
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from torso.envs import load_dataset
from torso.nets import Predictor

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def address(
    models: Any, tmp_path_factory: pytest.TempPathFactory, start_for_module: Callable[..., Any]
) -> Iterator[str]:
    """Start ``torso serve`` as a process; SIGTERM ends it gracefully."""
    port_file = tmp_path_factory.mktemp("server") / "port"
    server = start_for_module("serve", models.digits, models.cartpole, "--port", 0, "--port-file", port_file)
    _wait_ready(server, port_file)
    yield f"127.0.0.1:{port_file.read_text().strip()}"
    server.send_signal(signal.SIGTERM)
    log = server.communicate()[1]
    assert server.returncode == 0, log
    assert "INFO serving cartpole, digits on 127.0.0.1:" in log
    assert "INFO draining" in log
    assert not port_file.exists()


def _wait_ready(server: subprocess.Popen[str], port_file: Path) -> None:
    end_s = time.monotonic() + 120
    while not port_file.exists():
        assert server.poll() is None, server.communicate()
        assert time.monotonic() < end_s, "the server is not ready"
        time.sleep(0.02)


@pytest.fixture
def scans(tmp_path: Path) -> list[Path]:
    paths = []
    for row, scan in enumerate(load_dataset("digits").test.inputs[:3]):
        paths.append(tmp_path / f"scan{row}.png")
        Image.fromarray((scan * (255 / 16)).astype(np.uint8)).save(paths[-1])
    return paths


def test_classify_images(run: Run, models: Any, address: str, scans: list[Path]) -> None:
    expected = Predictor.load(models.digits)
    prepared = expected.prepare_images([path.read_bytes() for path in scans])
    indices, probabilities = expected.top_k(expected.probabilities(expected.run(prepared)), 2)

    here = run("classify", *scans, "--model", models.digits, "--top-k", 2, "--json")
    assert (here.code, here.err) == (0, "")
    answer = json.loads(here.out)
    assert [row["input"] for row in answer["rows"]] == [str(path) for path in scans]
    assert [[top["label"] for top in row["top"]] for row in answer["rows"]] == indices.astype(str).tolist()
    assert [[top["probability"] for top in row["top"]] for row in answer["rows"]] == probabilities.tolist()

    served = run("classify", *scans, "--model", "digits", "--address", address, "--top-k", 2, "--json")
    assert (served.code, served.err) == (0, "")
    for row, its in zip(json.loads(served.out)["rows"], answer["rows"], strict=True):
        assert [top["label"] for top in row["top"]] == [top["label"] for top in its["top"]]
        guesses = [[top["probability"] for top in each["top"]] for each in (row, its)]
        np.testing.assert_allclose(*guesses, rtol=1e-4, atol=1e-5)

    lines = run("classify", *scans, "--model", models.digits).out.splitlines()
    assert lines == [
        f"{path}  {index} {probability:.1%}"
        for path, index, probability in zip(scans, indices[:, 0], probabilities[:, 0], strict=True)
    ]


def test_classify_an_array(run: Run, models: Any, address: str, tmp_path: Path) -> None:
    path = tmp_path / "scans.npy"
    np.save(path, load_dataset("digits").test.inputs[:4])
    here = run("classify", path, "--model", models.digits)
    assert (here.code, here.err) == (0, "")
    assert [line.split()[0] for line in here.out.splitlines()] == [f"{path}[{row}]" for row in range(4)]
    assert run("classify", path, "--model", "digits", "--address", address).out == here.out


def test_act(run: Run, models: Any, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [[0.1, 0, 0.02, 0], [-1, -2.5, 0.1, 3]]
    expected = Predictor.load(models.cartpole)
    values = expected.run(expected.prepare(rows))
    answer = json.loads(run("act", json.dumps(rows), "--model", models.cartpole, "--json").out)
    assert (answer["actions"], answer["values"]) == (values.argmax(axis=1).tolist(), values.tolist())

    here = run("act", json.dumps(rows), "--model", models.cartpole)
    assert [line.split()[1] for line in here.out.splitlines()] == [str(action) for action in answer["actions"]]
    assert run("act", json.dumps(rows), "--model", "cartpole", "--address", address).out == here.out
    assert run("act", json.dumps(rows[0]), "--model", models.cartpole).out == here.out.splitlines()[0] + "\n"
    np.save(tmp_path / "rows.npy", np.array(rows))
    assert run("act", tmp_path / "rows.npy", "--model", models.cartpole).out == here.out
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    assert run("act", tmp_path / "rows.json", "--model", models.cartpole).out == here.out
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(rows)))
    assert run("act", "-", "--model", models.cartpole).out == here.out


def test_play(run: Run, models: Any, address: str) -> None:
    here = run("play", "--model", models.cartpole, "--episodes", 3, "--json")
    assert (here.code, here.err) == (0, "")
    played = json.loads(here.out)
    assert (played["env_id"], len(played["returns"]), played["lengths_steps"]) == ("CartPole-v1", 3, played["returns"])
    served = run("play", "--model", "cartpole", "--address", address, "--episodes", 3, "--json")
    assert json.loads(served.out) == {**played, "model": "cartpole"}
    evaluated = json.loads(run("evaluate", models.cartpole, "--episodes", 3, "--seed", 0, "--json").out)
    assert evaluated["returns"] == played["returns"]
    assert json.loads(run("evaluate", models.cartpole, "--episodes", 3, "--json").out)["seed"] == 3  # its training's


def test_play_films_its_episodes(run: Run, models: Any, address: str, tmp_path: Path) -> None:
    play = ("play", "--episodes", 2, "--json")
    played = json.loads(run(*play, "--model", models.cartpole).out)
    for index, model in enumerate([(models.cartpole,), ("cartpole", "--address", address)]):
        video = tmp_path / "new" / f"{index}.mp4"
        filmed = run(*play, "--video", video, "--model", *model)
        assert (filmed.code, filmed.err) == (0, "")
        assert json.loads(filmed.out) == {**played, "model": str(model[0]), "video": str(video)}
        reader = cv2.VideoCapture(str(video))
        frames = 0
        while reader.read()[0]:
            frames += 1
        assert frames == sum(played["lengths_steps"]) + 2  # and how each episode ended
    assert sorted(path.name for path in video.parent.iterdir()) == ["0.mp4", "1.mp4"]
    assert run("play", "--model", models.cartpole, "--video", video).out.endswith(f"\nvideo: {video}\n")


def test_what_cannot_be_filmed(run: Run, models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    play, video = ("play", "--model", models.cartpole, "--video"), tmp_path / "new" / "a.mp4"
    assert run(*play, tmp_path / "a.avi").error == (
        f"--video must be a file name that ends in .mp4, got {tmp_path / 'a.avi'}"
    )
    assert run(*play, video, "--render").error == (
        "--video and --render must not go together: an env renders to a file or to a window; give one of them"
    )
    assert run(*play, video, "--env", "torso/Identity-v0").error.startswith(
        "torso/Identity-v0 cannot be rendered as 'rgb_array'"
    )
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    assert run(*play, video).error == "recording videos needs the extra 'video': pip install 'torso[video]'"
    assert not list(tmp_path.iterdir())


MASKED = """
import gymnasium as gym, numpy as np
class Doors(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (4,)); action_space = gym.spaces.Discrete(2)
    def __init__(self, render_mode=None): self.render_mode = render_mode
    def show(self):
        self.open = self.np_random.integers(2)
        return self.np_random.random(4, dtype=np.float32), {"action_mask": np.eye(2, dtype=np.int8)[self.open]}
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = 20
        return self.show()
    def step(self, action):
        if action != self.open:
            raise ValueError("that door is closed")
        self.left -= 1
        obs, info = self.show()
        return obs, 1.0, self.left == 0, False, info
gym.register("Doors-v0", Doors)
"""


def test_play_and_evaluate_take_legal_actions_alone(
    run: Run, models: Any, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "masked_for_cli.py").write_text(MASKED)
    monkeypatch.syspath_prepend(tmp_path)
    env = ("--env", "masked_for_cli:Doors-v0", "--episodes", 2, "--json")
    for command in (
        ("play", "--model", models.cartpole),
        ("play", "--model", "cartpole", "--address", address),
        ("evaluate", models.cartpole),
    ):
        ended = run(*command, *env)
        assert ended.code == 0, ended.err
        assert json.loads(ended.out)["returns"] == [20.0, 20.0]


def test_mistakes_here(run: Run, models: Any, scans: list[Path], tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"hello")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    classify, act, play = (
        ("classify", "--model", models.digits),
        ("act", "--model", models.cartpole),
        ("play", "--model"),
    )
    for arguments, message in (
        (("classify", "--model", models.digits), "missing from torso classify: INPUTS"),
        (
            (*classify, scans[0], tmp_path / "no.png"),
            f"{tmp_path / 'no.png'} cannot be read: No such file or directory",
        ),
        ((*classify, scans[0], tmp_path / "bad.png"), f"{tmp_path / 'bad.png'} must be a PNG or JPEG, got 5 bytes"),
        ((*classify, tmp_path / "objects.npy"), f"{tmp_path / 'objects.npy'} cannot be read as a .npy file: Object"),
        (
            (*classify, tmp_path / "objects.npy", scans[0]),
            f"inputs must be image files, or one .npy file alone, got {tmp_path / 'objects.npy'} among 2 files",
        ),
        ((*classify, scans[0], "--top-k", 0), "--top-k must be "),
        ((*classify, scans[0], "--tls"), "--tls must go with --address, got none: a local model has no connection"),
        (
            ("classify", scans[0], "--model", models.cartpole),
            "--model must be a classifier, got a policy; use it with torso act",
        ),
        (
            ("classify", scans[0], "--model", tmp_path / "no"),
            f"no model at {tmp_path / 'no'}: there is no such directory",
        ),
        ((*act, "[1, 2]"), "observations.shape must be float32 [batch, 4], got [2]"),
        ((*act, "[[1, 2, 3, 4], [5]]"), "observations must be JSON numbers of one shape, got '[[1, 2, 3, 4], [5]]' ("),
        ((*act, "left"), "observations must be JSON numbers of one shape, got 'left' (Expecting value"),
        (
            (*act, '["a"]'),
            "observations must be numbers alone, got '[\"a\"]' with other values; give one observation such as ",
        ),
        ((*act, "[NaN, 0, 0, 0]"), "observations must be finite numbers, got NaN or infinity"),
        ((*act, "no.json"), "no.json cannot be read: No such file or directory"),
        (
            ("act", "[1]", "--model", models.digits),
            "--model must be a policy, got a classifier; use it with torso classify",
        ),
        ((*play, models.digits), "--model must be a policy, got a classifier; use it with torso classify"),
        ((*play, models.cartpole, "--episodes", 0), "--episodes must be at least 1, got 0"),
        (
            (*play, models.cartpole, "--env", "Acrobot-v1"),
            "observations.shape must be float32 [batch, 4], got [1, 6]",
        ),
        (
            (*play, models.cartpole, "--env", "CartPol-v1"),
            "unknown environment 'CartPol-v1'; did you mean 'CartPole-v1'",
        ),
        (
            ("evaluate", models.digits, "--episodes", 3),
            f"--episodes must be omitted: {models.digits} is a classifier, to which it does not apply",
        ),
        (
            ("evaluate", models.cartpole, "--dataset", "digits"),
            f"--dataset must be omitted: {models.cartpole} is a policy, to which it does not apply",
        ),
        (("evaluate", models.cartpole, "--episodes", 0), "--episodes must be at least 1, got 0"),
        (("evaluate", tmp_path), f"no model in {tmp_path}: model.json must be in it"),
        (("export", tmp_path / "no"), f"no model at {tmp_path / 'no'}: there is no such directory"),
    ):
        error = run(*arguments).error
        assert error.startswith(message), error


def test_mistakes_behind_a_server(run: Run, address: str, scans: list[Path], tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"hello")
    there = ("--address", address)
    for arguments, message in (
        (("classify", *scans, "--model", "digit", *there), "unknown model 'digit': served are cartpole, digits"),
        (("classify", *scans, "--model", "cartpole", *there), "model 'cartpole' is a policy, not a classifier"),
        (
            ("classify", scans[0], tmp_path / "bad.png", "--model", "digits", *there),
            f"{tmp_path / 'bad.png'} must be a PNG or JPEG",
        ),
        (("act", "[1, 2]", "--model", "cartpole", *there), "observations.shape must be "),
        (
            ("play", "--model", "digits", *there),
            "--model must be a policy, got a classifier; use it with torso classify",
        ),
        (("act", "[1]", "--model", "cartpole", "--address", "127.0.0.1:1"), "no answer from 127.0.0.1:1: "),
        (
            ("act", "[1]", "--model", "cartpole", *there, "--token-file", tmp_path),
            f"--token-file {tmp_path} cannot be read",
        ),
        (
            ("act", "[1]", "--model", "cartpole", *there, "--timeout-s", 0),
            "--timeout-s must be more than 0 seconds, got 0",
        ),
    ):
        error = run(*arguments).error
        assert error.startswith(message), error


def test_a_window_that_cannot_be_opened_is_an_error(
    run: Run, models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "windows_for_cli.py").write_text(WINDOWLESS)
    monkeypatch.syspath_prepend(tmp_path)
    play = ("play", "--model", models.cartpole, "--render", "--env")
    assert run(*play, "windows_for_cli:Blind-v0").error == (
        "windows_for_cli:Blind-v0 cannot be shown in a window (it renders rgb_array); give --video FILE.mp4 instead"
    )
    assert run(*play, "torso/Identity-v0").error == (
        "torso/Identity-v0 cannot be shown in a window (it renders nothing); omit --render"
    )
    assert run(*play, "windows_for_cli:Paneless-v0").error == (
        "windows_for_cli:Paneless-v0 cannot be shown in a window: no window library, run pip install one"
    )
    shown = run(*play, "windows_for_cli:Shown-v0")
    assert (shown.code, shown.err) == (0, "")
    lines = ["in a window", "episode 1: return 1.0, 1 steps", "mean return 1.0"]
    assert shown.out.splitlines()[-3:] == lines  # after the env that tells whether the model fits it


WINDOWLESS = """
import gymnasium as gym, numpy as np
class Base(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (4,)); action_space = gym.spaces.Discrete(2)
    def __init__(self, render_mode=None): self.render_mode = render_mode
    def reset(self, *, seed=None, options=None): return np.zeros(4, np.float32), {}
    def step(self, action): return np.zeros(4, np.float32), 1.0, True, False, {}
class Blind(Base):
    metadata = {"render_modes": ["rgb_array"]}
class Paneless(Base):
    metadata = {"render_modes": ["human"]}
    def reset(self, *, seed=None, options=None):
        if self.render_mode is None:
            return super().reset(seed=seed)
        raise gym.error.DependencyNotInstalled("no window library, run pip install one")
class Shown(Base):
    metadata = {"render_modes": ["human"]}
    def step(self, action):
        print("in a window" if self.render_mode == "human" else "no window")
        return super().step(action)
for env in (Blind, Paneless, Shown): gym.register(f"{env.__name__}-v0", env)
"""


def test_a_port_that_is_taken_is_an_error(run: Run, models: Any, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        error = run("serve", models.digits, "--port", port, "--port-file", tmp_path / "port").error
    assert error == (
        f"cannot listen on 127.0.0.1 port {port}: Address already in use; choose another with --port, "
        "or --port 0 for a free one"
    )
    assert not (tmp_path / "port").exists()


def test_a_call_waits_for_a_server_that_is_not_ready(models: Any, start: Run, scans: list[Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    asked = start("classify", scans[0], "--address", f"127.0.0.1:{port}", "--model", "digits", "--wait-s", 120)
    server = start("serve", models.digits, "--port", port)
    out, error = asked.communicate(timeout=120)
    assert (asked.returncode, error) == (0, "")
    assert scans[0].name in out
    server.send_signal(signal.SIGTERM)
    server.communicate(timeout=60)


def test_a_broken_model_is_named(run: Run, models: Any, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in ("model.json", "weights.safetensors"):
        (broken / name).write_bytes((models.cartpole / name).read_bytes())
    (broken / "weights.safetensors").write_bytes((models.cartpole / "weights.safetensors").read_bytes()[:-1])
    message = f"{broken / 'weights.safetensors'} is truncated or altered: "
    for command in (["evaluate", broken], ["export", broken], ["play", "--model", broken]):
        assert run(*command).error.startswith(message)
    assert run("serve", broken, "--port", 0).error.startswith(f"model 'broken' ({broken}): {message}")
    assert run("serve", tmp_path / "no", "--port", 0).error.startswith(f"model 'no' ({tmp_path / 'no'}): no model at ")


def test_serve_refuses_what_cannot_be_meant(run: Run, models: Any, tmp_path: Path) -> None:
    for arguments, message in (
        (
            [models.digits, "--host", "0.0.0.0"],
            "host 0.0.0.0 can be reached from other machines and must have --tls-cert",
        ),
        ([models.digits, "--port", 65536], "port must lie in [0, 65535], got 65536"),
        ([models.digits, "--tls-cert", tmp_path / "cert.pem"], "--tls-cert and --tls-key must go together, got one"),
        ([models.digits, models.digits], "two models are named 'digits': "),
    ):
        error = run("serve", *arguments, *([] if "--port" in arguments else ["--port", 0])).error
        assert error.startswith(message), error


def test_a_reader_that_leaves_in_the_middle_ends_it_quietly(start: Run, models: Any) -> None:
    playing: subprocess.Popen[str] = start("play", "--model", models.cartpole, "--episodes", 100_000)
    assert playing.stdout is not None
    assert playing.stderr is not None
    assert playing.stdout.readline().startswith("episode 1: return ")
    playing.stdout.close()
    assert playing.wait() == 141
    assert playing.stderr.read() == ""


def test_skip_broken_serves_the_rest(models: Any, start: Callable[..., Any], run: Run, tmp_path: Path) -> None:
    port_file, gone, observation = tmp_path / "port", tmp_path / "gone", "[0, 0, 0, 0]"
    server = start("serve", gone, models.cartpole, "--skip-broken", "--port", 0, "--port-file", port_file)
    _wait_ready(server, port_file)
    there = ("--address", f"127.0.0.1:{port_file.read_text().strip()}")
    assert run("act", observation, "--model", "cartpole", *there).code == 0
    assert "unknown model 'gone'" in run("act", observation, "--model", "gone", *there).error
    server.send_signal(signal.SIGTERM)
    assert "gone" in server.communicate()[1]
    assert server.returncode == 0
