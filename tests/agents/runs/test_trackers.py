"""Trackers: after a resume every figure is logged once, whatever was written when the process died."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboardX.proto.event_pb2 import Event

from torso.agents.runs.trackers import PROGRESS, TIMING, Tracker, read_jsonl
from torso.errors import CheckpointError, StorageError

Limit = Callable[[int], AbstractContextManager[None]]


def events(directory: Path) -> list[Event]:
    """Read TensorBoard's records by their format: length, its CRC, data, its CRC."""
    found = []
    for path in sorted(directory.iterdir(), key=lambda path: path.stat().st_mtime_ns):
        data = path.read_bytes()
        while data:
            size = int.from_bytes(data[:8], "little")
            found.append(Event.FromString(data[12 : 12 + size]))
            data = data[16 + size :]
    return found


def test_figures_and_times_are_apart(tmp_path: Path) -> None:
    times = iter([100.0, 102.0, 104.0])
    with Tracker(tmp_path / "run", clock=lambda: next(times)) as tracker:
        tracker.log(10, {"loss": 0.5, "episode_return": np.float32(2.5)})
        tracker.log(30, {"loss": torch.tensor(0.25), "best": float("nan")})
    assert read_jsonl(tmp_path / "run" / PROGRESS) == [
        {"step": 10, "loss": 0.5, "episode_return": 2.5},
        {"step": 30, "loss": 0.25, "best": None},
    ]
    assert read_jsonl(tmp_path / "run" / TIMING) == [
        {"step": 10, "elapsed_s": 2.0, "steps_per_s": 5.0},
        {"step": 30, "elapsed_s": 4.0, "steps_per_s": 10.0},
    ]


def test_an_evaluation_has_the_speed_of_the_steps_before_it(tmp_path: Path) -> None:
    now = [0.0]
    with Tracker(tmp_path / "run", clock=lambda: now[0]) as tracker:
        tracker.log(0, {"evaluation_return": 1.0})  # nothing is known yet
        for step in (10, 20):
            now[0] += 2
            tracker.log(step, {"loss": 0.5})
            with tracker.not_stepping():
                now[0] += 100
            tracker.log(step, {"evaluation_return": 1.0})
        now[0] += 1
        with tracker.not_stepping():
            now[0] += 50
        now[0] += 1
        tracker.log(40, {"evaluation_return": 1.0})
    lines = read_jsonl(tmp_path / "run" / TIMING)
    assert [line.get("steps_per_s") for line in lines] == [None, 5.0, 5.0, 5.0, 5.0, 10.0]
    assert [line["elapsed_s"] for line in lines] == [0.0, 2.0, 102.0, 104.0, 204.0, 256.0]


def test_tensorboard_gets_the_same_scalars(tmp_path: Path) -> None:
    with Tracker(tmp_path) as tracker:
        tracker.log(10, {"loss": 0.5, "note": "not a number"})
    scalars = {
        (event.step, value.tag): value.simple_value
        for event in events(tmp_path / "tensorboard")
        for value in event.summary.value
    }
    assert scalars.keys() == {(10, "loss"), (10, "elapsed_s"), (10, "steps_per_s")}
    assert scalars[10, "loss"] == 0.5


@pytest.mark.parametrize("torn", [b"", b'{"step": 40, "lo', b'{"step": 40, "loss": 4.0}\n{"st'])
def test_a_resume_drops_what_came_after_the_checkpoint(tmp_path: Path, torn: bytes) -> None:
    with Tracker(tmp_path) as tracker:
        tracker.log(10, {"loss": 1.0})
        tracker.log(20, {"loss": 2.0})
        position = json.loads(json.dumps(tracker.position()))
        tracker.log(30, {"loss": 3.0})
    for name in (PROGRESS, TIMING):
        with (tmp_path / name).open("ab") as file:
            file.write(torn)
    with Tracker(tmp_path, position) as tracker:
        assert tracker.elapsed_s >= position["elapsed_s"]
        tracker.log(30, {"loss": 3.5})
    assert [line["loss"] for line in read_jsonl(tmp_path / PROGRESS)] == [1.0, 2.0, 3.5]
    assert [line["step"] for line in read_jsonl(tmp_path / TIMING)] == [10, 20, 30]
    starts = [event.step for event in events(tmp_path / "tensorboard") if event.HasField("session_log")]
    assert starts == [21]


def test_a_run_that_starts_over_starts_with_empty_logs(tmp_path: Path) -> None:
    with Tracker(tmp_path) as tracker:
        tracker.log(10, {"loss": 1.0})
    with Tracker(tmp_path) as tracker:
        tracker.log(10, {"loss": 2.0})
    assert read_jsonl(tmp_path / PROGRESS) == [{"step": 10, "loss": 2.0}]
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2  # within one second, and none overwritten


def test_a_log_shorter_than_the_checkpoint_is_damaged(tmp_path: Path) -> None:
    with Tracker(tmp_path) as tracker:
        tracker.log(10, {"loss": 1.0})
        position = tracker.position()
    (tmp_path / PROGRESS).write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"progress\.jsonl is damaged"):
        Tracker(tmp_path, position)


def test_a_torn_line_is_not_read(tmp_path: Path) -> None:
    (tmp_path / PROGRESS).write_text('{"step": 1}\n{"step": 2')
    assert read_jsonl(tmp_path / PROGRESS) == [{"step": 1}]
    assert read_jsonl(tmp_path / "absent.jsonl") == []


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(StorageError, match="run"):
        Tracker(tmp_path / "run")


def test_a_full_disk_is_a_storage_error_and_the_log_can_be_resumed(tmp_path: Path, largest_file: Limit) -> None:
    tracker = Tracker(tmp_path)
    tracker.log(10, {"loss": 1.0})
    position = tracker.position()
    with largest_file(position["progress_bytes"] + 5):
        with pytest.raises(StorageError, match="cannot write"):
            tracker.log(20, {"loss": 2.0})
        with pytest.raises(StorageError, match="cannot write"):
            tracker.close()
    with Tracker(tmp_path, position) as tracker:
        tracker.log(20, {"loss": 2.5})
    assert [line["loss"] for line in read_jsonl(tmp_path / PROGRESS)] == [1.0, 2.5]


def test_closing_twice_is_fine(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path)
    tracker.close()
    tracker.close()
