"""``torso quickstart``: the whole workflow in a minute. Fit, train, serve, send requests, compare."""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from shlex import quote

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table
from rich.text import Text

from torso.agents.acting.evaluation import evaluate, evaluation_seeds
from torso.agents.presets.lookup import preset
from torso.agents.runs.events import Evaluation
from torso.agents.runs.progress import TrainingProgress
from torso.agents.supervised.config import ClassifierConfig
from torso.agents.supervised.fit_progress import FitProgress
from torso.agents.supervised.fit_runs import fit_run
from torso.agents.training.train_runs import train_run
from torso.envs import Dataset, load_dataset
from torso.envs.vector.world import World
from torso.errors import RunError, ServerError
from torso.files import atomic_write_bytes
from torso.interrupts import stoppable
from torso.nets import Predictor
from torso.serve import Client

ENV = "CartPole-v1"
EPISODES = 20
_ROWS = 64  # scans a request
_SERVER_START_S = 60.0
_SHADES = " ░▒▓█"


@dataclass(frozen=True, kw_only=True)
class QuickstartOptions:
    """The whole workflow in a minute: fit a CNN on digits, train DQN on CartPole-v1, serve both, send requests.

    Nothing is downloaded. The server stops when the command ends; the run directories stay.
    """

    out: Path | None = None
    """Directory of the two runs; None: runs/quickstart, or the first unused of runs/quickstart-2, -3, ..."""
    seed: int = 0
    """Seed of everything random."""
    plain: bool = False
    """Print without colours."""


@dataclass(frozen=True)
class SummaryRow:
    """Row of the summary table."""

    stage: str
    figure: str
    seconds: float


def run(options: QuickstartOptions) -> int:
    """Run all stages, print their results, and return the exit code."""
    console = Console(no_color=options.plain, highlight=False)
    began_s = time.monotonic()
    out = options.out or _unused_out()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"--out must be a new or an empty directory, got {out}; give another --out, or omit it")
    digits, cartpole = out / "digits", out / "cartpole"
    rows: list[SummaryRow] = []
    _fit(console, digits, options.seed, rows)
    _train(console, cartpole, options.seed, rows)
    console.rule("serve both, in a process of its own", align="left")
    started_s = time.monotonic()
    with _server(digits, cartpole) as address:
        seconds = time.monotonic() - started_s
        rows.append(SummaryRow("server ready, both models loaded and warm", address, seconds))
        console.print(f"listening on {address}")
        with Client(address) as client:
            _classify(console, client, digits, rows)
            _play(console, client, cartpole, options.seed, rows)
    console.rule("summary", align="left")
    console.print(_summary_table(rows, time.monotonic() - began_s))
    scan = out / "scan.png"
    _write_scan(scan)
    _print_paths(console, digits, cartpole, scan)
    return 0


def _fit(console: Console, out: Path, seed: int, rows: list[SummaryRow]) -> None:
    console.rule("fit a CNN to handwritten digits", align="left")
    config = ClassifierConfig(net="cnn")
    began_s = time.monotonic()
    with FitProgress(config.recipe().max_epochs) as progress:
        fitted = fit_run(load_dataset("digits"), config, seed=seed, out=out, on_event=progress.on_event)
    summary = fitted.summary or {}
    figure = f"{summary['test_accuracy']:.2%} of {summary['num_test']} test scans correct"
    rows.append(SummaryRow(f"fit: CNN on digits, {summary['epochs']} epochs", figure, time.monotonic() - began_s))
    console.print(f"{figure}; best epoch {summary['best_epoch']} of {summary['epochs']}, by validation")


def _train(console: Console, out: Path, seed: int, rows: list[SummaryRow]) -> None:
    console.rule(f"train an agent on {ENV}", align="left")
    known = preset(None, ENV)
    config = replace(known.config, stop_return=500.0)  # the most that an episode can give
    began_s = time.monotonic()
    with TrainingProgress(known.total_steps) as progress:
        trained = train_run(
            World(env=ENV), config, total_steps=known.total_steps, seed=seed, out=out, on_event=progress.on_event
        )
    score = (trained.summary or {})["score"]
    figure = f"return {score['mean_return']:.1f} ± {score['std_return']:.1f} over {score['episodes']} fresh episodes"
    rows.append(SummaryRow(f"train: DQN on {ENV}, {trained.total_steps:,} steps", figure, time.monotonic() - began_s))
    console.print(figure)


def _classify(console: Console, client: Client, model: Path, rows: list[SummaryRow]) -> None:
    console.rule("classify the test scans over gRPC", align="left")
    test = load_dataset("digits").test
    began_s = time.monotonic()
    answers = [client.classify("digits", test.inputs[i : i + _ROWS], top_k=10) for i in range(0, len(test), _ROWS)]
    seconds = time.monotonic() - began_s
    indices = np.concatenate([answer.indices for answer in answers])  # [N, 10]
    probabilities = np.concatenate([answer.probabilities for answer in answers])  # [N, 10]
    accuracy = float((indices[:, 0] == test.labels).mean())
    rows.append(
        SummaryRow(f"classify: {len(test)} scans in {len(answers)} requests", f"{accuracy:.2%} correct", seconds)
    )
    console.print(_render_predictions(test, indices, probabilities))

    began_s = time.monotonic()
    local = Predictor.load(model).classify(test.inputs, top_k=10)
    same = float((local.indices[:, 0] == indices[:, 0]).mean())
    difference = float(np.abs(_by_class(local.indices, local.probabilities) - _by_class(indices, probabilities)).max())
    rows.append(
        SummaryRow(
            "compare: served and local predictions",
            f"{same:.0%} the same, probabilities differ by at most {difference:.0e}",
            time.monotonic() - began_s,
        )
    )


