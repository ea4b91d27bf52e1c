"""Fixtures for several tests of this folder. Models with a model.onnx take seconds: they are made once a session."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import torch

from torso.nets import (
    ConvLayerSpec,
    ConvNetSpec,
    ImageSpec,
    InputSpec,
    LogitsHeadSpec,
    MLPSpec,
    Network,
    NetworkSpec,
    ScalarHeadSpec,
    build_network,
    save_model,
)

torch.set_num_threads(1)

MakeNetwork = Callable[..., Network]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="session")
def scan_input() -> InputSpec:
    """An 8x8 scan of a digit, light on dark, 0 to 16."""
    image = ImageSpec(channels=1, height=8, width=8, max_value=16.0, centring="box")
    return InputSpec(shape=(8, 8), dtype="uint8", layout="hw", scale=1 / 16, image=image)


@pytest.fixture(scope="session")
def make_policy() -> MakeNetwork:
    """``make_policy(seed, hidden)``: 4 floats to 2 action values."""

    def make(seed: int = 0, hidden: tuple[int, ...] = (5,)) -> Network:
        spec = NetworkSpec(
            input=InputSpec(shape=(4,)), torso=MLPSpec(hidden=hidden), head=ScalarHeadSpec(num_actions=2)
        )
        return build_network(spec, seeded(seed))

    return make


@pytest.fixture(scope="session")
def make_classifier(scan_input: InputSpec) -> MakeNetwork:
    """``make_classifier(seed)``: 8x8 scans to 3 logits, by a small convolutional network."""

    def make(seed: int = 0) -> Network:
        spec = NetworkSpec(
            input=scan_input,
            torso=ConvNetSpec(convs=(ConvLayerSpec(channels=3, kernel=3, pool="max"),), hidden=(6,)),
            head=LogitsHeadSpec(num_classes=3),
        )
        return build_network(spec, seeded(seed))

    return make


@pytest.fixture(scope="session")
def classifier_directory(tmp_path_factory: pytest.TempPathFactory, make_classifier: MakeNetwork) -> Path:
    """A whole model directory, model.onnx and all; copy it before changing it."""
    return save_model(
        tmp_path_factory.mktemp("models") / "classifier",
        make_classifier(),
        kind="classifier",
        labels=("zero", "one", "two"),
        provenance={"made_by": "a test", "seed": 0},
    )


@pytest.fixture
def memory_limit() -> Callable[[int], AbstractContextManager[None]]:
    """Limit how much more memory this process may allocate, by the operating system."""

    @contextmanager
    def limited(more: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + more, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))

    return limited
