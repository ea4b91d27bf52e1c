"""Fixtures that run the command line, in this process or in a subprocess, and small models for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from torso.cli import main
from torso.envs import load_dataset
from torso.nets import (
    ImageSpec,
    InputSpec,
    LogitsHeadSpec,
    MLPSpec,
    NetworkSpec,
    ScalarHeadSpec,
    build_network,
    save_model,
)


@dataclass(frozen=True)
class Ended:
    """Result of a command: exit code, stdout and stderr."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """Return the one-line message of a user error; fail on any other output or exit code."""
        assert (self.code, self.out) == (2, ""), self
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("error: "), self.err
        return lines[0].removeprefix("error: ")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Run a command line in this process."""

    def call(*arguments: object) -> Ended:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Ended(code, captured.out, captured.err)

    return call


@contextmanager
def _starting() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start ``torso`` in subprocesses, which are killed at the end if they still run."""
    started: list[subprocess.Popen[str]] = []

    def call(*arguments: object, **options: Any) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "torso.cli", *map(str, arguments)],
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
            stdin=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        started.append(process)
        return process

    try:
        yield call
    finally:
        for process in started:
            with process:  # closes its pipes, and waits
                process.kill()


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start ``torso`` in a subprocess, until the end of the test."""
    with _starting() as call:
        yield call


@pytest.fixture(scope="module")
def start_for_module() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start ``torso`` in a subprocess, until the end of the module."""
    with _starting() as call:
        yield call


@dataclass(frozen=True)
class Models:
    """Directories of small untrained models."""

    digits: Path
    cartpole: Path


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("models")
    generator = torch.Generator().manual_seed(0)
    described = load_dataset("digits").train.image
    assert described is not None
    pixels = InputSpec(shape=(8, 8), dtype="uint8", layout="hw", scale=1 / 16, image=ImageSpec(**vars(described)))
    digits = NetworkSpec(input=pixels, torso=MLPSpec(hidden=(32,)), head=LogitsHeadSpec(num_classes=10))
    cartpole = NetworkSpec(input=InputSpec(shape=(4,)), torso=MLPSpec(hidden=(32,)), head=ScalarHeadSpec(num_actions=2))
    return Models(
        digits=save_model(
            root / "digits",
            build_network(digits, generator),
            kind="classifier",
            labels=tuple(range(10)),
            provenance={"dataset": "digits", "seed": 0},
        ),
        cartpole=save_model(
            root / "cartpole",
            build_network(cartpole, generator),
            kind="policy",
            provenance={"env_id": "CartPole-v1", "env_kwargs": {}, "seed": 3},
        ),
    )


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """Directory in which nothing can be created; for root, who ignores modes, one of /proc."""
    if os.geteuid() == 0:
        if not Path("/proc/self").exists():
            pytest.skip("root may write everywhere here")
        yield Path("/proc/self")
        return
    tmp_path.chmod(0o500)
    yield tmp_path
    tmp_path.chmod(0o700)
