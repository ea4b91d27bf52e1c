"""Training core: its calls of envs, replay and learner, and that its counts are steps whatever the number of envs.

Run as a script, this file writes the golden trace anew:
``PYTHONPATH=tests/oracles python tests/agents/training/test_core.py``.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from diary import Diary, DiaryEnv
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st
from transitions import Transition, key

from torso.agents.protocols import Episode, Update
from torso.agents.replay.batches import Batch
from torso.agents.replay.ring import ReplayRing
from torso.agents.training.core import TrainingCore
from torso.agents.training.session import assemble
from torso.agents.value_based.assembly import transitions_of
from torso.agents.value_based.config import DQNConfig
from torso.agents.value_based.learner import DQNLearner, ValuePolicy
from torso.agents.value_based.network import initial_network, q_network_spec
from torso.envs import env_seeds, make_vector
from torso.errors import EnvError
from torso.nets import InputSpec
from torso.nets.specs.registry import State

CPU = torch.device("cpu")
GOLDEN = Path(__file__).parents[2] / "golden" / "dqn_cartpole_trace.json"


class TapedLearner(DQNLearner):
    """A learner that records its calls, on a tape it shares with the env."""

    tape: list[tuple[Any, ...]]

    def policy(self, generator: torch.Generator | None = None) -> ValuePolicy:
        policy = super().policy(generator)
        values = policy.values

        def taped(obs: np.ndarray, state: State = ()) -> tuple[torch.Tensor, State]:
            q, state = values(obs, state)
            self.tape.append(("act", obs[:, 1].tolist(), q.argmax(dim=1).tolist()))
            return q, state

        policy.values = taped  # type: ignore[method-assign]
        return policy

    def update(self, batch: Batch) -> Update:
        self.tape.append(("learn", len(batch.r_t)))
        return super().update(batch)

    def update_target(self) -> None:
        self.tape.append(("sync",))
        super().update_target()


class TapedConfig(DQNConfig):
    """Settings that record the steps at which epsilon was computed."""

    def epsilon(self, step: int) -> float:
        asked.append(step)
        return super().epsilon(step)


asked: list[int] = []


def core(
    diary: Diary,
    *,
    seed: int = 3,
    longest: int = 5,
    action_start: int = 0,
    make: Callable[[int], VectorEnv[Any, Any, Any]] | None = None,
    **given_settings: Any,
) -> TrainingCore:
    """Build a loop over diary envs. The network is linear; its initial values favour action 2 everywhere."""
    config = TapedConfig(
        **{"hidden": (), "batch_size": 4, "min_replay_size": 10, "learning_rate": 1e-6, **given_settings}
    )
    spec = q_network_spec(config, InputSpec(shape=(2,), dtype="float64"), 3)
    learner = TapedLearner(config, initial_network(config, spec, 0), device=CPU, precision="float32")
    learner.tape = diary.tape
    with torch.no_grad():
        learner.online.head.linear.weight.zero_()
        learner.online.head.linear.bias.copy_(torch.tensor([0.0, 0.0, 1.0]))

    def make_envs(step: int) -> VectorEnv[Any, Any, Any]:
        seeds = env_seeds(seed, config.num_envs, step)
        return make_vector(lambda: DiaryEnv(diary, longest, 3, action_start), len(seeds), seeds)

    replay = ReplayRing(
        capacity_steps=config.replay_capacity, num_envs=config.num_envs, shape=(2,), dtype="float64", device=CPU
    )
    asked.clear()
    return assemble(
        config,
        learner,
        transitions_of(config, replay, torch.Generator().manual_seed(seed)),
        make or make_envs,
        action_start=action_start,
        acting_rng=np.random.default_rng(seed),
    )


# -- a tape of events ------------------------------------------------------------------------------------------------


def test_a_tape_of_events() -> None:
    """One env, no exploration: the calls in their order, step by step, up to a cut."""
    diary = Diary(script=[(4, "terminated"), (2, "truncated"), (9, "both")])
    loop = core(
        diary,
        action_start=5,
        epsilon_start=0.0,
        epsilon_end=0.0,
        learn_period=2,
        updates_per_phase=3,
        min_replay_size=4,
        target_update_period=3,
    )
    loop.begin()
    episodes = [episode for tick in loop.run(7) for episode in tick.episodes]
    loop.cut()
    rewards = [event[2] for event in diary.tape if event[0] == "step"]
    first, second = env_seeds(3, 1, 0)[0], env_seeds(3, 1, 7)[0]
    r = iter(rewards)
    assert diary.tape == [
        ("reset", first),
        ("act", [0.0], [2]),
        ("step", 7, next(r), False, False),
        ("act", [1.0], [2]),
        ("step", 7, next(r), False, False),  # step 2 owes a phase; there are too few steps to learn from
        ("act", [2.0], [2]),
        ("step", 7, next(r), False, False),
        ("sync",),  # step 3
        ("act", [3.0], [2]),
        ("step", 7, next(r), True, False),
        ("learn", 12),  # step 4: 3 minibatches of 4
        ("act", [4.0], [2]),  # the true last observation; the action is ignored
        ("reset", None),  # and no step is counted
        ("act", [0.0], [2]),
        ("step", 7, next(r), False, False),
        ("act", [1.0], [2]),
        ("step", 7, next(r), False, True),
        ("sync",),  # step 6: the target first
        ("learn", 12),
        ("act", [2.0], [2]),
        ("reset", None),
        ("act", [0.0], [2]),
        ("step", 7, next(r), False, False),
        ("reset", second),  # the cut at step 7
    ]
    assert asked == [0, 1, 2, 3, 4, 4, 5, 6, 6]
    assert episodes == [
        Episode(total_steps=4, env=0, episode_return=sum(rewards[:4]), length_steps=4),
        Episode(total_steps=6, env=0, episode_return=sum(rewards[4:6]), length_steps=2),
    ]
    rows = loop.experience.ring.read_rows(0, loop.experience.ring.num_rows)
    assert rows["obs"][:, 0, 1].tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 0, 1]
    assert rows["is_reset"][:, 0].tolist() == [False] * 4 + [True] + [False] * 2 + [True, False, True]
    assert rows["terminated"][:, 0].tolist() == [False] * 3 + [True] + [False] * 6
    assert rows["truncated"][:, 0].tolist() == [False] * 6 + [True, False, True, False]  # the last by the cut
    assert set(rows["action"][:4, 0].tolist()) == {2}  # counted from 0 in the replay


# -- counts mean steps -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_envs", [1, 3, 8])
@pytest.mark.parametrize(("learn_period", "min_replay_size"), [(4, 50), (1, 33), (7, 49), (16, 20)])
def test_counts_are_functions_of_the_steps(num_envs: int, learn_period: int, min_replay_size: int) -> None:
    diary = Diary()
    loop = core(
        diary,
        num_envs=num_envs,
        learn_period=learn_period,
        min_replay_size=min_replay_size,
        updates_per_phase=2,
        target_update_period=10,
        epsilon_decay_steps=100,
    )
    loop.begin()
    before = 0
    for tick in loop.run(200):
        assert tick.steps_before == before
        before = tick.total_steps
        assert diary.decisions == tick.total_steps  # the envs counted for themselves; resets are no decisions
    assert 200 <= loop.total_steps < 200 + num_envs
    steps = range(1, loop.total_steps + 1)
    phases = sum(step % learn_period == 0 and step >= min_replay_size for step in steps)
    learnt = sum(event[1] for event in diary.tape if event[0] == "learn")
    assert learnt == phases * 2 * 4
    assert loop.learner.num_updates == phases * 2
    assert diary.tape.count(("sync",)) == sum(step % 10 == 0 for step in steps)
    assert asked == sorted(asked)
    assert [round(loop.learner.config.epsilon(step), 6) for step in (0, 50, 100, 999)] == [1.0, 0.525, 0.05, 0.05]


@pytest.mark.parametrize("num_envs", [1, 8])
def test_reset_rows_are_no_steps(num_envs: int) -> None:
    diary = Diary()
    loop = core(diary, num_envs=num_envs, longest=2)  # of every 5 rows, 2 are resets
    loop.begin()
    ticks = list(loop.run(300))
    rows = loop.experience.ring.read_rows(0, loop.experience.ring.num_rows)
    assert len(ticks) == loop.experience.ring.num_rows > 300 / num_envs
    assert int((~rows["is_reset"]).sum()) == loop.total_steps
    ended = [episode for tick in ticks for episode in tick.episodes]
    by_env = Counter(episode.env for episode in ended)
    assert [rows["is_reset"][:, env].sum().item() for env in range(num_envs)] == pytest.approx(
        [by_env[env] for env in range(num_envs)], abs=1
    )
    assert Counter((e.episode_return, e.length_steps) for e in ended) == Counter(diary.episodes)


def test_epsilon_is_the_share_of_actions_drawn_evenly() -> None:
    diary = Diary()
    loop = core(diary, num_envs=4, epsilon_start=0.3, epsilon_end=0.3, min_replay_size=5_000)
    loop.begin()
    for _ in loop.run(4_000):
        pass
    counts = Counter(transition.a_tm1 for transition in diary.transitions)
    expected = {0: 0.1, 1: 0.1, 2: 0.8}  # greedy is 2; a third of the drawn ones is 2 as well
    for action, share in expected.items():
        assert counts[action] / loop.total_steps == pytest.approx(share, abs=5 * (share * (1 - share) / 4_000) ** 0.5)


# -- the replay holds what happened ----------------------------------------------------------------------------------


@settings(max_examples=25)
@given(
    num_envs=st.integers(1, 3),
    capacity_rows=st.integers(4, 40),
    longest=st.integers(1, 4),
    stretches=st.lists(st.tuples(st.integers(1, 25), st.sampled_from(["cut", "abandon", "go on"])), max_size=4),
)
def test_the_replay_holds_what_the_envs_wrote_in_their_diary(
    num_envs: int, capacity_rows: int, longest: int, stretches: list[tuple[int, str]]
) -> None:
    diary = Diary()
    loop = core(
        diary,
        num_envs=num_envs,
        longest=longest,
        replay_capacity=capacity_rows * num_envs,
        min_replay_size=num_envs + 1,
        learn_period=10_000,
    )
    loop.begin()
    lost: set[Transition] = set()  # whose outcome was not seen, because the loop was left in the middle
    for steps, then in [*stretches, (5, "cut")]:
        for _ in loop.run(loop.total_steps + steps):
            pass
        if then == "cut":
            loop.cut()
        elif then == "abandon":
            ring = loop.experience.ring
            last = {key(obs) for obs in ring.read_rows(ring.num_rows - 1, ring.num_rows)["obs"][0]}
            lost |= {transition for transition in diary.transitions if transition.s_tm1 in last}
            loop.begin()
    sample = loop.experience.sampler.sample(3_000, torch.Generator().manual_seed(0), 1.0)
    batch = loop.experience.ring.transitions(sample.row, sample.env, gamma=0.5)
    columns = zip(*(tensor.tolist() for tensor in batch[:6]), strict=True)
    found = {Transition(tuple(s), a, r, d == 0, tuple(s_t)) for s, a, r, d, s_t, weight in columns if weight}
    rows = loop.experience.ring.read_rows(loop.experience.ring.first_row, loop.experience.ring.num_rows)
    stored = {key(obs) for obs in rows["obs"].flatten(0, 1)}
    assert found == {each for each in diary.transitions if each.s_tm1 in stored and each not in lost}


def test_a_cut_begins_anew_with_seeds_of_its_step() -> None:
    diary = Diary()
    loop = core(diary, num_envs=2)
    loop.begin()
    for _ in loop.run(20):
        pass
    at = loop.total_steps
    diary.resets.clear()
    loop.cut()
    assert diary.resets == env_seeds(3, 2, at)
    assert diary.closed == 2
    assert diary.made == 4
    again = Diary()
    resumed = core(again, num_envs=2)
    resumed.collector.total_steps = at
    resumed.begin()
    assert again.resets == diary.resets


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
def test_envs_in_another_autoreset_mode_are_refused(mode: AutoresetMode) -> None:
    diary = Diary()
    loop = core(diary, make=lambda step: SyncVectorEnv([lambda: DiaryEnv(diary)], autoreset_mode=mode))
    with pytest.raises(EnvError, match="NEXT_STEP"):
        loop.begin()
    loop.close()
    assert diary.closed == 1


# -- golden ----------------------------------------------------------------------------------------------------------


def cartpole_trace(seed: int = 69) -> dict[str, Any]:
    """300 steps of a small DQN on CartPole-v1: actions, rewards, and its first losses.

    With this seed the two values never come closer than 0.0009 to each other: no rounding changes an action.
    """
    config = DQNConfig(
        hidden=(16,), batch_size=16, min_replay_size=50, learn_period=25, updates_per_phase=2, epsilon_decay_steps=200
    )
    spec = q_network_spec(config, InputSpec(shape=(4,), dtype="float32"), 2)
    learner = DQNLearner(config, initial_network(config, spec, seed), device=CPU, precision="float32")
    replay = ReplayRing(capacity_steps=1_000, num_envs=1, shape=(4,), dtype="float32", device=CPU)
    loop = assemble(
        config,
        learner,
        transitions_of(config, replay, torch.Generator().manual_seed(seed)),
        lambda step: make_vector("CartPole-v1", 1, env_seeds(seed, 1, step)),
        action_start=0,
        acting_rng=np.random.default_rng(seed),
    )
    loop.begin()
    losses = [tick.metrics["loss"].item() for tick in loop.run(300) if tick.metrics]
    loop.close()
    rows = replay.read_rows(0, replay.num_rows)
    kept = ~rows["is_reset"][:, 0]
    with torch.no_grad():
        values = learner.online(rows["obs"][:, 0])[0].output
    return {
        "made_by": "PYTHONPATH=tests/oracles python tests/agents/training/test_core.py",
        "what": "CartPole-v1, 300 steps of a DQN: its actions and rewards, the last observation of each episode, the "
        "loss of each phase, and what the final network makes of every 50th observation",
        "versions": {"torch": torch.__version__, "numpy": np.__version__, "gymnasium": gym.__version__},
        "actions": "".join(map(str, rows["action"][kept, 0].tolist())),
        "rewards": rows["reward"][kept, 0].tolist(),
        "last_observations": [row.tolist() for row in rows["obs"][~kept, 0]],
        "losses": losses,
        "values": values[::50].tolist(),
    }


def test_golden_trace() -> None:
    expected, got = json.loads(GOLDEN.read_text()), cartpole_trace()
    assert got["actions"] == expected["actions"]
    assert got["rewards"] == expected["rewards"]
    assert len(got["losses"]) == 11
    for name in ("last_observations", "losses", "values"):
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-5, atol=1e-5, err_msg=name)


if __name__ == "__main__":
    torch.set_num_threads(1)
    lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in cartpole_trace().items()]
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")
