"""Every step of ``docs/extending.md``, really run: torsos and heads of a user's own."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from torso.nets import (
    InputSpec,
    MLPSpec,
    NetworkSpec,
    Prediction,
    Predictor,
    build_network,
    load_model,
    save_model,
)
from torso.serve import Client

pytestmark = pytest.mark.usefixtures("registries")

DOCUMENT = Path(__file__).parents[2] / "docs" / "extending.md"
CODE = re.findall(r"```python\n# (\S+\.py)\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
OUTPUTS = re.findall(r"```text\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
VECTOR = InputSpec(shape=(4,))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the document's files, unchanged but for a free port."""
    folder = tmp_path_factory.mktemp("extending")
    names = ["residual.py", "build.py", "train.py", "agent.py", "serving.py", "quantiles.py", "learn.py"]
    assert [name for name, _ in CODE] == names
    for name, code in CODE:
        (folder / name).write_text(code.replace("port=8500", "port=0, port_file=pathlib.Path('port')"))
    serving = folder / "serving.py"
    serving.write_text("import pathlib\n" + serving.read_text())
    (folder / "output").write_text(run(folder, "build.py"))
    return folder


def run(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def imported(folder: Path, name: str) -> Iterator[Any]:
    """Import a module of the document as a user's script would."""
    sys.path.insert(0, str(folder))
    try:
        yield __import__(name)
    finally:
        sys.path.remove(str(folder))
        del sys.modules[name]


def test_the_documented_torso_is_built_saved_and_asked(folder: Path) -> None:
    assert [(folder / "output").read_text()] == OUTPUTS
    card = json.loads((folder / "cartpole-residual" / "model.json").read_text())
    assert card["network"]["torso"] == {"kind": "residual", "width": 32, "depth": 2}


def test_an_agent_and_a_classifier_learn_with_the_documented_torso(folder: Path) -> None:
    assert run(folder, "agent.py") == "True\n"
    card = json.loads((folder / "cartpole-agent" / "model.json").read_text())
    assert card["network"]["torso"] == {"kind": "residual", "width": 64, "depth": 2}


@pytest.fixture(scope="module")
def runs(folder: Path) -> Path:
    """Run the documented commands, made quick, by the installed script, which does not see the folder by itself."""
    quick = ("--evaluation-episodes", "1", "--steps", "600", "--min-replay-size", "100")
    train = ("train", "dqn", "--import", "residual", "--env", "CartPole-v1", "--net", "residual", *quick)
    assert torso(folder, *train, "--out", "runs/cartpole").returncode == 0
    fit = ("fit", "--import=residual", "--dataset", "iris", "--net", "residual", "--max-epochs", "2")
    assert torso(folder, *fit, "--out", "runs/iris").returncode == 0
    return folder / "runs"


def torso(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    script = Path(sys.executable).with_name("torso")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [script, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_the_documented_commands_learn_with_the_documented_torso(folder: Path, runs: Path) -> None:
    for name in ("cartpole", "iris"):
        card = json.loads((runs / name / "best" / "model.json").read_text())
        assert card["network"]["torso"] == {"kind": "residual", "width": 64, "depth": 2}
    shown = torso(folder, "evaluate", "runs/cartpole", "--episodes", "1", "--json", "--import", "residual")
    assert json.loads(shown.stdout)["episodes"] == 1


@pytest.mark.parametrize("options", [(), ("--workers", "2")])
def test_the_documented_command_serves_the_documented_torso(
    folder: Path, runs: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    port = tmp_path / "port"
    words = ("serve", "--import", "residual", "runs/cartpole", "runs/iris", "--backend", "torch", *options)
    with serving(
        Path(sys.executable).with_name("torso"), *words, "--port-file", port, folder=folder, port=port
    ) as client:
        obs = np.random.default_rng(1).normal(size=(9, 4)).astype(np.float32)
        with imported(folder, "residual"):
            local, _ = Predictor.load(runs / "cartpole").act(obs)
        assert np.array_equal(client.act("cartpole", obs).actions, local)
        assert {model.name for model in client.list_models()} == {"cartpole", "iris"}


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("train dqn --env CartPole-v1 --net residual", "unknown net 'residual'; .*--import MODULE"),
        (
            "train dqn --import residual --env CartPole-v1 --net residual --hidden 7",
            r"hidden must be left out for net 'residual', whose specification has no such field, got \(7,\)",
        ),
        ("fit --import residual --dataset iris --net residual --hidden 7", "net 'residual' has no setting hidden"),
        ("train --import", "--import must be followed by a module, got none"),
        ("train --import no_such_module", "--import no_such_module: it must be a module that can be imported"),
        (
            "serve runs/cartpole --import residual --import-modules json",
            "--import must be given alone, got --import-modules too",
        ),
    ],
)
def test_wrong_uses_are_named(folder: Path, words: str, error: str) -> None:
    ended = torso(folder, *words.split())
    assert (ended.returncode, ended.stdout) == (2, "")
    assert re.search(error, ended.stderr), ended.stderr


def test_the_command_that_resumes_imports_too(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "a run"
    train = shlex.split("train dqn --import residual --env CartPole-v1 --net residual --log-period 200 --steps 1000000")
    script = Path(sys.executable).with_name("torso")
    training = subprocess.Popen(
        [script, *train, "--out", out],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until = time.monotonic() + 120
        log = out / "progress.jsonl"
        while not (log.exists() and log.stat().st_size) and training.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        training.send_signal(signal.SIGINT)
        _, stderr = training.communicate(timeout=120)
    finally:
        training.kill()
    assert training.returncode == 130, stderr
    ended = re.search(r"stopped at step ([\d,]+) of .*; to resume: torso (.*)$", stderr.splitlines()[-1])
    assert ended, stderr
    steps = int(ended[1].replace(",", "")) + 200
    resumed = torso(folder, *shlex.split(ended[2]), "--steps", str(steps), "--json")
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads(resumed.stdout)["total_steps"] >= steps


def test_import_may_come_first(folder: Path) -> None:
    assert torso(folder, "--import", "residual", "--help").stdout.startswith("usage: torso ")
    assert torso(folder, "--import", "residual", "--version").stdout.startswith("torso ")


def test_the_documented_torso_is_itself_in_onnx(folder: Path) -> None:
    with imported(folder, "residual") as module:
        predictor = Predictor.load(folder / "cartpole-residual")
        assert predictor.card.network.torso == module.ResidualSpec(width=32)
    obs = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    session = onnxruntime.InferenceSession(
        folder / "cartpole-residual" / "model.onnx", providers=["CPUExecutionProvider"]
    )
    for rows in (1, 64):
        np.testing.assert_allclose(
            session.run(None, {"obs": obs[:rows]})[0], predictor.run(obs[:rows]), rtol=1e-4, atol=1e-5
        )


def test_the_documented_torso_trains(folder: Path) -> None:
    run(folder, "train.py")
    obs = np.random.default_rng(0).normal(size=(1000, 4)).astype(np.float32)
    with imported(folder, "residual"):
        actions, _ = Predictor.load(folder / "cartpole-residual").act(obs)
    assert ((obs[:, 2] + obs[:, 3] > 0) == actions).mean() > 0.95


def test_the_documented_torso_is_served(folder: Path) -> None:
    obs = np.random.default_rng(1).normal(size=(9, 4)).astype(np.float32)
    with serving(Path(sys.executable), "serving.py", folder=folder, port=folder / "port") as client:
        served = client.act("cartpole-residual", obs)
    with imported(folder, "residual"):
        local, _ = Predictor.load(folder / "cartpole-residual").act(obs)
    assert np.array_equal(served.actions, local)


@contextmanager
def serving(*command: str | Path, folder: Path, port: Path) -> Iterator[Client]:
    """Start a server that writes its port to a file; afterwards it must drain and end well."""
    log = port.with_name("log")
    with log.open("wb") as file:
        server = subprocess.Popen(command, cwd=folder, stdout=file, stderr=file)
    try:
        until = time.monotonic() + 120
        while not port.exists() and server.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        assert port.exists(), log.read_text()
        with Client(f"127.0.0.1:{port.read_text().strip()}") as client:
            yield client
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0, log.read_text()
    finally:
        if server.poll() is None:
            server.kill()
            server.wait()


def test_a_model_of_an_unregistered_torso_says_so(folder: Path) -> None:
    code = "from torso.nets import load; load('cartpole-residual')"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "ModelDamagedError" in done.stderr
    assert "a torso's kind must be one of " in done.stderr
    assert "; got 'residual' (" in done.stderr
    assert "register others before loading" in done.stderr


def test_the_documented_algorithm_is_short_and_solves_the_identity_env(folder: Path) -> None:
    code = dict(CODE)["quantiles.py"]
    written = [line for line in code.splitlines() if line.strip() and not line.startswith(("import ", "from "))]
    assert len(written) < 40
    assert run(folder, "learn.py") == "True\n"
    card = json.loads((folder / "identity" / "model.json").read_text())
    assert card["network"]["head"] == {"kind": "quantiles", "num_actions": 4, "num_quantiles": 32}
    assert card["provenance"]["config"]["algorithm"] == "quantile-regression"


def test_the_documented_algorithm_is_a_word_of_the_command_line(folder: Path) -> None:
    quick = ("--evaluation-episodes", "1", "--steps", "600", "--min-replay-size", "100", "--batch-size", "8")
    train = ("train", "quantile-regression", "--import", "quantiles", "--env", "CartPole-v1", "--out", "runs/quantiles")
    done = torso(folder, *train, *quick)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("quantile-regression on CartPole-v1, 600 steps")
    card = json.loads((folder / "runs" / "quantiles" / "best" / "model.json").read_text())
    assert card["network"]["head"]["kind"] == "quantiles"
    assert torso(folder, *train, *quick, "--resume").returncode == 0
    shown = torso(folder, "train", "--import", "quantiles", "--help").stdout
    assert "quantile-regression" in " ".join(shown.split())
    refused = torso(folder, *train, "--huber-delta", "2", "--resume")
    assert "--huber-delta was 1.0, now 2.0" in refused.stderr
    refused = torso(folder, *train[:-1], "runs/other", "--huber-delta", "2")
    assert "--huber-delta must be left out for head 'quantiles'" in refused.stderr
    unknown = torso(folder, "train", "quantile-regression", "--env", "CartPole-v1")
    assert "unknown algorithm 'quantile-regression'; known are dqn," in unknown.stderr


def test_the_documented_head_goes_the_whole_way(folder: Path, tmp_path: Path) -> None:
    with imported(folder, "quantiles") as module:
        head = module.QuantilesSpec(num_actions=3, num_quantiles=2)
        spec = NetworkSpec(input=VECTOR, torso=MLPSpec(hidden=(8,)), head=head)
        network = build_network(spec, torch.Generator().manual_seed(0))
        save_model(tmp_path, network, kind="policy")
        card, loaded = load_model(tmp_path)
    assert card.network == spec
    assert spec.num_outputs == 3
    obs = torch.randn(64, 4, generator=torch.Generator().manual_seed(1))
    readout = loaded.readout(obs).detach().numpy()
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"obs": obs.numpy()})[0], readout, rtol=1e-4, atol=1e-5)
    assert torch.equal(loaded.mixed(obs)[0].output, loaded(obs)[0].output)  # nothing in it is large


def test_the_documented_loss_is_the_papers(folder: Path) -> None:
    """Dabney et al. 2018, eq. 10, by hand: quantiles 0 and 1 of fractions 1/4 and 3/4, targets 0.5 and 3."""
    with imported(folder, "quantiles") as module:
        head = module.QuantilesHead(module.QuantilesSpec(num_actions=2, num_quantiles=2), 1)
    prediction = Prediction(torch.tensor([[[9.0, 9.0], [0.0, 1.0]]]))
    policy_t = torch.tensor([[0.0, 1.0]])
    target = head.target(
        torch.tensor([0.5]), torch.tensor([0.5]), Prediction(torch.tensor([[[7.0, 7.0], [0.0, 5.0]]])), policy_t
    )
    assert target.tolist() == [[0.5, 3.0]]
    loss, priority = head.loss(prediction, torch.tensor([1]), target)
    first = (0.25 * 0.5 * 0.5**2 + 0.25 * (3 - 0.5)) / 2
    second = (abs(0.75 - 1) * 0.5 * 0.5**2 + 0.75 * (2 - 0.5)) / 2
    assert loss.tolist() == priority.tolist() == [first + second]
    assert head.values(prediction).tolist() == [[9.0, 0.5]]
