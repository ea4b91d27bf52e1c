"""Model directory: save and load round trip, and a named error for each kind of damage."""

from __future__ import annotations

import ast
import hashlib
import json
import math
import os
import pickle
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import torso.nets
from torso.errors import (
    ModelDamagedError,
    ModelError,
    ModelFormatError,
    ModelNotFoundError,
    SpecError,
    StorageError,
)
from torso.nets import (
    FORMAT_VERSION,
    Calibration,
    ConvLayerSpec,
    ConvNetSpec,
    InputSpec,
    LogitsHeadSpec,
    MLPSpec,
    Network,
    NetworkSpec,
    RegressionHeadSpec,
    ScalarHeadSpec,
    StepHeadSpec,
    build_network,
    find_model,
    load,
    load_model,
    make_provenance,
    read_card,
    save_model,
)
from torso.nets.models.card import CARD, WEIGHTS
from torso.nets.models.loading import SMALL_BYTES
from torso.nets.specs.calibration import IsotonicCalibration, PlattScaling, TemperatureScaling

MakeNetwork = Callable[..., Network]


def weights_equal(one: Network, other: Network) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def saved(tmp_path: Path, make_policy: MakeNetwork) -> Path:
    provenance = make_provenance("a test", seed=3, env_id="CartPole-v1")
    return save_model(tmp_path / "model", make_policy(), kind="policy", provenance=provenance, onnx=False)


def edit(directory: Path, change: Callable[[dict[str, Any]], None]) -> None:
    card = json.loads((directory / "model.json").read_text())
    change(card)
    (directory / "model.json").write_text(json.dumps(card))


def put_weights(directory: Path, data: bytes) -> None:
    """Replace the weights, and their SHA-256 in model.json."""
    (directory / "weights.safetensors").write_bytes(data)
    edit(directory, lambda card: card["weights"].update(sha256=hashlib.sha256(data).hexdigest()))


# -- there and back ----------------------------------------------------------------------------------------------------


def test_what_is_saved_comes_back(saved: Path, make_policy: MakeNetwork) -> None:
    card, network = load_model(saved)
    assert weights_equal(network, make_policy())
    assert not network.training
    assert network.spec == card.network == make_policy().spec
    assert (card.kind, card.labels, card.action_start, card.format_version) == ("policy", None, 0, FORMAT_VERSION)
    assert card.weights_sha256 == hashlib.sha256((saved / "weights.safetensors").read_bytes()).hexdigest()
    assert card.provenance["env_id"] == "CartPole-v1"
    assert card.provenance["seed"] == 3
    assert set(card.provenance["versions"]) == {"torso", "torch", "numpy", "python"}
    assert isinstance(load(saved), torch.nn.Module)
    assert sorted(path.name for path in saved.iterdir()) == ["model.json", "weights.safetensors"]


def test_the_card_is_readable_json(saved: Path) -> None:
    text = (saved / "model.json").read_text(encoding="utf-8")
    assert text.endswith("}\n")
    assert list(json.loads(text)) == [
        *("format_version", "kind", "weights", "labels", "action_start", "calibration", "network", "provenance")
    ]


