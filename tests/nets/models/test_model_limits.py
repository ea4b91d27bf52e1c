"""Model directories whose cards, networks or weights ask for much: checked before it costs anything."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from torso.errors import ModelDamagedError, SpecError
from torso.files import sha256_hex
from torso.nets import (
    ConvLayerSpec,
    ConvNetSpec,
    InputSpec,
    LogitsHeadSpec,
    MLPSpec,
    NetworkSpec,
    OneVsRestHeadSpec,
    RegressionHeadSpec,
    ScalarHeadSpec,
    build_network,
    load_model,
    read_card,
    register_torso,
    save_model,
)
from torso.nets.models.card import MAX_CARD_BYTES, MAX_NAME_LENGTH, MAX_PROVENANCE_BYTES
from torso.nets.models.loading import BUILD_BYTES
from torso.space_spec import MAX_PARTS, SpaceSpec

LARGEST = 2**31 - 1
VECTOR, IMAGE = InputSpec(shape=(4,)), InputSpec(shape=(1, 8, 8), layout="chw")
MLP = MLPSpec(hidden=(3,))
CONVNET = ConvNetSpec(convs=(ConvLayerSpec(channels=2, kernel=3),), hidden=(3,))
LOGITS, VALUES = LogitsHeadSpec(num_classes=2), ScalarHeadSpec(num_actions=2, dueling=True, hidden=(3,))

Limit = Callable[[int], AbstractContextManager[None]]


@dataclass(frozen=True, kw_only=True)
class TableSpec:
    rows: int = 3
    depth: int = 1
    reads: bool = False


class Table(nn.Module):
    """Torso with a table that is not saved, and that may read values while it is built."""

    def __init__(self, spec: TableSpec, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.num_features = input_shape[0]
        if spec.reads:
            assert torch.ones(2).sum().item() == 2
        self.register_buffer("table", torch.arange(spec.rows), persistent=False)
        self.layers = nn.ModuleList(nn.Linear(1, 1) for _ in range(spec.depth))

    def forward(self, x: Tensor, state: Any, generator: Any) -> tuple[Tensor, Any]:
        return x, state


def save(directory: Path, network_input: InputSpec, torso: Any, head: Any, **settings: Any) -> None:
    spec = NetworkSpec(input=network_input, torso=torso, head=head)
    save_model(directory, build_network(spec), kind=spec.kind, onnx=False, **settings)


def edit(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    card = json.loads((directory / "model.json").read_text())
    change(card)
    (directory / "model.json").write_text(json.dumps(card))


VAST: dict[str, tuple[InputSpec, Any, Any, dict[str, Any]]] = {
    "widths whose bytes are beyond 64 bits": (
        VECTOR,
        MLP,
        LOGITS,
        {"torso": {"hidden": [1_500_000, LARGEST, LARGEST]}},
    ),
    "one wide layer": (VECTOR, MLP, LOGITS, {"torso": {"hidden": [LARGEST]}}),
    "wide layers after convolutions": (IMAGE, CONVNET, LOGITS, {"torso": {"hidden": [LARGEST, LARGEST]}}),
    "layer norms": (VECTOR, MLP, LOGITS, {"torso": {"hidden": [LARGEST], "layer_norm": True}}),
    "layer norms of elements": (
        IMAGE,
        CONVNET,
        LOGITS,
        {
            "input": {"shape": [3, LARGEST, LARGEST]},
            "torso": {"layer_norm": True, "layer_norm_kind": "elements"},
        },
    ),
    "batch norms": (VECTOR, MLP, LOGITS, {"torso": {"hidden": [LARGEST], "batch_norm": True}}),
    "channels": (IMAGE, CONVNET, LOGITS, {"torso": {"convs": [{"channels": LARGEST, "kernel": 3}]}}),
    "a kernel": (
        IMAGE,
        CONVNET,
        LOGITS,
        {"torso": {"convs": [{"channels": 1, "kernel": LARGEST, "padding": LARGEST - 1}]}},
    ),
    "a flat input": (VECTOR, MLP, LOGITS, {"input": {"shape": [LARGEST, LARGEST]}}),
    "an image": (IMAGE, CONVNET, LOGITS, {"input": {"shape": [LARGEST, LARGEST, LARGEST]}}),
    "classes": (VECTOR, MLP, LOGITS, {"head": {"num_classes": LARGEST}}),
    "one-vs-rest": (VECTOR, MLP, OneVsRestHeadSpec(num_classes=2), {"head": {"num_classes": LARGEST}}),
    "actions": (VECTOR, MLP, VALUES, {"head": {"num_actions": LARGEST}}),
    "dueling streams": (VECTOR, MLP, VALUES, {"head": {"hidden": [LARGEST, LARGEST]}}),
    "targets": (VECTOR, MLP, RegressionHeadSpec(num_targets=2), {"head": {"num_targets": LARGEST}}),
    "a registered torso's table": (VECTOR, TableSpec(), LOGITS, {"torso": {"rows": LARGEST}}),
    "its small layers": (VECTOR, TableSpec(), LOGITS, {"torso": {"depth": LARGEST}}),
    "one that reads values": (VECTOR, TableSpec(reads=True), LOGITS, {"torso": {"rows": LARGEST}}),
}


@pytest.mark.parametrize(("network_input", "torso", "head", "changes"), VAST.values(), ids=VAST)
def test_a_network_that_its_weights_do_not_explain_is_not_built(
    tmp_path: Path, memory_limit: Limit, network_input: InputSpec, torso: Any, head: Any, changes: dict[str, Any]
) -> None:
    register_torso("table", TableSpec, Table)
    save(tmp_path, network_input, torso, head)
    load_model(tmp_path)
    for part, fields in changes.items():
        edit(tmp_path, lambda card, part=part, fields=fields: card["network"][part].update(fields))
    began = time.monotonic()
    with (
        memory_limit(BUILD_BYTES + (1 << 28)),
        pytest.raises(ModelDamagedError, match=r"weights\.safetensors does not"),
    ):
        load_model(tmp_path)
    assert time.monotonic() - began < 20


def test_the_bytes_and_the_limit_are_named(tmp_path: Path) -> None:
    save(tmp_path, VECTOR, MLP, LOGITS)
    edit(tmp_path, lambda card: card["network"]["torso"].update(hidden=[1 << 30]))
    limit = BUILD_BYTES + 16 * (3 * 4 + 3 + 2 * 3 + 2)
    with pytest.raises(ModelDamagedError, match=f"it takes {4 * 4 << 30:,} bytes or more, and may take {limit:,}"):
        load_model(tmp_path)


def test_weights_that_are_not_the_networks_are_not_read(tmp_path: Path, memory_limit: Limit) -> None:
    save(tmp_path, VECTOR, MLP, LOGITS)
    values = 1 << 38
    header = json.dumps({"a": {"dtype": "F32", "shape": [values], "data_offsets": [0, 4 * values]}}).encode()
    (tmp_path / "weights.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    os.truncate(tmp_path / "weights.safetensors", 8 + len(header) + 4 * values)
    with memory_limit(1 << 28), pytest.raises(ModelDamagedError, match=r"does not fit model\.json: missing \['head"):
        load_model(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_large_weights_of_other_precisions_are_loaded(tmp_path: Path, dtype: torch.dtype) -> None:
    save(tmp_path, InputSpec(shape=(600,)), MLPSpec(hidden=(2000,)), LOGITS)
    tensors = safetensors.torch.load((tmp_path / "weights.safetensors").read_bytes())
    data = safetensors.torch.save({name: tensor.to(dtype) for name, tensor in tensors.items()})
    (tmp_path / "weights.safetensors").write_bytes(data)
    edit(tmp_path, lambda card: card["weights"].update(sha256=sha256_hex(data)))
    loaded = load_model(tmp_path)[1].state_dict()
    assert all(torch.equal(loaded[name], tensor.to(dtype).float()) for name, tensor in tensors.items())


CARDS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "widths": (
        lambda card: card["network"]["torso"].update(hidden=[1] * 1_000_000),
        "hidden must hold at most 1024 widths, got 1000000",
    ),
    "convolutions": (
        lambda card: card["network"].update(
            torso={"kind": "convnet", "convs": [{"channels": 1, "kernel": 1}] * 100_000}
        ),
        "convs must hold at most 1024 convolutions, got 100000",
    ),
    "dueling widths": (
        lambda card: card["network"].update(
            head={"kind": "scalar", "num_actions": 2, "dueling": True, "hidden": [1] * 100_000}
        ),
        "hidden must hold at most 1024 widths, got 100000",
    ),
    "axes": (
        lambda card: card["network"]["input"].update(shape=[LARGEST] * 1_000_000),
        "an input's shape must have at most 31 axes, got 1000000",
    ),
    "bytes": (lambda card: card.update(provenance={"a": "x" * MAX_CARD_BYTES}), "must have at most 33554432 bytes"),
    "values": (lambda card: card.update(labels=[[]] * 3_000_000), "must hold at most 2,097,152 values, got 6,0"),
    "values of provenance": (
        lambda card: card.update(provenance={"k" * 1_000_000: {str(index): 0 for index in range(300_000)}}),
        "provenance must take at most 1,048,576 bytes as JSON",
    ),
    "a label": (
        lambda card: card.update(labels=["no", "y" * 10_000]),
        "each label must have at most 4096 characters, got 10000",
    ),
    "names of features": (
        lambda card: card.update(feature_names=["a", "b", "c", "d" * 10_000]),
        "each of feature_names must have at most 4096 characters, got 10000",
    ),
    "parts of a space": (
        lambda card: card.update(
            observation_space={"kind": "tuple", "parts": [{"kind": "numbers", "shape": [1], "dtype": "int8"}] * 100_000}
        ),
        f"a space must have at most {MAX_PARTS} parts",
    ),
    "parts of parts": (
        lambda card: card.update(
            observation_space={
                "kind": "tuple",
                "parts": [{"kind": "tuple", "parts": [{"kind": "numbers", "shape": [1], "dtype": "int8"}] * 100}] * 100,
            }
        ),
        f"a space must have at most {MAX_PARTS} parts",
    ),
    "axes of a space": (
        lambda card: card.update(observation_space={"kind": "numbers", "shape": [LARGEST] * 100_000, "dtype": "int8"}),
        "a space's shape must have at most 31 axes, got 100000",
    ),
}


@pytest.mark.parametrize(("change", "message"), CARDS.values(), ids=CARDS)
def test_a_card_of_vast_parts_is_refused(
    tmp_path: Path, memory_limit: Limit, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    save(tmp_path, VECTOR, MLP, LOGITS)
    edit(tmp_path, change)
    began = time.monotonic()
    with memory_limit(1 << 30), pytest.raises(ModelDamagedError) as caught:
        read_card(tmp_path)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert time.monotonic() - began < 20


def test_a_million_labels_are_saved_and_read(tmp_path: Path) -> None:
    labels = tuple(f"label {index}" for index in range(1_000_000))
    save(tmp_path, InputSpec(shape=(1,)), MLPSpec(hidden=()), LogitsHeadSpec(num_classes=len(labels)), labels=labels)
    assert read_card(tmp_path).labels == labels


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"provenance": {"a": "x" * MAX_PROVENANCE_BYTES}}, "provenance must take at most"),
        ({"labels": ("no", "y" * (MAX_NAME_LENGTH + 1))}, "each label must have at most"),
    ],
)
def test_what_could_not_be_read_is_not_saved(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    save(tmp_path, VECTOR, MLP, LOGITS)
    before = (tmp_path / "model.json").read_bytes()
    with pytest.raises(SpecError, match=message):
        save(tmp_path, VECTOR, MLP, LOGITS, **settings)
    assert (tmp_path / "model.json").read_bytes() == before


def test_a_space_of_as_many_parts_as_it_may_have() -> None:
    part = SpaceSpec(kind="numbers", shape=(1,), dtype="int8")
    assert SpaceSpec(kind="tuple", parts=(part,) * MAX_PARTS).size == MAX_PARTS
    nested = SpaceSpec(kind="tuple", parts=(SpaceSpec(kind="tuple", parts=(part, part)), part))
    assert (nested.num_parts, nested.size) == (4, 3)


def test_a_place_in_plain_data_is_named_in_short() -> None:
    spec = NetworkSpec(input=VECTOR, torso=MLP, head=LOGITS)
    with pytest.raises(SpecError) as caught:
        save_model("unused", build_network(spec), kind="classifier", provenance={"k" * 10_000: {"a": math.nan}})
    assert len(str(caught.value)) < 600
