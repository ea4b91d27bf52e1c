"""ONNX export: ``model.onnx`` equals torch, identifies its weights, and is ignored when it is stale or damaged."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from torso.errors import ModelError, StorageError
from torso.nets import (
    InputSpec,
    LogitsHeadSpec,
    MLPSpec,
    Network,
    NetworkSpec,
    OneVsRestHeadSpec,
    RegressionHeadSpec,
    ScalarHeadSpec,
    SigmoidHeadSpec,
    StepHeadSpec,
    TorchBackend,
    build_network,
    export_onnx,
    load_model,
    net_spec,
    onnx_path,
    read_card,
    register_torso,
    save_model,
)
from torso.nets.models.onnx_export import append_metadata
from torso.nets.specs.calibration import (
    CALIBRATION_METHODS,
    Calibration,
    IsotonicCalibration,
    PlattScaling,
    TemperatureScaling,
)

Array = np.ndarray[Any, Any]
MakeNetwork = Callable[..., Network]
IMAGES: dict[str, Any] = {"shape": (4, 84, 84), "layout": "chw"}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "mlp float32": ("mlp", {"shape": (6,), "mean": (1.0,) * 6, "std": (2.0,) * 6}),
    "mlp uint8": ("mlp", {"shape": (3, 5), "dtype": "uint8", "scale": 0.1}),
    "mlp int64 scalar": ("mlp", {"shape": (), "dtype": "int64"}),
    "mlp bool": ("mlp", {"shape": (4,), "dtype": "bool"}),
    "mlp float64": ("mlp", {"shape": (4,), "dtype": "float64"}),
    "cnn float32": ("cnn", {"shape": (12, 10, 3), "layout": "hwc", "mean": (0.5,) * 3, "std": (0.25,) * 3}),
    "cnn uint8": ("cnn", {"shape": (8, 8), "layout": "hw", "dtype": "uint8", "scale": 1 / 16}),
    "lenet float32": ("lenet", {"shape": (28, 28), "layout": "hw"}),
    "lenet uint8": ("lenet", {"shape": (28, 28), "layout": "hw", "dtype": "uint8", "scale": 1 / 255}),
    "nature float32": ("nature", {**IMAGES, "scale": 1 / 255}),
    "nature uint8": ("nature", {**IMAGES, "dtype": "uint8", "scale": 1 / 255}),
    "vgg uint8": ("vgg", {"shape": (28, 28), "layout": "hw", "dtype": "uint8", "scale": 1 / 255}),
}
HEADS: dict[str, Any] = {
    "sigmoid": SigmoidHeadSpec(),
    "step": StepHeadSpec(),
    "one-vs-rest": OneVsRestHeadSpec(num_classes=4),
    "regression": RegressionHeadSpec(num_targets=3, mean=(100.0, -0.5, 0.0), std=(30.0, 0.25, 1.0)),
    "one target": RegressionHeadSpec(num_targets=1),
    "dueling": ScalarHeadSpec(num_actions=4, dueling=True, hidden=(8,)),
}


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def inputs(spec: InputSpec, rows: int) -> Array:
    rng = np.random.default_rng(rows)
    if spec.numpy_dtype.kind == "f":
        return rng.normal(size=(rows, *spec.shape)).astype(spec.dtype) / spec.scale
    return rng.integers(2 if spec.dtype == "bool" else 256, size=(rows, *spec.shape)).astype(spec.dtype)


def assert_equal_answers(answers: Array, reference: Array) -> None:
    """Check DESIGN.md's "equal": values within rtol 1e-4 and atol 1e-5, the same best where the margin exceeds that."""
    assert answers.dtype == np.float32
    np.testing.assert_allclose(answers, reference, rtol=1e-4, atol=1e-5)
    second, best = np.sort(reference, axis=1)[:, -2:].T
    clear = best - second > 1e-5 + 1e-4 * np.abs(best)
    assert clear.mean() > 0.9, "the comparison should be of clear answers"
    assert np.array_equal(answers.argmax(axis=1)[clear], reference.argmax(axis=1)[clear])