def test_saving_what_was_loaded_gives_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    card, network = load_model(saved)
    again = save_model(tmp_path / "again", network, kind=card.kind, provenance=card.provenance, onnx=False)
    for name in ("weights.safetensors", "model.json"):
        assert (again / name).read_bytes() == (saved / name).read_bytes()


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (("a", "b", "c"), ("a", "b", "c")),
        (["null", "eins", "zwei ½"], ("null", "eins", "zwei ½")),
        (np.array([3, 5, 7]), (3, 5, 7)),
        (np.array([0.5, 1.5, 2.5], dtype=np.float32), (0.5, 1.5, 2.5)),
        (np.array(["x", "y", "z"]), ("x", "y", "z")),
        ((np.True_, False, 2), (True, False, 2)),
        (range(3), (0, 1, 2)),
    ],
)
def test_labels_come_back_as_they_were(
    tmp_path: Path, make_classifier: MakeNetwork, labels: Any, expected: tuple[object, ...]
) -> None:
    save_model(tmp_path, make_classifier(), kind="classifier", labels=labels, onnx=False)
    labels = read_card(tmp_path).labels
    assert labels == expected
    assert [type(label) for label in labels or ()] == [type(label) for label in expected]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"labels": ("a", "b")}, "labels must hold 3 names, one an output, got 2"),
        ({"labels": "abc"}, "labels must be a sequence of names, got 'abc'"),
        ({"labels": 3}, "labels must be a sequence"),
        ({"labels": {"a", "b", "c"}}, "labels must be a sequence"),
        ({"labels": ("a", "b", None)}, "each label must be text or a number, got None"),
        ({"labels": ("a", "b", ["c"])}, "each label must be text or a number"),
        ({"labels": ("a", "b", object())}, "each label must be plain data"),
        ({"labels": ("a", "b", math.nan)}, "each label must be finite, got nan"),
        ({"labels": ("a", "b", "\ud800")}, "each label must be text that UTF-8 can hold"),
        ({"provenance": {"lr": math.inf}}, "provenance.lr must be finite, got inf"),
        ({"provenance": {"config": {"path": Path("x")}}}, r"provenance\.config\.path must be plain data"),
        ({"provenance": {"config": np.zeros(3)}}, r"provenance\.config must be plain data"),
        ({"provenance": {3: 4}}, "provenance must have strings as keys, got 3"),
        ({"provenance": ["a"]}, "provenance must be a dict"),
        ({"kind": "policy"}, "a model's kind must be classifier, as its network's head is, got policy"),
        ({"kind": "regressor"}, "a model's kind must be classifier, as its network's head is, got regressor"),
        ({"kind": "cluster"}, "a model's kind must be one of classifier, policy, regressor; got 'cluster'"),
        (
            {"calibration": {"method": "temperature"}},
            "calibration must be a Calibration, got {'method': 'temperature'}",
        ),
        (
            {"calibration": TemperatureScaling(num_classes=2, temperature=1.0)},
            "calibration must be of 3 classes, one an output, got 2",
        ),
        ({"action_start": 0.5}, "action_start must be a whole number"),
        ({"action_start": True}, "action_start must be a whole number"),
    ],
)
def test_what_a_card_cannot_hold_is_refused_before_anything_is_written(
    tmp_path: Path, make_classifier: MakeNetwork, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        save_model(tmp_path / "model", make_classifier(), **{"kind": "classifier", "onnx": False, **fields})
    assert list(tmp_path.iterdir()) == []


CALIBRATIONS = [
    TemperatureScaling(num_classes=3, temperature=2.5),
    PlattScaling(num_classes=3, slopes=(0.5, 1.0, 2.0), intercepts=(0.0, -1.0, 1 / 3)),
    IsotonicCalibration(num_classes=3, scores=((-1.0, 1.0), (0.0,), (0.1,)), values=((0.1, 0.9), (0.5,), (0.25,))),
]


@pytest.mark.parametrize("calibration", CALIBRATIONS)
def test_a_calibration_comes_back_as_it_was(
    tmp_path: Path, make_classifier: MakeNetwork, calibration: Calibration
) -> None:
    save_model(tmp_path, make_classifier(), kind="classifier", calibration=calibration, onnx=False)
    card, _ = load_model(tmp_path)
    assert card.calibration == calibration
    readout = np.random.default_rng(0).normal(size=(9, 3))
    assert np.array_equal(card.calibration.apply(readout), calibration.apply(readout))


def test_a_step_unit_is_not_calibrated(tmp_path: Path) -> None:
    spec = NetworkSpec(input=InputSpec(shape=(4,)), torso=MLPSpec(hidden=()), head=StepHeadSpec())
    calibration = TemperatureScaling(num_classes=2, temperature=1.0)
    with pytest.raises(
        SpecError, match="calibration must be None for a step unit, which gives no probabilities, got temperature"
    ):
        save_model(tmp_path / "model", build_network(spec), kind="classifier", calibration=calibration, onnx=False)
    assert list(tmp_path.iterdir()) == []


def test_a_regressor_and_the_names_of_its_targets_come_back(tmp_path: Path) -> None:
    head = RegressionHeadSpec(num_targets=2, mean=(152.0, -0.5), std=(77.0, 0.25))
    spec = NetworkSpec(input=InputSpec(shape=(4,)), torso=MLPSpec(), head=head)
    network = build_network(spec, torch.Generator().manual_seed(0))
    for labels in (None, ("progression", "dose")):
        save_model(tmp_path, network, kind="regressor", labels=labels, onnx=False)
        card, loaded = load_model(tmp_path)
        assert (card.kind, card.labels, card.network) == ("regressor", labels, spec)
        obs = torch.randn(5, 4)
        assert torch.equal(loaded.readout(obs), network.eval().readout(obs))


def batch_normed(seed: int) -> Network:
    """A network whose batch norms have seen a few minibatches."""
    spec = NetworkSpec(
        input=InputSpec(shape=(6, 6), layout="hw"),
        torso=ConvNetSpec(convs=(ConvLayerSpec(channels=3, kernel=3),), hidden=(5,), batch_norm=True),
        head=LogitsHeadSpec(num_classes=3),
    )
    generator = torch.Generator().manual_seed(seed)
    network = build_network(spec, generator).train()
    for _ in range(3):
        network(torch.randn(8, 6, 6, generator=generator) * 3 + 1)
    return network


def test_a_batch_norms_statistics_are_part_of_the_model(tmp_path: Path) -> None:
    network = batch_normed(0)
    save_model(tmp_path, network, kind="classifier", onnx=False)
    assert network.training
    loaded = load(tmp_path)
    assert weights_equal(loaded, network)
    assert {t.dtype for name, t in loaded.state_dict().items() if "num_batches" in name} == {torch.int64}
    obs = torch.randn(5, 6, 6)
    assert torch.equal(loaded.readout(obs), network.eval().readout(obs))
    tensors = safetensors.torch.load_file(tmp_path / "weights.safetensors")
    for name, wrong in (("running_mean", torch.zeros(4)), ("num_batches_tracked", torch.zeros(()))):
        key = f"torso.convs.1.{name}"
        put_weights(tmp_path, safetensors.torch.save({**tensors, key: wrong}))
        with pytest.raises(ModelDamagedError, match=rf"does not fit model\.json: {key} must be"):
            load(tmp_path)


def test_provenance_is_made_plain(tmp_path: Path, make_policy: MakeNetwork) -> None:
    provenance = {
        "seed": np.int64(3),
        "hidden": (64, 64),
        "loss": np.float32(0.5),
        "nested": {"ok": np.True_},
        "no": None,
    }
    save_model(tmp_path, make_policy(), kind="policy", action_start=np.int64(2), provenance=provenance, onnx=False)
    card = read_card(tmp_path)
    assert card.provenance == {"seed": 3, "hidden": [64, 64], "loss": 0.5, "nested": {"ok": True}, "no": None}
    assert card.action_start == 2


def test_the_weights_of_a_network_in_training_are_saved_as_they_are(tmp_path: Path, make_policy: MakeNetwork) -> None:
    network = make_policy().train()
    flat = torch.cat([p.detach().flatten() for p in network.parameters()]).requires_grad_()
    at = 0
    for parameter in network.parameters():  # views of one tensor, as a fused optimizer wants them
        parameter.data = flat.data[at : at + parameter.numel()].view_as(parameter)
        at += parameter.numel()
    save_model(tmp_path, network, kind="policy", onnx=False)
    assert network.training
    assert weights_equal(load(tmp_path), network)


def test_a_network_of_another_precision_loads_as_float32(tmp_path: Path, make_policy: MakeNetwork) -> None:
    save_model(tmp_path, make_policy().double(), kind="policy", onnx=False)
    assert weights_equal(load(tmp_path), make_policy())


def test_loading_leaves_the_global_generator_alone(saved: Path) -> None:
    before = torch.get_rng_state()
    load(saved)
    assert torch.equal(torch.get_rng_state(), before)


# -- where a model is found --------------------------------------------------------------------------------------------


def test_a_run_directory_means_its_best_model_or_else_its_latest(tmp_path: Path, make_policy: MakeNetwork) -> None:
    save_model(tmp_path / "model", make_policy(1), kind="policy", onnx=False)
    (tmp_path / "best").mkdir()
    assert find_model(tmp_path) == tmp_path / "model"
    save_model(tmp_path / "best", make_policy(2), kind="policy", onnx=False)
    assert find_model(str(tmp_path)) == tmp_path / "best"
    assert weights_equal(load(tmp_path), make_policy(2))
    assert find_model(tmp_path / "model") == tmp_path / "model"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere", "there is no such directory"),
        ("empty", "model.json must be in it"),
        ("file", "it is a file; expected a model or run directory"),
        ("file/below", "there is no such directory"),
        ("x" * 5000, "no model at"),
        ("nu\0ll", "no model at"),
    ],
)
@pytest.mark.parametrize("ask", [find_model, load, load_model, torso.nets.export_onnx, torso.nets.Predictor.load])
def test_where_there_is_no_model(tmp_path: Path, path: str, message: str, ask: Callable[[Path], object]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelNotFoundError, match=message):
        ask(tmp_path / path)


