"""A replay on the ``meta`` device: storing, sampling and new priorities read no value and wait for no copy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from host_transfers import HostTransferError, refuse_host_transfers

from torso.agents import DQNConfig
from torso.agents.protocols import Due, StepRows
from torso.agents.replay.ring import ReplayRing
from torso.agents.replay.transitions import Transitions
from torso.agents.value_based.assembly import transitions_of

META = torch.device("meta")
ENVS, ACTIONS = 2, 3
OBSERVATIONS: dict[str, dict[str, Any]] = {
    "vectors": {"shape": (5,), "dtype": "float32"},
    "unsigned numbers": {"shape": (5,), "dtype": "uint16"},
    "one-hot places": {"shape": (5,), "dtype": "float32", "one_hot_places": ((0, 3),)},
    "one-hot places alone": {"shape": (4,), "dtype": "int64", "is_one_hot": True, "one_hot_places": ((0, 2), (2, 2))},
    "stacks": {"shape": (4, 6, 6), "dtype": "uint8", "frame_stack": 4},
}


def transitions(observations: dict[str, Any], *, masks: bool = False, **settings: Any) -> Transitions:
    config = DQNConfig(
        num_envs=ENVS, batch_size=4, updates_per_phase=2, min_replay_size=20, replay_capacity=40, **settings
    )
    ring = ReplayRing(
        capacity_steps=40, num_envs=ENVS, device=META, num_actions=ACTIONS if masks else None, **observations
    )
    return transitions_of(config, ring, torch.Generator())  # the CPU's: meta has none


def rows_of(observations: dict[str, Any], *, masks: bool) -> StepRows:
    obs = np.zeros((ENVS, *observations["shape"]), observations["dtype"])
    for first, _ in observations.get("one_hot_places", ()):
        obs[:, first] = 1
    false, zeros = np.zeros(ENVS, bool), np.zeros(ENVS, np.int64)
    mask = np.ones((ENVS, ACTIONS), bool) if masks else None
    return StepRows(obs, zeros, np.zeros(ENVS), false, false, false, mask, obs)


@pytest.mark.parametrize("observations", OBSERVATIONS.values(), ids=OBSERVATIONS)
@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("prioritized", [False, True], ids=["uniform", "prioritized"])
@pytest.mark.parametrize("masks", [False, True], ids=["all legal", "masks"])
def test_a_replay_waits_for_nothing(observations: dict[str, Any], n_step: int, prioritized: bool, masks: bool) -> None:
    """Rows come from the host, and their upload is the one exception; it does not block."""
    rescaled = {"clip_rewards": True, "normalise_rewards": True} if masks else {}
    experience = transitions(observations, masks=masks, n_step=n_step, prioritized=prioritized, **rescaled)
    rows = rows_of(observations, masks=masks)
    with refuse_host_transfers(ReplayRing.append):
        for step in range(50):  # the ring has 20 rows: it wraps around
            experience.append(rows)
            if step >= 10:
                batch = experience.sample(Due(step, step, phases=1))
                experience.feedback(batch, torch.empty(8, device=META))
        experience.cut(rows.obs, rows.mask)
        experience.break_off()
    assert batch.s_t.shape == (8, *observations["shape"])
    assert str(batch.s_t.dtype) == f"torch.{observations['dtype']}"
    assert all(tensor.is_meta for tensor in (*batch[:6], *batch.sample))
    assert (batch.mask_t is not None) == masks


def test_rows_cannot_be_stored_without_a_copy() -> None:
    experience = transitions(OBSERVATIONS["vectors"])
    with refuse_host_transfers(), pytest.raises(HostTransferError, match="CPU"):
        experience.append(rows_of(OBSERVATIONS["vectors"], masks=False))