def as_if_trained(network: Network) -> Network:
    """Set running statistics other than a batch norm's initial ones."""
    generator = torch.Generator().manual_seed(1)
    for name, statistic in network.named_buffers():
        if name.endswith("running_mean"):
            nn.init.normal_(statistic, std=0.1, generator=generator)
        if name.endswith("running_var"):
            nn.init.uniform_(statistic, 0.02, 0.2, generator=generator)
    return network


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Export a case's model directory, once."""
    made: dict[str, Path] = {}

    def make(case: str) -> Path:
        if case not in made:
            net, fields = CASES[case]
            network_input = InputSpec(**fields)
            head = LogitsHeadSpec(num_classes=10) if "lenet" in case else ScalarHeadSpec(num_actions=6)
            spec = NetworkSpec(input=network_input, torso=net_spec(net, network_input, dropout=0.2), head=head)
            network = as_if_trained(build_network(spec, torch.Generator().manual_seed(0)))
            made[case] = save_model(tmp_path_factory.mktemp("onnx") / "model", network.train(), kind=spec.kind)
        return made[case]

    return make


@pytest.mark.parametrize("case", CASES)
def test_onnx_gives_torchs_answers(exported: Callable[[str], Path], case: str) -> None:
    directory = exported(case)
    assert onnx_path(directory) == directory / "model.onnx"
    card, network = load_model(directory)
    onnx = session(directory / "model.onnx")
    assert [value.name for value in onnx.get_inputs()] == ["obs"]
    assert [value.name for value in onnx.get_outputs()] == ["readout"]
    for rows in (1, 2, 64):
        batch = inputs(card.network.input, rows)
        (answers,) = onnx.run(None, {"obs": batch})
        assert_equal_answers(answers, TorchBackend(network).run(batch)[0])


@pytest.mark.parametrize(
    "settings",
    [
        {"layer_norm": True, "activation": "tanh"},
        {"layer_norm": True, "layer_norm_kind": "channels"},
        {"layer_norm": True, "layer_norm_kind": "elements"},
        {"batch_norm": True, "activation": "gelu"},
        {"activation": "leaky_relu"},
        {"activation": "identity"},
    ],
)
def test_norms_and_activations_are_exported_too(tmp_path: Path, settings: dict[str, Any]) -> None:
    network_input = InputSpec(shape=(8, 8), layout="hw")
    torso = net_spec("cnn", network_input, **settings)
    spec = NetworkSpec(input=network_input, torso=torso, head=LogitsHeadSpec(num_classes=4))
    network = as_if_trained(build_network(spec, torch.Generator().manual_seed(0)))
    save_model(tmp_path, network, kind="classifier")
    batch = inputs(network_input, 16)
    assert_equal_answers(
        session(tmp_path / "model.onnx").run(None, {"obs": batch})[0], TorchBackend(network).run(batch)[0]
    )