@pytest.mark.parametrize("path", ["nowhere", "file"])
def test_where_there_is_no_card(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelNotFoundError, match="expected a model or run directory"):
        read_card(tmp_path / path)


# -- damage ------------------------------------------------------------------------------------------------------------


def test_missing_weights(saved: Path) -> None:
    (saved / "weights.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match=r"weights\.safetensors is missing"):
        load(saved)


def test_a_folder_where_a_file_should_be(saved: Path) -> None:
    (saved / "weights.safetensors").unlink()
    (saved / "weights.safetensors").mkdir()
    with pytest.raises(ModelDamagedError, match="cannot read"):
        load(saved)


def test_files_that_no_reader_gets_to_the_end_of_are_refused(saved: Path) -> None:
    for name, read in ((WEIGHTS, load), (CARD, read_card)):
        (saved / name).unlink()
        os.mkfifo(saved / name)
        with pytest.raises(ModelDamagedError, match="must be a regular file"):
            read(saved)
    with pytest.raises(ModelNotFoundError):  # a card that is no file is none
        load(saved)


def test_a_vast_file_that_its_header_does_not_explain_is_not_read(saved: Path) -> None:
    os.truncate(saved / WEIGHTS, 1 << 40)  # without a block of its own on most file systems
    with pytest.raises(ModelDamagedError, match="truncated or altered"):
        load(saved)


def test_large_weights_are_read(tmp_path: Path) -> None:
    spec = NetworkSpec(input=InputSpec(shape=(600,)), torso=MLPSpec(hidden=(600,)), head=LogitsHeadSpec(num_classes=2))
    network = build_network(spec)
    assert (
        save_model(tmp_path / "m", network, kind="classifier", onnx=False).joinpath(WEIGHTS).stat().st_size
        > SMALL_BYTES
    )
    assert weights_equal(load(tmp_path / "m"), network)


def test_every_truncation_of_the_weights_is_noticed(saved: Path) -> None:
    data = (saved / "weights.safetensors").read_bytes()
    for length in range(0, len(data), 13):
        (saved / "weights.safetensors").write_bytes(data[:length])
        with pytest.raises(
            ModelDamagedError, match=r"truncated or altered: its SHA-256 is not the one that model\.json"
        ):
            load(saved)


def test_a_flipped_bit_of_the_weights_is_noticed(saved: Path) -> None:
    data = bytearray((saved / "weights.safetensors").read_bytes())
    data[-1] ^= 1
    (saved / "weights.safetensors").write_bytes(data)
    with pytest.raises(ModelDamagedError, match="altered"):
        load(saved)


def test_every_truncation_of_the_card_is_noticed(saved: Path) -> None:
    data = (saved / "model.json").read_bytes()
    for length in range(0, len(data) - 2, 3):  # without its last newline it is whole
        (saved / "model.json").write_bytes(data[:length])
        with pytest.raises(ModelDamagedError, match="is not JSON"):
            load(saved)


@pytest.mark.parametrize("version", [FORMAT_VERSION + 1, 99, 10**30])
def test_a_newer_format_is_not_guessed_at(saved: Path, version: int) -> None:
    edit(saved, lambda card: card.update(format_version=version, kind="something new"))
    with pytest.raises(
        ModelFormatError, match=rf"has format {version}, .* reads up to {FORMAT_VERSION}; upgrade torso"
    ):
        load(saved)


@pytest.mark.parametrize("version", [0, -1, True, "1", 1.0, None])
def test_a_format_that_never_was(saved: Path, version: object) -> None:
    edit(saved, lambda card: card.update(format_version=version))
    with pytest.raises(ModelDamagedError, match="names no format_version"):
        load(saved)


DEEP = "[" * 900 + "]" * 900


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("kind", '"classifier"', "a model's kind must be policy, as its network's head is, got classifier"),
        ("kind", "[]", "kind must be one of classifier, policy, regressor"),
        ("calibration", '{"method": "platt"}', "the platt calibration cannot be built from"),
        ("calibration", '{"method": "magic"}', "a calibration's method must be one of"),
        ("calibration", "3", "a calibration must be an object"),
        (
            "calibration",
            '{"method": "temperature", "num_classes": 2, "temperature": 1}',
            "calibration must be None for a policy, which gives no probabilities, got temperature",
        ),
        ("calibration", DEEP, "does not describe a model|is not JSON"),
        ("weights", '"abc"', "does not describe a model"),
        ("weights", "{}", "does not describe a model"),
        ("weights", '{"sha256": 3}', "weights_sha256 must be 64 hexadecimal digits"),
        ("weights", '{"sha256": "../../etc/passwd"}', "weights_sha256 must be 64 hexadecimal digits"),
        ("labels", '["a"]', "labels must hold 2 names, one an output, got 1"),
        ("labels", '["a", ["b"]]', "each label must be text or a number"),
        ("labels", '["a", null]', "each label must be text or a number"),
        ("labels", '"ab"', "labels must be a sequence"),
        ("labels", '{"a": 1, "b": 2}', "labels must be a sequence"),
        ("labels", '["a", "\\ud800"]', "UTF-8"),
        ("action_start", "true", "action_start must be a whole number"),
        ("action_start", "1.5", "action_start must be a whole number"),
        ("action_start", "1" + "0" * 30, "action_start must be a whole number"),
        ("provenance", "[]", "provenance must be a dict"),
        ("provenance", '{"a": NaN}', "is not JSON .*NaN is not a JSON number"),
        ("provenance", '{"a": -Infinity}', "is not JSON"),
        ("provenance", '{"a": 1e999}', "provenance.a must be finite"),
        ("provenance", '{"a": 1' + "0" * 5000 + "}", "is not JSON"),
        ("provenance", '{"a": ' + DEEP + "}", "does not describe a model|is not JSON"),
        ("labels", DEEP, "does not describe a model|is not JSON"),
        ("network", DEEP, "does not describe a model|is not JSON"),
        ("network", '"mlp"', "a network must be an object"),
        ("network", '{"input": {}, "torso": {}, "head": {}}', "does not describe a model"),
    ],
)
def test_a_card_that_says_what_cannot_be(saved: Path, field: str, value: str, message: str) -> None:
    path = saved / "model.json"
    card = json.loads(path.read_text())
    del card[field]
    whole = json.dumps(card)
    path.write_text(f'{whole[:-1]}, "{field}": {value}}}')
    with pytest.raises(ModelDamagedError, match=message) as caught:
        load(saved)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("field", ["kind", "weights", "labels", "action_start", "calibration", "network", "provenance"])
