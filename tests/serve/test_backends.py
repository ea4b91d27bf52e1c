from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from torso.errors import ModelDamagedError, ServerError
from torso.nets import InputSpec, TorchBackend, load_model
from torso.serve.backends import OnnxBackend, choose_backend, equal_readouts, probe_batch


def choose(directory: Path, choice: str = "auto") -> str:
    card, network = load_model(directory)
    return choose_backend(directory, card, network, choice).name


def copied(directory: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(directory, tmp_path / "model"))


def alter_weights(path: Path) -> None:
    """Shift every float in a model.onnx, which goes on saying whose weights it holds."""
    model = onnx.load_model(path)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            values = onnx.numpy_helper.to_array(tensor) + np.float32(0.01)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save_model(model, path)


@pytest.mark.parametrize("name", ["digits", "cartpole", "frames"])
@pytest.mark.parametrize("rows", [1, 64])
def test_onnx_runtime_gives_torchs_answers(models: object, name: str, rows: int) -> None:
    directory: Path = getattr(models, name)
    card, network = load_model(directory)
    backend = choose_backend(directory, card, network)
    assert backend.name == "onnx"
    probe = probe_batch(card.network.input, rows)
    answers = backend.run(probe)
    assert answers.dtype == np.float32
    assert equal_readouts(answers, TorchBackend(network).run(probe))


def test_torch_is_taken_where_it_is_asked_for(models: object) -> None:
    assert choose(models.digits, "torch") == "torch"


def test_without_a_model_onnx_torch_serves(models: object, tmp_path: Path) -> None:
    directory = copied(models.digits, tmp_path)
    (directory / "model.onnx").unlink()
    assert choose(directory) == "torch"
    with pytest.raises(ServerError, match=r"no model\.onnx of its weights: run `torso export"):
        choose(directory, "onnx")


def test_a_model_onnx_of_other_answers_is_not_served(
    models: object, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = copied(models.digits, tmp_path)
    alter_weights(directory / "model.onnx")
    with caplog.at_level(logging.WARNING):
        assert choose(directory) == "torch"
    assert "torch serves: model.onnx does not give torch's answers" in caplog.text
    with pytest.raises(ModelDamagedError, match="does not give torch's answers"):
        choose(directory, "onnx")


def test_a_damaged_model_onnx_is_a_named_error(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\x08\x07 no graph in here")
    with pytest.raises(ModelDamagedError, match=r"model\.onnx cannot be loaded by ONNX Runtime"):
        OnnxBackend(tmp_path / "model.onnx")


def test_what_equal_means() -> None:
    reference = np.array([[1.0, 2.0, 3.0], [1.0, 1.0, 0.5]], dtype=np.float32)
    assert equal_readouts(reference, reference)
    assert equal_readouts(reference * np.float32(1 + 5e-5), reference)
    assert not equal_readouts(reference * np.float32(1 + 5e-4), reference)
    assert not equal_readouts(reference[:1], reference)
    tie = reference + np.float32([[0, 0, 0], [0, 5e-6, 0]])  # another best, but within the tolerance
    assert equal_readouts(tie, reference)
    assert equal_readouts(np.float32([[1.0]]), np.float32([[1.0]]))
    assert not equal_readouts(np.float32([[np.nan, 1.0]]), np.float32([[1.0, 0.0]]))


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int8", "int64", "float16", "float32", "float64"])
def test_a_probe_is_varied_and_the_same_every_time(dtype: str) -> None:
    spec = InputSpec(shape=(50,), dtype=dtype)
    probe = probe_batch(spec, 4)
    assert probe.shape == (4, 50)
    assert probe.dtype == np.dtype(dtype)
    assert len(np.unique(probe)) > 1
    assert np.array_equal(probe, probe_batch(spec, 4))
