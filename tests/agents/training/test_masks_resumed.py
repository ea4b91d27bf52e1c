"""Runs resume where the env gives masks that it did not give when they were begun, and the other way round."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from torso.agents import DQN, DQNConfig, RunDirectory, Training, World, train_run
from torso.agents.replay.ring import ReplayRing
from torso.errors import CheckpointError

CONFIG = DQNConfig(
    hidden=(8,),
    double=True,
    n_step=2,
    num_envs=2,
    batch_size=8,
    min_replay_size=40,
    evaluation_period=100,
    evaluation_episodes=2,
    checkpoint_period=60,
)


class Gates(gym.Env[np.ndarray[Any, Any], np.int64]):
    """Observe the time; the action that equals it, modulo 3, is illegal, and ``has_masks`` whether infos say so."""

    has_masks = False

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(0, 9, (1,), np.float32)
        self.action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.time = 0
        return self.shown()

    def step(self, action: np.int64) -> Any:
        assert not self.has_masks or action != self.time % 3, "an illegal action"
        self.time += 1
        obs, info = self.shown()
        return obs, 1.0, self.time == 7, False, info

    def shown(self) -> Any:
        mask = np.arange(3) != self.time % 3
        return np.array([self.time], np.float32), {"action_mask": mask} if self.has_masks else {}


class StoppedError(Exception):
    pass


def train(out: Path, until: int, *, resume: bool = False) -> None:
    """Train up to 400 steps, or until it is killed."""

    def on_event(event: Any) -> None:
        if event.total_steps >= until:
            raise StoppedError

    train_run(World(env=Gates), CONFIG, total_steps=400, seed=0, out=out, resume=resume, on_event=on_event)


@pytest.mark.parametrize("before", [False, True])
def test_a_run_resumes_with_or_without_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bool) -> None:
    out = tmp_path / "run"
    monkeypatch.setattr(Gates, "has_masks", before)
    with pytest.raises(StoppedError):
        train(out, 200)
    monkeypatch.setattr(Gates, "has_masks", not before)
    with pytest.raises(StoppedError):  # its checkpoint has rows of both kinds, which resume too
        train(out, 320, resume=True)
    train(out, 10_000, resume=True)
    agent = DQN.load(out, Gates)
    with RunDirectory.open(out) as directory:
        replay = Training(agent.world, agent.config, seed=agent.seed, run=directory).session.replay
    assert replay.has_masks
    rows = replay.read_rows(0, replay.num_rows)
    all_legal = rows["mask"].all(dim=2)  # [rows, E]
    legal = torch.arange(3) != rows["obs"] % 3
    first = 80  # rows of two envs, of which both kinds have more
    with_masks, without = (slice(0, first), slice(-first, None)) if before else (slice(-first, None), slice(0, first))
    assert torch.equal(rows["mask"][with_masks], legal[with_masks])
    assert all_legal[without].all()


def rows_of(masks: bool) -> ReplayRing:
    ring = ReplayRing(capacity_steps=8, num_envs=1, shape=(1,), dtype="float32", num_actions=3 if masks else None)
    no, mask = np.zeros(1, bool), np.array([[True, False, True]])
    for time in range(5):
        ring.append(np.full((1, 1), time), np.zeros(1, np.int64), np.zeros(1), no, no, no, mask if masks else None)
    return ring


def test_rows_without_masks_allow_everything() -> None:
    ring = rows_of(masks=True)
    ring.write_rows(5, rows_of(masks=False).read_rows(0, 5))
    assert ring.read_rows(2, 10)["mask"].tolist() == [[[True, False, True]]] * 3 + [[[True] * 3]] * 5


def test_rows_of_other_fields_are_refused() -> None:
    rows = rows_of(masks=False).read_rows(0, 5)
    del rows["action"]
    for masks in (False, True):
        with pytest.raises(CheckpointError, match=r"replay rows must hold \['action', .*, got \['is_reset', "):
            rows_of(masks).write_rows(0, rows)


def test_rows_with_masks_keep_them_in_a_ring_without() -> None:
    ring = rows_of(masks=False)
    num_bytes = ring.num_bytes
    ring.write_rows(5, rows_of(masks=True).read_rows(0, 5))
    no = np.zeros(1, bool)
    ring.append(np.zeros((1, 1)), np.zeros(1, np.int64), np.zeros(1), no, no, no)
    assert ring.num_bytes > num_bytes
    assert ring.read_rows(3, 11)["mask"].tolist() == [[[True] * 3]] * 2 + [[[True, False, True]]] * 5 + [[[True] * 3]]