def test_a_card_that_lacks_a_field(saved: Path, field: str) -> None:
    edit(saved, lambda card: card.pop(field))
    with pytest.raises(ModelDamagedError, match=f"lacks {field}; the file is truncated or altered"):
        load(saved)


def test_a_card_of_format_1_needs_no_calibration(saved: Path, make_policy: MakeNetwork) -> None:
    edit(saved, lambda card: (card.pop("calibration"), card.update(format_version=1)))
    card, network = load_model(saved)
    assert (card.format_version, card.calibration) == (1, None)
    assert weights_equal(network, make_policy())


@pytest.mark.parametrize("data", [b"\xff\xfe{}", b"\x00" * 100, b"null", b"[]", b"3", b'"model"', b"{}", b""])
def test_a_card_that_is_no_card(saved: Path, data: bytes) -> None:
    (saved / "model.json").write_bytes(data)
    with pytest.raises(ModelDamagedError):
        load(saved)


def test_a_torso_that_is_not_registered_here_is_named(saved: Path) -> None:
    edit(saved, lambda card: card["network"]["torso"].update(kind="resnet"))
    with pytest.raises(
        ModelDamagedError, match=r"a torso's kind must be one of .*; got 'resnet' \(register others before loading"
    ):
        load(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("head.linear.bias"), r"missing \['head\.linear\.bias'\], not expected \[\]"),
        (lambda t: t.update(more=torch.zeros(1)), r"missing \[\], not expected \['more'\]"),
        (lambda t: t.update({"head.linear.bias": torch.zeros(3)}), r"bias must be torch\.float32 \[2\], got .* \[3\]"),
        (lambda t: t.update({"head.linear.bias": torch.zeros(2, 1)}), "head.linear.bias must be"),
        (lambda t: t.update({"head.linear.bias": torch.zeros(2, dtype=torch.int64)}), r"got torch\.int64 \[2\]"),
        (lambda t: t.update({"head.linear.bias": torch.zeros(2, dtype=torch.complex64)}), r"got torch\.complex64"),
        (lambda t: t.clear(), "missing .*head"),
    ],
)
def test_weights_of_another_network(saved: Path, change: Callable[[dict[str, Any]], Any], message: str) -> None:
    tensors = safetensors.torch.load_file(saved / "weights.safetensors")
    change(tensors)
    put_weights(saved, safetensors.torch.save(tensors))
    with pytest.raises(ModelDamagedError, match=f"does not fit model.json: .*{message}"):
        load(saved)


