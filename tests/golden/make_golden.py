"""Make the golden model directories of a format version: ``python tests/golden/make_golden.py v2``.

Run once, when a format version is released; what it wrote is committed and never made again, because a golden
directory tests that what one version of torso wrote loads in every later one (``test_golden.py``). For
that reason it makes what is missing, and never writes over one. For a new format version: raise ``FORMAT_VERSION``, run
it with the new name, and commit what it wrote.

It writes ``model_NAME/`` (a classifier: convolutions, an 8x8 image input, labels, a calibration),
``model_NAME_policy/`` (an MLP with normalised inputs, a dueling head and an action_start) and
``model_NAME_regressor/`` (an MLP, targets in their own units), ``model_NAME_space/`` (a policy whose observations
are flattened), and policies of distributional heads (``_categorical``, ``_quantile``, ``_implicit``), each with its
``model.onnx``, and in each ``golden.npz``: ``inputs``, and the ``readout`` that this version computed for them; for a
classifier the ``probabilities`` too.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from torso.nets import (
    FORMAT_VERSION,
    CategoricalHeadSpec,
    ConvLayerSpec,
    ConvNetSpec,
    ImageSpec,
    ImplicitQuantileHeadSpec,
    InputSpec,
    LogitsHeadSpec,
    MLPSpec,
    NetworkSpec,
    Predictor,
    QuantileHeadSpec,
    RegressionHeadSpec,
    ScalarHeadSpec,
    build_network,
    make_provenance,
    save_model,
)
from torso.nets.specs.calibration import PlattScaling
from torso.space_spec import SpaceSpec

HERE = Path(__file__).parent

CLASSIFIER = NetworkSpec(
    input=InputSpec(
        shape=(8, 8),
        dtype="uint8",
        layout="hw",
        scale=1 / 16,
        image=ImageSpec(channels=1, height=8, width=8, centring="box", max_value=16.0),
    ),
    torso=ConvNetSpec(
        convs=(
            ConvLayerSpec(channels=4, kernel=3, padding=1, pool="max"),
            ConvLayerSpec(channels=6, kernel=2, pool="avg"),
        ),
        hidden=(8,),
        activation="gelu",
        dropout=0.25,
        batch_norm=True,
    ),
    head=LogitsHeadSpec(num_classes=4, label_smoothing=0.1),
)
CALIBRATION = PlattScaling(num_classes=4, slopes=(0.25, 0.5, 0.75, 0.375), intercepts=(0.0, -0.5, 0.25, 1.0))
POLICY = NetworkSpec(
    input=InputSpec(shape=(2, 3), mean=(0.5, -0.5, 0.0, 1.0, 2.0, -1.0), std=(1.0, 2.0, 0.5, 1.5, 4.0, 2.5)),
    torso=MLPSpec(hidden=(8, 6), activation="leaky_relu", layer_norm=True),
    head=ScalarHeadSpec(num_actions=3, huber_delta=None, dueling=True, hidden=(5,)),
)
SPACE = SpaceSpec(
    kind="dict",
    keys=("at", "seen", 7),
    parts=(
        SpaceSpec(kind="discrete", sizes=(3,), starts=(-1,)),
        SpaceSpec(kind="numbers", shape=(2,), dtype="float32"),
        SpaceSpec(kind="tuple", parts=(SpaceSpec(kind="discrete", shape=(2,), sizes=(2, 3), starts=(0, 1)),)),
    ),
)
FLATTENED = NetworkSpec(
    input=InputSpec(shape=(SPACE.size,), dtype="float64"),
    torso=MLPSpec(hidden=(8,)),
    head=ScalarHeadSpec(num_actions=3),
)
REGRESSOR = NetworkSpec(
    input=InputSpec(shape=(5,)),
    torso=MLPSpec(hidden=(7,), activation="tanh"),
    head=RegressionHeadSpec(num_targets=2, mean=(152.0, -0.5), std=(77.0, 0.25)),
)


def make(directory: Path, spec: NetworkSpec, inputs: np.ndarray[Any, Any], **card: Any) -> None:
    generator = torch.Generator().manual_seed(FORMAT_VERSION)
    network = build_network(spec, generator)
    for parameter in network.parameters():  # a norm's gain of 1 and bias of 0 would hide a mistake
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    for name, statistic in network.named_buffers():  # as if it had been trained
        if name.endswith("running_mean"):
            statistic += 0.3 * torch.randn(statistic.shape, generator=generator)
        elif name.endswith("running_var"):
            statistic *= torch.empty_like(statistic).uniform_(0.02, 0.2, generator=generator)
        elif name.endswith("num_batches_tracked"):
            statistic += 100
    provenance = make_provenance("tests/golden/make_golden.py", seed=FORMAT_VERSION)
    save_model(directory, network, kind=spec.kind, provenance=provenance, **card)
    predictor = Predictor.load(directory)
    readout = predictor.run(predictor.prepare(inputs, strict=True))
    probabilities = {"probabilities": predictor.probabilities(readout)} if spec.kind == "classifier" else {}
    np.savez(directory / "golden.npz", inputs=inputs, readout=readout, **probabilities)


def make_classifier(directory: Path) -> None:
    rng = np.random.default_rng(FORMAT_VERSION)
    scans = (rng.integers(17, size=(12, 8, 8)) * (rng.random((12, 8, 8)) < 0.4)).astype(np.uint8)
    make(directory, CLASSIFIER, scans, labels=("zero", 1, 2.5, "drei \u00bd"), calibration=CALIBRATION)


def make_policy(directory: Path) -> None:
    make(directory, POLICY, rows_of(2, 3), action_start=1)


def make_regressor(directory: Path) -> None:
    make(directory, REGRESSOR, rows_of(5), labels=("progression", "dose"))


def make_flattened(directory: Path) -> None:
    rng = np.random.default_rng(FORMAT_VERSION)
    raw = {
        "at": rng.integers(-1, 2, size=12),
        "seen": rng.normal(size=(12, 2)).astype(np.float32),
        7: (rng.integers((0, 1), (2, 4), size=(12, 2)),),
    }
    rows, _ = SPACE.flatten(raw)
    assert rows is not None
    make(directory, FLATTENED, rows, action_start=-2, observation_space=SPACE)


def make_distributional(head: Any) -> Callable[[Path], None]:
    spec = NetworkSpec(input=InputSpec(shape=(4,)), torso=MLPSpec(hidden=(8,)), head=head)
    return lambda directory: make(directory, spec, rows_of(4))


def rows_of(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(FORMAT_VERSION).normal(size=(12, *shape)).astype(np.float32)


STREAMS: dict[str, Any] = {"num_actions": 3, "dueling": True, "noisy": True, "hidden": (6,)}
MAKERS: dict[str, Callable[[Path], None]] = {
    "": make_classifier,
    "_policy": make_policy,
    "_regressor": make_regressor,
    "_space": make_flattened,
    "_categorical": make_distributional(CategoricalHeadSpec(num_atoms=11, v_min=-2.0, v_max=6.0, **STREAMS)),
    "_quantile": make_distributional(QuantileHeadSpec(num_actions=3, num_quantiles=5)),
    "_implicit": make_distributional(ImplicitQuantileHeadSpec(num_cosines=8, num_fractions=4, **STREAMS)),
}


def main(name: str) -> None:
    missing = [kind for kind in MAKERS if not (HERE / f"model_{name}{kind}").exists()]
    if not missing:
        sys.exit(f"error: all of model_{name}* are there already, and are never made again")
    for kind in missing:
        MAKERS[kind](HERE / f"model_{name}{kind}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
