"""Training ticks on the ``meta`` device: after the actions, no algorithm's tick waits for the device."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from host_transfers import HostTransferError, refuse_host_transfers

from torso.agents import DQNConfig
from torso.agents.protocols import StepRows
from torso.agents.replay.ring import ReplayRing
from torso.agents.runs.events import Tick
from torso.agents.training.figures import TrainingFigures
from torso.agents.value_based.algorithms import algorithm_names
from torso.agents.value_based.assembly import transitions_of
from torso.agents.value_based.learner import DQNLearner
from torso.agents.value_based.network import q_network_spec
from torso.errors import ConfigError
from torso.nets import InputSpec, build_network

META = torch.device("meta")
FEATURES, ACTIONS, ENVS = 5, 3, 2


@pytest.mark.parametrize("name", algorithm_names())
def test_no_tick_waits(name: str) -> None:
    config = DQNConfig(
        algorithm=name,
        **{"hidden": (8, 8), "batch_size": 4, "num_envs": ENVS, "min_replay_size": 20, "replay_capacity": 40},
        **{"learn_period": 2, "target_update_period": 10},
    )
    network = build_network(q_network_spec(config, InputSpec(shape=(FEATURES,)), ACTIONS), torch.Generator())
    learner = DQNLearner(config, network, device=META, precision="float32", generator=torch.Generator())
    ring = ReplayRing(capacity_steps=40, num_envs=ENVS, shape=(FEATURES,), dtype="float32", device=META)
    experience, figures = transitions_of(config, ring, torch.Generator()), TrainingFigures(META)
    obs, false = np.zeros((ENVS, FEATURES), np.float32), np.zeros(ENVS, bool)
    rows = StepRows(obs, np.zeros(ENVS, np.int64), np.zeros(ENVS), false, false, false, None, obs)
    with refuse_host_transfers(ReplayRing.append):
        for before in range(0, 80, ENVS):
            after, updates = before + ENVS, []
            experience.append(rows)
            learner.observe(rows)
            for due in experience.due(before, after, learner.changes(before, after)):
                learner.advance(due.step, due.now)
                batch = experience.sample(due)
                update = learner.update(batch)
                experience.feedback(batch, update.priority)
                updates.append(update.metrics)
            learner.advance(after, after)
            figures.record(Tick(before, after, (), tuple(updates)))
    assert learner.num_updates == 31
    with pytest.raises(RuntimeError, match="meta"):  # a log line reads them, and waits
        figures.pop_means()


def test_a_log_line_reads_its_figures_in_one_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    tolist = torch.Tensor.tolist

    def counted(tensor: torch.Tensor) -> object:
        reads.append(tensor.numel())
        return tolist(tensor)

    monkeypatch.setattr(torch.Tensor, "tolist", counted)
    monkeypatch.setattr(torch.Tensor, "__float__", lambda tensor: pytest.fail("a figure was read on its own"))
    figures = TrainingFigures(torch.device("cpu"))
    for step in range(2):
        metrics = {"loss": torch.tensor(1.5 + step), "max_q": torch.tensor(float(step), dtype=torch.float64)}
        figures.record(Tick(step, step + 1, (), (metrics,)))
    figures.require_finite(2)
    assert figures.pop_means() == {"loss": 2.0, "max_q": 0.5}
    assert reads == [2]
    figures.require_finite(2)
    assert figures.pop_means() == {}
    figures.record(Tick(2, 3, (), ({"loss": torch.tensor(torch.nan)},)))
    with pytest.raises(ConfigError, match="loss must be finite, got nan by step 3"):
        figures.require_finite(3)


def test_a_tick_after_a_read_counts() -> None:
    figures = TrainingFigures(torch.device("cpu"))
    figures.record(Tick(0, 1, (), ({"loss": torch.tensor(1.0)},)))
    figures.require_finite(1)
    figures.record(Tick(1, 2, (), ({"loss": torch.tensor(2.0)},)))
    assert figures.pop_means() == {"loss": 1.5}


def test_a_figure_on_the_host_is_found() -> None:
    figures = TrainingFigures(META)
    ticks = [
        Tick(step, step + 1, (), ({"loss": torch.empty((), device=device)},))
        for step, device in enumerate(("meta", "cpu"))
    ]
    with refuse_host_transfers():
        figures.record(ticks[0])
        with pytest.raises(HostTransferError, match="CPU"):
            figures.record(ticks[1])