def safetensors_file(dtype: str, shape: list[int], size: int) -> bytes:
    """One tensor, as the format describes it: a header's length, the header in JSON, the bytes."""
    entry = {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}
    header = json.dumps({"head.linear.bias": entry}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(size)


@pytest.mark.parametrize(
    ("dtype", "size"),
    [("F4", 1), ("F6_E2M3", 2), ("F8_E8M0", 2), ("F8_E4M3", 2), ("C64", 16), ("U64", 16), ("BOOL", 2), ("I3", 2)],
)
def test_weights_of_a_dtype_that_no_network_has(saved: Path, dtype: str, size: int) -> None:
    put_weights(saved, safetensors_file(dtype, [2], size))
    with pytest.raises(ModelDamagedError, match=r"weights\.safetensors (is not a safetensors file|does not fit)"):
        load(saved)


@pytest.mark.parametrize("hidden", [[2**31 - 1, 2**31 - 1], [10**6, 10**6], [4, 2**30]])
def test_a_card_of_a_vast_network_takes_no_memory(
    saved: Path, hidden: list[int], memory_limit: Callable[[int], AbstractContextManager[None]]
) -> None:
    edit(saved, lambda card: card["network"]["torso"].update(hidden=hidden))
    with memory_limit(2**31), pytest.raises(ModelDamagedError, match=r"weights\.safetensors does not fit"):
        load(saved)


def test_a_card_whose_network_cannot_be_built(tmp_path: Path, make_classifier: MakeNetwork) -> None:
    save_model(tmp_path, make_classifier(), kind="classifier", onnx=False)
    edit(tmp_path, lambda card: card["network"]["torso"]["convs"][0].update(kernel=9))
    with pytest.raises(ModelDamagedError, match=r"describes a network that cannot be built: .* too small"):
        load(tmp_path)


class Explosive:
    """Unpickling it would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.path, "boom")


@pytest.mark.parametrize("form", ["pickle", "torch.save", "torch.save, legacy"])
@pytest.mark.parametrize("name", ["weights.safetensors", "model.json"])
def test_a_pickle_is_never_unpickled(saved: Path, tmp_path: Path, form: str, name: str) -> None:
    bomb, burst = Explosive(tmp_path / "burst"), tmp_path / "burst"
    if form == "pickle":
        data = pickle.dumps(bomb)
    else:
        torch.save(bomb, tmp_path / "file.pt", _use_new_zipfile_serialization=form == "torch.save")
        data = (tmp_path / "file.pt").read_bytes()
    if name == "model.json":
        (saved / name).write_bytes(data)
    else:
        put_weights(saved, data)
    with pytest.raises(ModelDamagedError, match=r"not a safetensors file|not JSON|cannot read"):
        load(saved)
    assert not burst.exists()


def test_no_source_of_nets_can_unpickle() -> None:
    """`torch.load`, `numpy.load` and their kind unpickle; nothing here may so much as name them."""
    folder = Path(torso.nets.__file__).parent
    forbidden = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jit"}
    sources = list(folder.rglob("*.py"))
    assert len(sources) > 10
    for source in sources:
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            names = set()
            if isinstance(node, ast.Import):
                names = {part for alias in node.names for part in alias.name.split(".")}
            elif isinstance(node, ast.ImportFrom):
                names = {*(node.module or "").split("."), *(alias.name for alias in node.names)}
            elif isinstance(node, ast.Attribute):
                names = {node.attr}
                loads = node.attr == "load" and isinstance(node.value, ast.Name) and node.value.id in ("torch", "np")
                assert not loads, f"{source.name}:{node.lineno} loads in a way that can unpickle"
            assert not names & forbidden, f"{source.name}: {names & forbidden}"


# -- any bytes at all --------------------------------------------------------------------------------------------------


fuzz = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


def mutated(draw: Callable[[Any], Any], whole: bytes) -> bytes:
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 6))] = draw(
            st.binary(max_size=6) | st.sampled_from([b"null", b"[]", b"-1", b"1e9"])
        )
    return bytes(data)


@fuzz
@given(st.data())
def test_any_bytes_as_a_card(classifier_directory: Path, saved: Path, data: st.DataObject) -> None:
    whole = (classifier_directory / "model.json").read_bytes()
    anything = data.draw(st.booleans())
    (saved / "model.json").write_bytes(data.draw(st.binary(max_size=50)) if anything else mutated(data.draw, whole))
    with suppress(ModelError):
        load(saved)


@fuzz
@given(st.data())
def test_any_bytes_as_weights_that_the_card_vouches_for(saved: Path, data: st.DataObject) -> None:
    tensors = safetensors.torch.save({"head.linear.bias": torch.zeros(2)})
    content = data.draw(st.binary(max_size=50)) if data.draw(st.booleans()) else mutated(data.draw, tensors)
    put_weights(saved, content)
    with pytest.raises(ModelDamagedError):
        load(saved)


# -- disks that fail ---------------------------------------------------------------------------------------------------


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()} if directory.exists() else {}


@pytest.mark.parametrize("room", [0, 1, 100, 300])
def test_on_a_full_disk_the_older_model_is_as_it_was(
    saved: Path, make_policy: MakeNetwork, room: int, largest_file: Callable[[int], AbstractContextManager[None]]
) -> None:
    before = contents(saved)
    assert all(len(data) > 300 for data in before.values())
    with largest_file(room), pytest.raises(StorageError, match="cannot write"):
        save_model(saved, make_policy(7), kind="policy", onnx=False)
    assert contents(saved) == before


def test_a_card_that_no_longer_fits_leaves_the_older_model_as_it_was(
    saved: Path, make_policy: MakeNetwork, largest_file: Callable[[int], AbstractContextManager[None]]
) -> None:
    before = contents(saved)
    room = len(before["weights.safetensors"])  # for weights, but not for a card of that provenance
    with largest_file(room), pytest.raises(StorageError, match=r"cannot write .*model\.json"):
        save_model(saved, make_policy(7), kind="policy", provenance={"notes": "n" * room}, onnx=False)
    assert contents(saved) == before


@pytest.mark.parametrize("room", [0, 100, 700])
def test_on_a_full_disk_a_first_save_leaves_nothing(
    tmp_path: Path, make_policy: MakeNetwork, room: int, largest_file: Callable[[int], AbstractContextManager[None]]
) -> None:
    with largest_file(room), pytest.raises(StorageError, match="cannot write"):
        save_model(tmp_path / "new", make_policy(), kind="policy", provenance={"notes": "n" * 700}, onnx=False)
    assert contents(tmp_path / "new") == {}


@pytest.mark.parametrize("below", ["file", "file/model", "file/model/below"])
def test_where_no_directory_can_be(tmp_path: Path, make_policy: MakeNetwork, below: str) -> None:
    (tmp_path / "file").write_text("a user's own")
    with pytest.raises(StorageError, match="cannot create the directory"):
        save_model(tmp_path / below, make_policy(), kind="policy", onnx=False)
    assert contents(tmp_path) == {"file": b"a user's own"}


def test_a_folder_in_the_cards_place(tmp_path: Path, make_policy: MakeNetwork) -> None:
    (tmp_path / "model.json").mkdir()
    with pytest.raises(StorageError, match=r"cannot write .*model\.json"):
        save_model(tmp_path, make_policy(), kind="policy", onnx=False)
    assert not list(tmp_path.glob(".*"))


def test_a_damaged_model_may_be_saved_over(saved: Path, make_policy: MakeNetwork) -> None:
    (saved / "model.json").write_bytes(b"{")
    save_model(saved, make_policy(7), kind="policy", onnx=False)
    assert weights_equal(load(saved), make_policy(7))


def test_two_networks_may_hold_the_same_numbers(tmp_path: Path) -> None:
    """Same weights, other meaning: the card alone changes."""
    network_input = InputSpec(shape=(4,))
    policy = build_network(
        NetworkSpec(input=network_input, torso=MLPSpec(hidden=()), head=ScalarHeadSpec(num_actions=2)),
        torch.Generator().manual_seed(0),
    )
    classifier = Network(NetworkSpec(input=network_input, torso=MLPSpec(hidden=()), head=LogitsHeadSpec(num_classes=2)))
    classifier.load_state_dict(policy.state_dict())
    save_model(tmp_path, policy, kind="policy", onnx=False)
    save_model(tmp_path, classifier, kind="classifier", labels=("no", "yes"), onnx=False)
    card, network = load_model(tmp_path)
    assert (card.kind, card.labels) == ("classifier", ("no", "yes"))
    assert weights_equal(network, policy)