def _play(console: Console, client: Client, model: Path, seed: int, rows: list[SummaryRow]) -> None:
    console.rule(f"play {EPISODES} episodes of {ENV} over gRPC", align="left")
    world, seeds = World(env=ENV), evaluation_seeds(seed, EPISODES, "score")
    began_s = time.monotonic()
    served = evaluate(lambda observations, state: (client.act("cartpole", observations).actions, state), world, seeds)
    seconds = time.monotonic() - began_s
    rows.append(
        SummaryRow(f"play: {EPISODES} episodes, {max(served.lengths_steps)} requests", _format_return(served), seconds)
    )
    console.print(f"returns: {' '.join(f'{value:.0f}' for value in served.returns)}")
    began_s = time.monotonic()
    local = evaluate(Predictor.load(model).act, world, seeds)
    same = sum(a == b for a, b in zip(served.returns, local.returns, strict=True))
    rows.append(
        SummaryRow(
            "compare: the same episodes played locally",
            f"{same} of {EPISODES} returns equal",
            time.monotonic() - began_s,
        )
    )


def _format_return(evaluation: Evaluation) -> str:
    return f"mean return {evaluation.mean:.1f} ± {evaluation.std:.1f}"


def _by_class(indices: NDArray[np.int64], probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """Reorder ranked probabilities by class index; [N, K] each."""
    ordered = np.empty_like(probabilities)
    np.put_along_axis(ordered, indices, probabilities, axis=1)
    return ordered


def _render_predictions(test: Dataset, indices: NDArray[np.int64], probabilities: NDArray[np.float32]) -> Text:
    """Render four scans with the top two predictions: the two most confident and the two least confident."""
    by_confidence = np.argsort(probabilities[:, 0], kind="stable")
    shown = [int(by_confidence[-1]), int(by_confidence[-2]), int(by_confidence[1]), int(by_confidence[0])]
    width = 2 * test.inputs.shape[2] + 4
    darkness = np.rint(test.inputs / test.inputs.max() * (len(_SHADES) - 1)).astype(int)
    text = Text()
    for line in range(test.inputs.shape[1]):
        text.append("".join("".join(_SHADES[d] * 2 for d in darkness[i, line]).ljust(width) for i in shown) + "\n")
    text.append("".join(f"is a {test.label_names[test.labels[i]]}".ljust(width) for i in shown) + "\n")
    for rank, name in enumerate(("first ", "second")):
        cells = [f"{name} {test.label_names[indices[i, rank]]}  {probabilities[i, rank]:.1%}" for i in shown]
        text.append("".join(cell.ljust(width) for cell in cells) + ("\n" if rank == 0 else ""))
    return text


def _summary_table(rows: list[SummaryRow], seconds: float) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("stage")
    table.add_column("figure")
    table.add_column("seconds", justify="right")
    for row in rows:
        table.add_row(row.stage, row.figure, f"{row.seconds:.1f}")
    table.add_section()
    table.add_row("total", "", f"{seconds:.1f}")
    return table


def _write_scan(path: Path) -> None:
    """Write the first test scan as a PNG file, enlarged 16 times."""
    test = load_dataset("digits").test
    levels = np.rint(test.inputs[0] * (255 / test.inputs.max())).astype(np.uint8)
    picture = io.BytesIO()
    Image.fromarray(np.kron(levels, np.ones((16, 16), dtype=np.uint8))).save(picture, format="PNG")
    atomic_write_bytes(path, picture.getvalue())


def _print_paths(console: Console, digits: Path, cartpole: Path, scan: Path) -> None:
    lines = [
        "",
        f"learning curves  {cartpole / 'learning_curve.png'}  {digits / 'learning_curve.png'}",
        f"models           {digits / 'best'}  {cartpole / 'best'}",
        "",
        "next steps",
        f"  torso classify {quote(str(scan))} --model {quote(str(digits))} --top-k 2",
        f"  torso serve {quote(str(digits))} {quote(str(cartpole))}",
        f"  torso play --env {ENV} --address 127.0.0.1:8500 --model cartpole --episodes 5",
        f"  torso train dqn --env {ENV} --seed 1 --out runs/cartpole",
        "  torso fit --dataset mnist --net cnn --out runs/mnist",
    ]
    console.print("\n".join(lines), soft_wrap=True)


def _unused_out() -> Path:
    first = Path("runs/quickstart")
    if not first.exists():
        return first
    return next(path for n in count(2) if not (path := Path(f"{first}-{n}")).exists())


@contextmanager
def _server(*models: Path) -> Iterator[str]:
    """Run a server process for a block, and yield its address; the process is terminated however the block ends.

    Raises:
        ServerError: it did not start; the message holds its log.
    """
    with tempfile.TemporaryDirectory(prefix="torso-quickstart-") as folder:
        port_file, log_path = Path(folder) / "port", Path(folder) / "log"
        command = [sys.executable, "-m", "torso.cli", "serve", *map(str, models), "--port", "0"]
        process: subprocess.Popen[bytes] | None = None
        try:
            with log_path.open("wb") as log, stoppable() as request:  # a signal must not come between start and `try`
                # A session of its own: Ctrl-C in the terminal reaches this process alone, which then ends the server.
                process = subprocess.Popen(
                    [*command, "--port-file", str(port_file)], stdout=log, stderr=log, start_new_session=True
                )
            request.raise_if_requested()
            deadline_s = time.monotonic() + _SERVER_START_S
            while not port_file.exists():
                if process.poll() is not None or time.monotonic() > deadline_s:
                    raise ServerError(f"the server did not start: {log_path.read_text(errors='replace').strip()}")
                time.sleep(0.02)
            yield f"127.0.0.1:{port_file.read_text().strip()}"
        finally:
            if process is not None:
                _terminate(process)


def _terminate(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
