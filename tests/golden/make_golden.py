"""Make the golden model directories of a format version: ``python tests/golden/make_golden.py v1``.

Run once, when a format version is released; what it wrote is committed and never made again, because the point of a
golden directory is that it was written by the torso of its day and loads in every later one (``test_golden.py``). For
that reason it refuses to write over one. For a new format version: raise ``FORMAT_VERSION``, run it with the new name,
and commit what it wrote.

It writes ``model_NAME/`` (a classifier: convolutions, an 8x8 image input, labels) and ``model_NAME_policy/`` (an MLP
with normalised inputs and an action_start), each with its ``model.onnx``, and in each ``golden.npz``: ``inputs``, and
the ``readout`` that the torso of the day gave for them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from torso.nets import (
    FORMAT_VERSION,
    ConvLayerSpec,
    ConvNetSpec,
    ImageSpec,
    InputSpec,
    LogitsHeadSpec,
    MLPSpec,
    NetworkSpec,
    Predictor,
    ScalarHeadSpec,
    build_network,
    make_provenance,
    save_model,
)

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
        dropout=0.25,
        layer_norm=True,
    ),
    head=LogitsHeadSpec(num_classes=4),
)
POLICY = NetworkSpec(
    input=InputSpec(shape=(2, 3), mean=(0.5, -0.5, 0.0, 1.0, 2.0, -1.0), std=(1.0, 2.0, 0.5, 1.5, 4.0, 2.5)),
    torso=MLPSpec(hidden=(8, 6), activation="tanh"),
    head=ScalarHeadSpec(num_actions=3, huber_delta=None),
)


def make(directory: Path, spec: NetworkSpec, inputs: np.ndarray[Any, Any], **card: Any) -> None:
    generator = torch.Generator().manual_seed(FORMAT_VERSION)
    network = build_network(spec, generator)
    for parameter in network.parameters():  # a norm's gain of 1 and bias of 0 would hide a mistake
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    provenance = make_provenance("tests/golden/make_golden.py", seed=FORMAT_VERSION)
    save_model(directory, network, kind=spec.kind, provenance=provenance, **card)
    predictor = Predictor.load(directory)
    np.savez(directory / "golden.npz", inputs=inputs, readout=predictor.run(predictor.prepare(inputs, strict=True)))


def main(name: str) -> None:
    for directory in (HERE / f"model_{name}", HERE / f"model_{name}_policy"):
        if directory.exists():
            sys.exit(f"error: {directory} is there already, and is never made again")
    rng = np.random.default_rng(FORMAT_VERSION)
    scans = (rng.integers(17, size=(12, 8, 8)) * (rng.random((12, 8, 8)) < 0.4)).astype(np.uint8)
    make(HERE / f"model_{name}", CLASSIFIER, scans, labels=("zero", 1, 2.5, "drei \u00bd"))
    make(HERE / f"model_{name}_policy", POLICY, rng.normal(size=(12, 2, 3)).astype(np.float32), action_start=1)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