@pytest.mark.parametrize("name", HEADS)
def test_every_heads_readout_is_exported(tmp_path: Path, name: str) -> None:
    network_input = InputSpec(shape=(3,))
    spec = NetworkSpec(input=network_input, torso=MLPSpec(hidden=()), head=HEADS[name])
    network = build_network(spec, torch.Generator().manual_seed(0), "xavier")
    save_model(tmp_path, network, kind=spec.kind)
    onnx = session(tmp_path / "model.onnx")
    for size in (1, 1000):  # sigmoids of logits of 1000 are 0 or 1 for a float32, and their logarithms must not be
        batch = inputs(network_input, 64) * np.float32(size)
        answers, reference = onnx.run(None, {"obs": batch})[0], TorchBackend(network).run(batch)[0]
        assert np.isfinite(reference).all()
        assert reference.shape == (64, spec.num_outputs)
        np.testing.assert_allclose(answers, reference, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(answers.argmax(axis=1), reference.argmax(axis=1))


def test_saving_leaves_the_network_in_training(tmp_path: Path, make_policy: MakeNetwork) -> None:
    network = make_policy().train()
    save_model(tmp_path, network, kind="policy")
    assert network.training


@pytest.fixture
def model(classifier_directory: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(classifier_directory, tmp_path / "model"))


def test_a_stale_onnx_is_ignored(model: Path, make_classifier: MakeNetwork) -> None:
    assert onnx_path(model) == model / "model.onnx"
    save_model(model, make_classifier(7), kind="classifier", onnx=False)
    assert (model / "model.onnx").exists()
    assert onnx_path(model) is None
    assert export_onnx(model) == model / "model.onnx"
    assert onnx_path(model) == model / "model.onnx"
    batch = inputs(load_model(model)[0].network.input, 8)
    assert_equal_answers(
        session(model / "model.onnx").run(None, {"obs": batch})[0], TorchBackend(make_classifier(7)).run(batch)[0]
    )


def test_an_onnx_of_other_input_statistics_is_ignored(tmp_path: Path) -> None:
    normalised = InputSpec(shape=(3,), mean=(0.0,) * 3, std=(1.0,) * 3)
    spec = NetworkSpec(input=normalised, torso=MLPSpec(hidden=()), head=ScalarHeadSpec(num_actions=2))
    network = build_network(spec, torch.Generator().manual_seed(0))
    network.set_input_statistics([1.0, -2.0, 30.0], [0.5, 2.0, 10.0])
    save_model(tmp_path, network, kind="policy")
    batch = inputs(normalised, 16)
    (answers,) = session(tmp_path / "model.onnx").run(None, {"obs": batch})
    assert_equal_answers(answers, TorchBackend(network).run(batch)[0])
    assert onnx_path(tmp_path) == tmp_path / "model.onnx"
    network.set_input_statistics([1.0, -2.0, 30.0], [0.5, 2.0, 9.0])
    save_model(tmp_path, network, kind="policy", onnx=False)
    assert onnx_path(tmp_path) is None


def test_an_onnx_stays_valid_when_only_the_card_changes(model: Path, make_classifier: MakeNetwork) -> None:
    save_model(model, make_classifier(), kind="classifier", labels=("x", "y", "z"), onnx=False)
    assert onnx_path(model) == model / "model.onnx"


def test_a_missing_or_foreign_onnx_is_none(model: Path, exported: Callable[[str], Path]) -> None:
    shutil.copy(exported("mlp bool") / "model.onnx", model / "model.onnx")
    assert onnx_path(model) is None
    (model / "model.onnx").unlink()
    assert onnx_path(model) is None
    (model / "model.onnx").mkdir()
    assert onnx_path(model) is None


def test_a_damaged_onnx_is_ignored(model: Path) -> None:
    path = model / "model.onnx"
    whole = path.read_bytes()
    for length in range(0, len(whole), 701):
        path.write_bytes(whole[:length])
        assert onnx_path(model) is None, f"cut to {length} bytes"
    for at in range(0, len(whole), 701):  # among them many in the weights, where the graph still loads
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        assert onnx_path(model) is None, f"a bit flipped at {at}"
    path.write_bytes(whole + b"\0")
    assert onnx_path(model) is None
    path.write_bytes(whole)
    assert onnx_path(model) == path


def test_what_an_onnx_says_of_itself(model: Path) -> None:
    import onnx

    whole = (model / "model.onnx").read_bytes()
    proto = onnx.load_model_from_string(whole)
    onnx.checker.check_model(proto)
    entries = {entry.key: entry.value for entry in proto.metadata_props}
    assert list(entries)[-3:] == ["torso.weights_sha256", "torso.graph_sha256", "torso.calibration_sha256"]
    assert entries["torso.weights_sha256"] == load_model(model)[0].weights_sha256
    del proto.metadata_props[-3:]
    assert append_metadata(proto.SerializeToString(deterministic=True), read_card(model)) == whole
    dimensions = proto.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in dimensions] == ["batch", 8, 8]


