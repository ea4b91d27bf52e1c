"""Cache of exported ONNX files: exported once, never into the model's own directory."""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from torso.nets import ModelCard, Network, load_model
from torso.nets.specs.calibration import TemperatureScaling
from torso.serve.backends import export_cache
from torso.serve.backends.export_cache import cached_onnx, default_cache_dir
from torso.serve.backends.onnx_backend import OnnxBackend
from torso.serve.backends.selection import equal_readouts, probe_batch


@pytest.fixture
def plain(models: Any) -> tuple[ModelCard, Network]:
    return load_model(models.plain)


def get(model: tuple[ModelCard, Network], cache: Path) -> bytes:
    return cached_onnx(*model, Path("runs/plain"), cache)


def is_kept(cache: Path) -> list[Path]:
    return sorted(cache.iterdir())


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Record the real exporter's calls."""
    made: list[bytes] = []
    export = export_cache.onnx_bytes

    def counted(*arguments: Any) -> bytes:
        made.append(export(*arguments))
        return made[-1]

    monkeypatch.setattr(export_cache, "onnx_bytes", counted)
    return made


def test_an_export_is_made_once_and_names_its_weights(
    plain: tuple[ModelCard, Network], exports: list[bytes], models: Any, tmp_path: Path
) -> None:
    data = get(plain, tmp_path / "deep" / "cache")
    assert data == (models.plain / "model.onnx").read_bytes()
    [path] = is_kept(tmp_path / "deep" / "cache")
    assert path.name.startswith(plain[0].weights_sha256)
    assert path.read_bytes() == data
    assert get(plain, tmp_path / "deep" / "cache") == data
    assert len(exports) == 1


def test_a_damaged_file_is_exported_anew(
    plain: tuple[ModelCard, Network], exports: list[bytes], tmp_path: Path
) -> None:
    data = get(plain, tmp_path)
    [path] = is_kept(tmp_path)
    path.write_bytes(data[:99] + bytes([data[99] ^ 1]) + data[100:])
    assert get(plain, tmp_path) == data
    assert path.read_bytes() == data
    assert len(exports) == 2


def test_the_same_weights_in_another_network_are_another_file(
    plain: tuple[ModelCard, Network], models: Any, tmp_path: Path
) -> None:
    card, network = plain
    first = get(plain, tmp_path)
    scaled_input = dataclasses.replace(card.network.input, scale=0.5)
    scaled = dataclasses.replace(card, network=dataclasses.replace(card.network, input=scaled_input))
    other = Network(scaled.network).eval()
    other.load_state_dict(network.state_dict())
    second = cached_onnx(scaled, other, models.plain, tmp_path)
    probe = probe_batch(card.network.input, 4)
    assert not equal_readouts(OnnxBackend(first).run(probe)[0], OnnxBackend(second).run(probe)[0])
    assert len(is_kept(tmp_path)) == 2


def test_the_same_weights_with_another_calibration_are_another_file(
    plain: tuple[ModelCard, Network], models: Any, tmp_path: Path
) -> None:
    card, network = plain
    files = set()
    for temperature in (2.0, 3.0, None):
        calibration = None if temperature is None else TemperatureScaling(num_classes=2, temperature=temperature)
        calibrated = dataclasses.replace(card, calibration=calibration)
        assert cached_onnx(calibrated, network, models.plain, tmp_path) == cached_onnx(
            calibrated, network, models.plain, tmp_path
        )
        files.add(cached_onnx(calibrated, network, models.plain, tmp_path))
    assert len(files) == len(is_kept(tmp_path)) == 3


def test_a_full_disk_costs_a_warning(
    plain: tuple[ModelCard, Network],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    largest_file: Callable[[int], AbstractContextManager[None]],
) -> None:
    with largest_file(200), caplog.at_level(logging.WARNING):
        data = get(plain, tmp_path)
    assert OnnxBackend(data).run(probe_batch(plain[0].network.input, 3))[0].shape == (3, 2)
    assert "runs/plain has no model.onnx, and its export is made anew at every start: cannot write" in caplog.text
    assert is_kept(tmp_path) == []


def test_a_cache_that_cannot_be_costs_a_warning(
    plain: tuple[ModelCard, Network], models: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        assert get(plain, tmp_path / "file" / "cache") == (models.plain / "model.onnx").read_bytes()
    assert "made anew at every start" in caplog.text


def test_the_least_recently_used_files_go(
    plain: tuple[ModelCard, Network], models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_cache, "MAX_CACHED_FILES", 2)
    for age, name in enumerate(("new", "used", "old")):
        (tmp_path / f"{name}.onnx").write_bytes(b"")
        os.utime(tmp_path / f"{name}.onnx", (10_000 - age, 10_000 - age))
    (tmp_path / "theirs.txt").write_text("not ours")
    get(plain, tmp_path)
    [path] = tmp_path.glob(f"{plain[0].weights_sha256}*")
    assert is_kept(tmp_path) == sorted([path, tmp_path / "new.onnx", tmp_path / "theirs.txt"])
    os.utime(path, (1, 1))
    get(plain, tmp_path)  # it is used, so it is not the next to go
    get(load_model(models.cartpole), tmp_path)
    assert path.exists()
    assert not (tmp_path / "new.onnx").exists()


def test_the_cache_is_among_the_users_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert default_cache_dir() == tmp_path / ".cache" / "torso" / "onnx"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert default_cache_dir() == tmp_path / "x" / "torso" / "onnx"


def test_without_a_choice_the_users_cache_is_taken(
    plain: tuple[ModelCard, Network], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cached_onnx(*plain, Path("runs/plain"))
    assert len(is_kept(tmp_path / "torso" / "onnx")) == 1


def test_a_user_without_a_home_gets_a_warning(
    plain: tuple[ModelCard, Network], models: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with caplog.at_level(logging.WARNING):
        assert cached_onnx(*plain, Path("runs/plain")) == (models.plain / "model.onnx").read_bytes()
    assert "there is no home folder to store it in; choose a cache_dir" in caplog.text


def test_the_models_own_directory_is_only_read(models: Any, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(models.plain, tmp_path / "model", ignore=shutil.ignore_patterns("*.onnx")))
    before = sorted(file.name for file in directory.iterdir())
    cached_onnx(*load_model(directory), directory, tmp_path / "cache")
    assert sorted(file.name for file in directory.iterdir()) == before
