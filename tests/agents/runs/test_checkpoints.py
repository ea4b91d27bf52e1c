"""Checkpoints: exact round trips, no partial save is ever loaded, and a save writes only what is new."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torso.agents.runs.checkpoints import Checkpoint, CheckpointStore, Segment, plan_segments
from torso.errors import CheckpointError, StorageError

Limit = Callable[[int], AbstractContextManager[None]]

TENSORS = {
    "weights": torch.arange(6.0).reshape(2, 3),
    "half": torch.tensor([1.5, -2.25], dtype=torch.bfloat16),
    "count": torch.tensor(7),
    "mask": torch.tensor([True, False]),
    "frames": torch.arange(8, dtype=torch.uint8),
    "nothing": torch.empty(0, 4),
}
STATE = {"epsilon": 0.1 + 0.2, "rng": 2**127 + 1, "names": ["a", None], "worst": float("-inf")}


def segment(start: int, stop: int) -> Segment:
    return Segment(start_row=start, stop_row=stop, read=lambda: {"row": torch.arange(start, stop)})


def unread(start: int, stop: int) -> Segment:
    def read() -> dict[str, torch.Tensor]:
        raise AssertionError("a segment on disk is read again")

    return Segment(start_row=start, stop_row=stop, read=read)


def loaded(store: CheckpointStore) -> Checkpoint:
    checkpoint = store.load()
    assert checkpoint is not None
    return checkpoint


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "run" / "checkpoint")
    assert store.load() is None
    store.save(12, STATE, TENSORS)
    checkpoint = loaded(store)
    assert (checkpoint.step, checkpoint.state, checkpoint.rows) == (12, STATE, ())
    assert checkpoint.tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert checkpoint.tensors[name].dtype == tensor.dtype
        assert torch.equal(checkpoint.tensors[name], tensor)


def test_views_and_shared_tensors_are_saved(tmp_path: Path) -> None:
    matrix = torch.arange(12.0).reshape(3, 4)
    CheckpointStore(tmp_path).save(0, {}, {"a": matrix, "b": matrix, "t": matrix.T, "row": matrix[1]})
    tensors = loaded(CheckpointStore(tmp_path)).tensors
    assert torch.equal(tensors["a"], matrix)
    assert torch.equal(tensors["b"], matrix)
    assert torch.equal(tensors["t"], matrix.T)
    assert torch.equal(tensors["row"], matrix[1])


def test_only_the_latest_is_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    for step in range(3):
        store.save(step, {"step": step}, {"step": torch.tensor(step)})
    assert loaded(store).state == {"step": 2}
    assert len(names(tmp_path)) == 3  # state, tensors, latest.json


def test_the_same_step_can_be_saved_twice(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    assert store.step is None
    store.save(5, {"try": 1}, {})
    CheckpointStore(tmp_path).save(5, {"try": 2}, {})
    assert loaded(store).state == {"try": 2}
    assert store.step == 5


def test_segments_are_written_once_and_dropped_when_no_longer_named(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    store.save(10, {}, {}, [segment(0, 6), segment(6, 10)])
    before = (tmp_path / "rows-000000000006-000000000010.safetensors").stat().st_mtime_ns
    store.save(14, {}, {}, [unread(6, 10), segment(10, 14)])
    assert store.rows == ((6, 10), (10, 14))
    assert (tmp_path / "rows-000000000006-000000000010.safetensors").stat().st_mtime_ns == before
    assert not (tmp_path / "rows-000000000000-000000000006.safetensors").exists()
    read = [(start, stop, tensors["row"].tolist()) for start, stop, tensors in loaded(store).segments()]
    assert read == [(6, 10, [6, 7, 8, 9]), (10, 14, [10, 11, 12, 13])]


def test_a_segment_left_by_an_interrupted_save_is_written_anew(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    store.save(1, {}, {})
    (tmp_path / "rows-000000000000-000000000003.safetensors").write_bytes(b"left over")
    store.save(3, {}, {}, [segment(0, 3)])
    assert [tensors["row"].tolist() for _, _, tensors in loaded(store).segments()] == [[0, 1, 2]]


def test_leftovers_are_ignored_and_swept_but_not_what_a_user_put_there(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    store.save(1, {"step": 1}, {})
    left = {"000009-state.json", "000009-tensors.safetensors", ".latest.json.0a1b2c3d.tmp"}
    for name in {*left, "notes.txt"}:
        (tmp_path / name).write_bytes(b"{")
    assert loaded(store).state == {"step": 1}
    store.save(2, {}, {})
    assert names(tmp_path) & left == set()
    assert "notes.txt" in names(tmp_path)


@pytest.mark.parametrize("harm", ["missing", "truncated", "altered", "longer"])
@pytest.mark.parametrize("kind", ["state.json", "tensors.safetensors", "rows-000000000000-000000000004.safetensors"])
def test_a_damaged_file_is_named(tmp_path: Path, kind: str, harm: str) -> None:
    store = CheckpointStore(tmp_path)
    store.save(4, {"a": 1}, {"w": torch.ones(3)}, [segment(0, 4)])
    (path,) = (path for path in tmp_path.iterdir() if path.name.endswith(kind))
    data = path.read_bytes()
    if harm == "missing":
        path.unlink()
    else:
        path.write_bytes({"truncated": data[:-1], "altered": data[:-1] + b"!", "longer": data + b"!"}[harm])
    with pytest.raises(CheckpointError, match=path.name):
        list(loaded(store).segments())


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", "null", '{"serial": 0, "step": 1, "files": {}, "segments": [], "state": [], "tensors": {}}'],
)
def test_a_damaged_commit_point_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "latest.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"latest\.json is damaged"):
        CheckpointStore(tmp_path).load()


def test_a_commit_point_that_names_files_elsewhere_is_refused(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoint")
    store.save(1, {}, {})
    path = tmp_path / "checkpoint" / "latest.json"
    path.write_text(path.read_text().replace("000000-state.json", "../000000-state.json"))
    with pytest.raises(CheckpointError, match=r"latest\.json is damaged"):
        store.load()


def test_a_newer_format_says_so(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    store.save(1, {}, {})
    latest = json.loads((tmp_path / "latest.json").read_bytes())
    (tmp_path / "latest.json").write_text(json.dumps({**latest, "format_version": 99}))
    with pytest.raises(CheckpointError, match="update torso"):
        store.load()


@pytest.mark.parametrize("limit", [0, 40, 250])
def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path: Path, largest_file: Limit, limit: int) -> None:
    store = CheckpointStore(tmp_path)
    store.save(1, {"step": 1}, TENSORS, [segment(0, 4)])
    before = names(tmp_path)
    with largest_file(limit), pytest.raises(StorageError):
        store.save(2, {"step": 2}, {"big": torch.ones(1000)}, [segment(0, 4), segment(4, 8)])
    assert names(tmp_path) == before
    assert loaded(store).state == {"step": 1}
    assert [start for start, _, _ in loaded(store).segments()] == [0]


def test_a_path_that_cannot_be_a_directory(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").write_text("a file")
    store = CheckpointStore(tmp_path / "checkpoint")
    assert store.load() is None
    with pytest.raises(StorageError, match="checkpoint"):
        store.save(1, {}, {})
    assert (tmp_path / "checkpoint").read_text() == "a file"


# Forks a child for every file operation of a save; the child is killed right before it. What is left must load as the
# old checkpoint or the new one, whole, and the next save must leave no leftovers.
KILLED_EVERYWHERE = """
import os, signal, sys
from pathlib import Path
import torch
from torso.agents.runs.checkpoints import CheckpointStore, Segment