def described(directory: Path) -> dict[str, Any]:
    entries = session(directory / "model.onnx").get_modelmeta().custom_metadata_map
    found = {key.removeprefix("torso."): value for key, value in entries.items() if not key.endswith("_sha256")}
    return {key: value if key == "kind" else json.loads(value) for key, value in found.items()}


def test_an_onnx_describes_its_inputs_outputs_and_labels(
    tmp_path: Path, make_classifier: MakeNetwork, make_policy: MakeNetwork
) -> None:
    calibration = TemperatureScaling(num_classes=3, temperature=2.0)
    save_model(tmp_path / "c", make_classifier(), kind="classifier", labels=("é", 7, True), calibration=calibration)
    assert described(tmp_path / "c") == {
        "kind": "classifier",
        "labels": ["é", 7, True],
        "inputs": {"obs": "raw inputs, uint8 [batch, 8, 8]; the graph scales them"},
        "outputs": {
            "readout": "uncalibrated log-odds of each label; use the probabilities",
            "probabilities": "probability of each label, calibrated (temperature)",
        },
        "image": {
            **{"channels": 1, "height": 8, "width": 8, "polarity": "light-on-dark", "centring": "box"},
            "max_value": 16.0,
        },
    }
    save_model(tmp_path / "p", make_policy(), kind="policy", action_start=2)
    assert described(tmp_path / "p") == {
        "kind": "policy",
        "inputs": {"obs": "raw inputs, float32 [batch, 4]; the graph scales them"},
        "outputs": {"readout": "value of each action; the best is the argmax, counted from torso.action_start"},
        "action_start": 2,
    }


def identity_classifier(directory: Path, num_classes: int, calibration: Calibration | None, **options: Any) -> Path:
    """Save a model whose log-odds are its inputs."""
    head = LogitsHeadSpec(num_classes=num_classes)
    network = build_network(NetworkSpec(input=InputSpec(shape=(num_classes,)), torso=MLPSpec(hidden=()), head=head))
    with torch.no_grad():
        network.head.linear.weight.copy_(torch.eye(num_classes))
        network.head.linear.bias.zero_()
    return save_model(directory, network, kind="classifier", calibration=calibration, **options)


def calibrations(num_classes: int) -> dict[str, Calibration]:
    rng, maps = np.random.default_rng(0), 1 if num_classes == 2 else num_classes
    scores = [tuple(np.sort(3 * rng.normal(size=size))) for size in rng.integers(1, 7, maps)]
    values = [tuple(np.sort(rng.uniform(size=len(row))) * (index % 3 != 1)) for index, row in enumerate(scores)]
    slopes, intercepts = rng.uniform(0.2, 2, maps), rng.normal(size=maps)
    return {
        "temperature": TemperatureScaling(num_classes=num_classes, temperature=2.5),
        "platt": PlattScaling(num_classes=num_classes, slopes=tuple(slopes), intercepts=tuple(intercepts)),
        "isotonic": IsotonicCalibration(num_classes=num_classes, scores=tuple(scores), values=tuple(values)),
    }


@pytest.mark.parametrize("num_classes", [2, 3, 6])
@pytest.mark.parametrize("method", CALIBRATION_METHODS)
def test_a_calibration_is_part_of_the_graph(tmp_path: Path, method: str, num_classes: int) -> None:
    calibration = calibrations(num_classes)[method]
    directory = identity_classifier(tmp_path, num_classes, calibration)
    onnx = session(directory / "model.onnx")
    assert [value.name for value in onnx.get_outputs()] == ["readout", "probabilities"]
    rows = np.random.default_rng(1).normal(size=(64, num_classes)).astype(np.float32)
    for size in (1, 30, 1e4, 1e38, 0):
        batch = rows * np.float32(size)
        readout, probabilities = onnx.run(None, {"obs": batch})
        np.testing.assert_allclose(readout, batch, rtol=1e-6)
        assert probabilities.dtype == np.float32
        np.testing.assert_allclose(probabilities, calibration.apply(readout), rtol=1e-5, atol=1e-7)


