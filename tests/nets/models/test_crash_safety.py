"""Crash safety: a save that is interrupted anywhere, or read concurrently, leaves a directory that loads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from torso.errors import StorageError, TorsoError
from torso.files import atomic_write_bytes, atomic_write_json, make_directory
from torso.nets import Network, load, load_model, save_model

MakeNetwork = Callable[..., Network]


def test_a_save_killed_at_any_step_leaves_the_old_model_or_the_new_one(tmp_path: Path) -> None:
    script = Path(__file__).with_name("killed_saves.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["wrong"] == []
    assert report["outcomes"] == {"nothing": ["", "b"], "a": ["a", "b"]}
    assert report["kinds"] >= 8, "the kills should have left directories of several kinds"
    assert report["kills"] >= 100


def test_every_load_succeeds_while_another_thread_saves(tmp_path: Path, make_policy: MakeNetwork) -> None:
    networks = {seed: make_policy(seed, hidden=(64, 64)) for seed in range(5)}
    save_model(tmp_path, networks[0], kind="policy", provenance={"seed": 0}, onnx=False)
    finished = threading.Event()
    errors: list[BaseException] = []

    def save_again_and_again() -> None:
        try:
            for turn in range(150):
                seed = turn % 5
                save_model(tmp_path, networks[seed], kind="policy", provenance={"seed": seed}, onnx=False)
        except TorsoError as error:
            errors.append(error)
        finally:
            finished.set()

    saver = threading.Thread(target=save_again_and_again)
    saver.start()
    seen = set()
    try:
        while not finished.is_set():
            card, network = load_model(tmp_path)
            expected = networks[card.provenance["seed"]].state_dict()
            assert all(torch.equal(tensor, expected[name]) for name, tensor in network.state_dict().items())
            seen.add(card.provenance["seed"])
    finally:
        saver.join()
    assert errors == []
    assert len(seen) > 1, "no save fell between two loads"


def test_an_interrupt_leaves_nothing_half_written(
    tmp_path: Path, make_policy: MakeNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(tmp_path, make_policy(1), kind="policy", onnx=False)

    def interrupted(_descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_model(tmp_path, make_policy(2), kind="policy", onnx=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "weights.safetensors"]
    assert torch.equal(load(tmp_path).state_dict()["head.linear.bias"], make_policy(1).state_dict()["head.linear.bias"])


@pytest.mark.parametrize("step", range(1, 7))
def test_a_disk_that_fails_at_any_sync_leaves_one_model_and_no_leftovers(
    tmp_path: Path, make_policy: MakeNetwork, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Each of the three files is synced, and so is its directory after it: six steps in all."""
    save_model(tmp_path, make_policy(1), kind="policy", provenance={"seed": 1}, onnx=False)
    left = step
    fsync = os.fsync

    def failing(descriptor: int) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise OSError(5, "Input/output error")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(StorageError, match="Input/output error"):
        save_model(tmp_path, make_policy(2), kind="policy", provenance={"seed": 2}, onnx=False)
    monkeypatch.undo()
    card, _ = load_model(tmp_path)
    assert card.provenance["seed"] == (2 if step == 6 else 1)  # at the last, the new card has landed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "weights.safetensors"]


def test_a_file_system_that_cannot_sync_directories_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def picky(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):  # noqa: PTH112
            raise OSError(22, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", picky)
    atomic_write_bytes(tmp_path / "file", b"whole")
    assert (tmp_path / "file").read_bytes() == b"whole"


# -- the writes themselves ---------------------------------------------------------------------------------------------


def test_an_atomic_write_replaces_what_was_there(tmp_path: Path) -> None:
    for content in (b"first", b"second, longer", b""):
        atomic_write_bytes(tmp_path / "file", content)
        assert (tmp_path / "file").read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_json_is_written_for_people_and_without_nan(tmp_path: Path) -> None:
    atomic_write_json(tmp_path / "file.json", {"größe": [1, None]})
    assert (tmp_path / "file.json").read_text(encoding="utf-8") == '{\n  "größe": [\n    1,\n    null\n  ]\n}\n'
    with pytest.raises(ValueError, match="JSON compliant"):
        atomic_write_json(tmp_path / "file.json", {"loss": float("nan")})
    assert "größe" in (tmp_path / "file.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", ["nowhere/file", "blocked/file", "folder"])
def test_a_write_that_cannot_be(tmp_path: Path, path: str) -> None:
    (tmp_path / "blocked").write_bytes(b"mine")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match=f"cannot write .*{path}"):
        atomic_write_bytes(tmp_path / path, b"data")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["blocked", "folder"]
    assert (tmp_path / "blocked").read_bytes() == b"mine"


def test_directories_are_made_with_their_parents(tmp_path: Path) -> None:
    assert make_directory(tmp_path / "a" / "b").is_dir()
    assert make_directory(str(tmp_path / "a")) == tmp_path / "a"
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot create the directory"):
        make_directory(tmp_path / "file" / "below")