torch.set_num_threads(1)
root = Path(sys.argv[1])

def save(store, step, start, stop):
    rows = [(row, row + 2) for row in range(start, stop, 2)]
    segments = [Segment(start_row=a, stop_row=b, read=lambda a=a, b=b: {"row": torch.arange(a, b)}) for a, b in rows]
    store.save(step, {"step": step}, {"step": torch.tensor(step)}, segments)

def check(store):
    checkpoint = store.load()
    assert checkpoint is not None
    assert checkpoint.state["step"] == checkpoint.tensors["step"].item() == checkpoint.step
    rows = torch.cat([tensors["row"] for _, _, tensors in checkpoint.segments()]).tolist()
    assert rows == (list(range(0, 8)) if checkpoint.step == 1 else list(range(4, 12)))
    return checkpoint.step

found, operation, finished = [], 0, False
while not finished:
    store = CheckpointStore(root / str(operation))
    save(store, 1, 0, 8)
    pid = os.fork()
    if pid == 0:
        left = [operation]
        def kill_at(event, arguments):
            if event in ("open", "os.rename", "os.remove"):
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(kill_at)
        save(store, 2, 4, 12)
        os._exit(0)
    finished = os.waitpid(pid, 0)[1] == 0
    found.append(check(store))
    save(store, 2, 4, 12)
    assert check(store) == 2
    assert len(list(store.directory.iterdir())) == 3 + 4, sorted(store.directory.iterdir())
    operation += 1
print(*found)
"""


def test_killed_before_every_file_operation_of_a_save(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED_EVERYWHERE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    steps = [int(step) for step in done.stdout.split()]
    assert steps == sorted(steps)  # the old one up to the commit, the new one from there on
    assert steps.count(1) > 10
    assert steps.count(2) > 3


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    capacity=st.integers(1, 60),
    max_rows=st.integers(1, 25),
)
def test_planned_segments_cover_the_ring_and_keep_what_is_on_disk(
    sizes: list[int], capacity: int, max_rows: int
) -> None:
    on_disk: list[tuple[int, int]] = []
    stop = 0
    for size in sizes:
        stop += size
        first = max(0, stop - capacity)
        planned = plan_segments(on_disk, first, stop, max_rows)
        covered = [row for start, end in planned for row in range(start, end)]
        assert covered == sorted(set(covered))
        assert set(range(first, stop)) <= set(covered)
        assert set(planned) & set(on_disk) == {rows for rows in on_disk if rows[1] > first}
        assert all(rows in on_disk or first <= rows[0] < rows[1] <= min(rows[0] + max_rows, stop) for rows in planned)
        on_disk = planned