def test_an_onnx_of_another_calibration_is_ignored(tmp_path: Path) -> None:
    first, second = (calibrations(3)[method] for method in ("temperature", "platt"))
    for exported, current in ((None, first), (first, second), (first, None)):
        identity_classifier(tmp_path, 3, exported)
        assert onnx_path(tmp_path) is not None
        identity_classifier(tmp_path, 3, current, onnx=False)
        assert onnx_path(tmp_path) is None
        export_onnx(tmp_path)
        assert onnx_path(tmp_path) is not None


def test_an_onnx_says_nothing_of_the_machine_that_exported_it(model: Path) -> None:
    whole = (model / "model.onnx").read_bytes()
    for trace in (b"site-packages", b".py", os.fsencode(Path(torch.__file__).parent), os.fsencode(Path.cwd())):
        assert trace not in whole


def test_exporting_again_gives_the_same_bytes_and_says_nothing(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = (model / "model.onnx").read_bytes()
    (model / "model.onnx").unlink()
    for name in ("model.onnx", "weights.safetensors", "weights.previous.safetensors", "model.json"):
        (model / f".{name}.0123abcd.tmp").write_bytes(b"left by a kill")
    export_onnx(model)
    assert (model / "model.onnx").read_bytes() == before
    assert not list(model.glob(".*"))
    assert capfd.readouterr() == ("", "")


def test_a_network_in_memory_is_exported_where_it_is_what_was_saved(tmp_path: Path, make_policy: MakeNetwork) -> None:
    network = make_policy().train()
    save_model(tmp_path, network, kind="policy", onnx=False)
    path = export_onnx(tmp_path, network)
    in_memory = path.read_bytes()
    assert network.training
    assert export_onnx(tmp_path).read_bytes() == in_memory
    with torch.no_grad():
        next(network.parameters()).add_(1.0)  # it has learnt on since
    assert export_onnx(tmp_path, network).read_bytes() == in_memory
    assert onnx_path(tmp_path) == path


def test_a_run_directory_may_be_exported(tmp_path: Path, classifier_directory: Path) -> None:
    shutil.copytree(classifier_directory, tmp_path / "best", ignore=shutil.ignore_patterns("model.onnx"))
    assert export_onnx(tmp_path) == tmp_path / "best" / "model.onnx"
    assert onnx_path(tmp_path / "best") is not None


def test_a_full_disk_leaves_no_half_an_onnx(
    model: Path, largest_file: Callable[[int], AbstractContextManager[None]]
) -> None:
    before = {path.name: path.read_bytes() for path in model.iterdir()}
    with largest_file(2000), pytest.raises(StorageError, match=r"cannot write .*model\.onnx"):
        export_onnx(model)
    assert {path.name: path.read_bytes() for path in model.iterdir()} == before


@dataclass(frozen=True)
class StrangeSpec:
    """Specification of features that torch can compute and ONNX cannot."""

    how: str


class Strange(nn.Module):
    num_features = 4

    def __init__(self, spec: StrangeSpec, _input_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.how = spec.how

    def forward(self, x: Tensor, state: Any, _generator: Any) -> tuple[Tensor, Any]:
        if self.how == "an operation":
            return torch.special.bessel_j0(x), state
        return (x if float(x.sum()) > 0 else -x), state


@pytest.mark.usefixtures("registries")
@pytest.mark.parametrize("how", ["an operation", "a branch on data"])
def test_a_network_that_onnx_cannot_express_is_saved_without(tmp_path: Path, how: str) -> None:
    register_torso("strange", StrangeSpec, Strange)
    spec = NetworkSpec(input=InputSpec(shape=(4,)), torso=StrangeSpec(how), head=ScalarHeadSpec(num_actions=2))
    network = build_network(spec, torch.Generator().manual_seed(0))
    with pytest.raises(ModelError, match=r"cannot export .* to ONNX") as caught:
        save_model(tmp_path, network, kind="policy")
    assert str(caught.value).isprintable()  # one line, no escape codes
    assert load_model(tmp_path)[0].network == spec
    assert onnx_path(tmp_path) is None
