"""DQN update against numbers worked by hand and an oracle in NumPy; its settings; an env it must solve."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from linear_q import loss_and_gradient
from linear_q import target as expected_target

from torso.agents.optim.devices import Precision
from torso.agents.optim.schedules import linear, multiples_passed
from torso.agents.replay.batches import Batch
from torso.agents.training.agent import DQN
from torso.agents.value_based.algorithms import algorithm_names
from torso.agents.value_based.config import DQNConfig
from torso.agents.value_based.learner import DQNLearner
from torso.agents.value_based.network import initial_network, q_network_spec
from torso.agents.value_based.next_policies import greedy_actions, one_hot_greedy
from torso.errors import CheckpointError, ConfigError
from torso.nets import (
    CategoricalHeadSpec,
    ImplicitQuantileHeadSpec,
    InputSpec,
    LogitsHeadSpec,
    MLPSpec,
    NetworkSpec,
    QuantileHeadSpec,
    ScalarHeadSpec,
    build_network,
    register_torso,
)

CPU = torch.device("cpu")
INPUT = InputSpec(shape=(2,), dtype="float32")
ONLINE = [[1.0, 0.0], [0.0, 2.0]]  # Q(s, a) of the online network: row a, dotted with s
TARGET = [[0.5, 1.0], [1.0, -1.0]]


def learner(precision: Precision = "float32", double_precision: bool = False, **settings: Any) -> DQNLearner:
    """A linear Q-function of two features and two actions, without biases to speak of."""
    config = DQNConfig(**{"hidden": (), "max_grad_norm": None, "batch_size": 4, **settings})
    network = build_network(q_network_spec(config, INPUT, 2), torch.Generator().manual_seed(0))
    made = DQNLearner(config, network.double() if double_precision else network, device=CPU, precision=precision)
    if not config.hidden:
        with torch.no_grad():
            for part, weights in ((made.online, ONLINE), (made.target, TARGET)):
                part.head.linear.weight.copy_(torch.tensor(weights))
                part.head.linear.bias.zero_()
    return made


def batch(
    *rows: tuple[list[float], int, float, float, list[float], float], dtype: torch.dtype = torch.float32
) -> Batch:
    s_tm1, a_tm1, r_t, discount_t, s_t, weight = zip(*rows, strict=True)
    floats = [torch.tensor(column, dtype=dtype) for column in (s_tm1, r_t, discount_t, s_t, weight)]
    return Batch(floats[0], torch.tensor(a_tm1), *floats[1:])


def random_batch(num_rows: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Batch:
    rng = np.random.default_rng(seed)
    return Batch(
        s_tm1=torch.tensor(rng.normal(size=(num_rows, 2)), dtype=dtype),
        a_tm1=torch.tensor(rng.integers(2, size=num_rows)),
        r_t=torch.tensor(rng.normal(size=num_rows) * 3, dtype=dtype),
        discount_t=torch.tensor(rng.choice([0.0, 0.9], size=num_rows), dtype=dtype),
        s_t=torch.tensor(rng.normal(size=(num_rows, 2)), dtype=dtype),
        weight=torch.tensor(rng.choice([0.0, 1.0, 1.0], size=num_rows), dtype=dtype),
    )


def gradient(of: DQNLearner) -> list[list[float]]:
    grad = of.online.head.linear.weight.grad
    assert grad is not None
    return grad.tolist()


def weights(of: DQNLearner) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in of.online.parameters()]


# -- targets, losses and gradients by hand ---------------------------------------------------------------------------

# After s' = (1, 2) the online network has Q = (1, 4), the target network Q = (2.5, -1).
# Before, at s = (2, 0.25), the online network has Q = (2, 0.5). All numbers are exact in float32.
S, NEXT = [2.0, 0.25], [1.0, 2.0]


@pytest.mark.parametrize(
    ("double", "discount", "loss", "slope"),
    [
        (False, 0.5, 0.25**2 / 2, -0.25),  # target 1 + 0.5 * 2.5 = 2.25, error 0.25
        (True, 0.5, 1.5 - 0.5, 1.0),  # online picks action 1: target 1 + 0.5 * -1 = 0.5, error -1.5, beyond delta
        (False, 0.0, 1.0 - 0.5, 1.0),  # terminated: target 1, error -1, at delta
        (True, 0.0, 1.0 - 0.5, 1.0),
    ],
)
def test_the_target_the_huber_loss_and_the_gradient(double: bool, discount: float, loss: float, slope: float) -> None:
    made = learner(double=double)
    metrics, priority = made.update(batch((S, 0, 1.0, discount, NEXT, 1.0)))
    assert metrics["loss"].item() == loss
    assert priority.tolist() == [loss + 0.5 if abs(slope) == 1.0 else 0.25]  # |error|: beyond delta, loss + 1/2
    assert gradient(made) == [[slope * 2.0, slope * 0.25], [0.0, 0.0]]  # of the action taken, and of no other
    assert not metrics["loss"].requires_grad


def test_without_a_delta_the_loss_is_half_the_square() -> None:
    made = learner(double=True, huber_delta=None)
    assert made.update(batch((S, 0, 1.0, 0.5, NEXT, 1.0)))[0]["loss"].item() == 1.5**2 / 2
    assert gradient(made) == [[1.5 * 2.0, 1.5 * 0.25], [0.0, 0.0]]


def test_another_delta() -> None:
    made = learner(double=True, huber_delta=0.5)
    assert made.update(batch((S, 0, 1.0, 0.5, NEXT, 1.0)))[0]["loss"].item() == 0.5 * (1.5 - 0.25)
    assert gradient(made) == [[0.5 * 2.0, 0.5 * 0.25], [0.0, 0.0]]


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("delta", [None, 0.75])
def test_updates_agree_with_an_oracle(double: bool, delta: float | None) -> None:
    made = learner(double_precision=True, double=double, huber_delta=delta, batch_size=32)
    for seed in range(5):
        rows = random_batch(32, seed, torch.float64)
        online, fixed = (part.head.linear.weight.detach().numpy().copy() for part in (made.online, made.target))
        bias = made.online.head.linear.bias
        with torch.no_grad():
            bias.zero_()  # the oracle has none
        arrays = [tensor.numpy() for tensor in rows[:6]]
        targets = expected_target(online, fixed, *arrays[2:5], double=double)
        loss, grad = loss_and_gradient(online, targets, arrays[0], arrays[1], arrays[5], delta)
        metrics, _ = made.update(rows)
        assert metrics["loss"].item() == pytest.approx(loss, rel=1e-6)
        np.testing.assert_allclose(gradient(made), grad, rtol=1e-5, atol=1e-7)
        assert np.array_equal(made.target.head.linear.weight.numpy(), fixed)  # no gradient, no step


def test_rows_of_weight_zero_count_for_nothing() -> None:
    rows = [(S, 0, 1.0, 0.5, NEXT, 1.0), ([1.0, 1.0], 1, 0.0, 0.5, NEXT, 1.0)]
    made, other = learner(), learner()
    for each, junk in ((made, 1.0), (other, 77.0)):
        each.update(
            batch(*rows, ([junk, 2.0], 1, junk, 0.5, [junk, junk], 0.0), ([junk, junk], 0, 9.0, 0.0, NEXT, 0.0))
        )
    assert gradient(made) == gradient(other)
    assert all(torch.equal(a, b) for a, b in zip(weights(made), weights(other), strict=True))
    alone = learner(batch_size=2)
    alone.update(batch(*rows))
    assert gradient(made) == (torch.tensor(gradient(alone)) / 2).tolist()  # a mean over the whole batch


def greedy(made: DQNLearner, obs: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    return greedy_actions(made.policy().values(obs.numpy())[0], mask)


def test_the_best_next_action_is_the_first_of_equals() -> None:
    q = torch.tensor([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0], [0.0, -1.0, 0.5]])
    assert one_hot_greedy(q).tolist() == [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    assert greedy(learner(), torch.tensor([[2.0, 1.0], [2.0, 0.0], [0.0, 1.0]])).tolist() == [0, 0, 1]


# -- phases, target copies, state ------------------------------------------------------------------------------------


@pytest.mark.parametrize("double", [False, True])
def test_a_phase_at_once_equals_its_minibatches_one_by_one(double: bool) -> None:
    """Targets of a whole phase are computed ahead only where they cannot change within it."""
    rows = random_batch(24)
    settings: dict[str, Any] = {"double": double, "learning_rate": 0.3, "hidden": (8,)}
    at_once, one_by_one = learner(**settings), learner(**settings)
    whole, priority = at_once.update(rows)
    parts = [one_by_one.update(rows.rows(start, start + 4)) for start in range(0, 24, 4)]
    assert at_once.num_updates == one_by_one.num_updates == 6
    for a, b in zip(weights(at_once), weights(one_by_one), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    for name in whole:
        torch.testing.assert_close(whole[name], torch.stack([part[name] for part, _ in parts]).mean())
    torch.testing.assert_close(priority, torch.cat([each for _, each in parts]), rtol=1e-5, atol=1e-6)


def test_the_target_network_changes_when_it_is_told_to_and_only_then() -> None:
    made = learner(hidden=(8,))
    before = [parameter.clone() for parameter in made.target.parameters()]
    made.update(random_batch(8))
    assert all(torch.equal(a, b) for a, b in zip(before, made.target.parameters(), strict=True))
    made.update_target()
    synced = weights(made)
    assert all(torch.equal(a, b) for a, b in zip(synced, made.target.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(synced, before, strict=True))
    made.update(random_batch(8, seed=1))
    assert all(torch.equal(a, b) for a, b in zip(synced, made.target.parameters(), strict=True))
    assert not any(parameter.requires_grad for parameter in made.target.parameters())


def test_a_target_network_may_follow_slowly() -> None:
    made = learner(hidden=(8,), target_update_rate=0.25)
    before = [parameter.clone() for parameter in made.target.parameters()]
    made.update(random_batch(8))
    for share in (0.25, 0.25 + 0.75 * 0.25):  # the second time too, though nothing was learnt between
        made.update_target()
        for old, online, now in zip(before, made.online.parameters(), made.target.parameters(), strict=True):
            torch.testing.assert_close(now, old + share * (online.detach() - old))


def test_bootstrapping_takes_legal_actions_alone() -> None:
    """After s' the online network has Q = (1, 4), the target network Q = (2.5, -1)."""
    row = batch((S, 0, 1.0, 0.5, NEXT, 1.0))
    for double, mask, target in ((False, [0, 1], 0.5), (True, [1, 0], 2.25), (True, [1, 1], 0.5)):
        _, priority = learner(double=double).update(row._replace(mask_t=torch.tensor([mask], dtype=torch.bool)))
        assert priority.item() == abs(target - 2.0)
    obs = torch.tensor([NEXT, NEXT])
    assert greedy(learner(), obs, torch.tensor([[True, False], [True, True]])).tolist() == [0, 1]


def test_importance_weights_scale_losses_and_gradients() -> None:
    full, half = learner(batch_size=1), learner(batch_size=1)
    for delta in (0.25, None):
        full, half = (learner(batch_size=1, huber_delta=delta) for _ in range(2))
        (whole, _), (part, priority) = (
            made.update(batch((S, 0, 3.0, 0.5, NEXT, weight))) for made, weight in ((full, 1.0), (half, 0.5))
        )
        assert part["loss"].item() == whole["loss"].item() / 2
        assert (torch.tensor(gradient(half)) * 2).tolist() == gradient(full)
        assert priority.item() == 2.25  # which the weight is not in


def test_dueling_streams_share_the_torso_but_for_its_last_layer() -> None:
    spec = q_network_spec(DQNConfig(hidden=(16, 8), dueling=True), INPUT, 3)
    assert (spec.torso.hidden, spec.head.dueling, spec.head.hidden) == ((16,), True, (8,))
    plain = q_network_spec(DQNConfig(hidden=(16, 8)), INPUT, 3)
    assert (plain.torso.hidden, plain.head.dueling, plain.head.hidden) == ((16, 8), False, ())


@pytest.mark.parametrize(
    "settings",
    [{"noisy": True}, {"algorithm": "iqn"}, {"algorithm": "rainbow"}, {"algorithm": "c51", "noisy": True}],
    ids=lambda settings: " ".join(map(str, settings.values())),
)
def test_the_last_hidden_layer_is_a_noisy_or_an_implicit_quantile_heads(settings: dict[str, Any]) -> None:
    spec = q_network_spec(DQNConfig(hidden=(16, 8), **settings), INPUT, 3)
    assert (spec.torso.hidden, spec.head.hidden) == ((16,), (8,))
    plain = q_network_spec(DQNConfig(hidden=(16, 8), algorithm="c51"), INPUT, 3)
    assert (plain.torso.hidden, plain.head.hidden) == ((16, 8), ())


def test_a_heads_sizes_are_its_own_until_they_are_given() -> None:
    head = q_network_spec(DQNConfig(algorithm="c51"), INPUT, 3).head
    assert head == CategoricalHeadSpec(num_actions=3)
    assert (head.num_atoms, head.v_min, head.v_max) == (51, -10.0, 10.0)
    given = DQNConfig(algorithm="c51", num_atoms=5, v_min=0.0, v_max=2.0, noisy=True, noisy_std=0.1, hidden=(4,))
    assert q_network_spec(given, INPUT, 3).head == CategoricalHeadSpec(
        num_actions=3, num_atoms=5, v_min=0.0, v_max=2.0, noisy=True, noisy_std=0.1, hidden=(4,)
    )
    implicit = DQNConfig(algorithm="iqn", num_fractions=3, num_fixed_fractions=4, num_cosines=5, hidden=())
    assert q_network_spec(implicit, INPUT, 3).head == ImplicitQuantileHeadSpec(
        num_actions=3, num_fractions=3, num_fixed_fractions=4, num_cosines=5
    )
    quantile = DQNConfig(algorithm="qr-dqn", num_quantiles=7, huber_delta=None)
    assert q_network_spec(quantile, INPUT, 3).head == QuantileHeadSpec(num_actions=3, num_quantiles=7, huber_delta=None)


def test_observations_are_scaled_as_they_were_told() -> None:
    made = learner(normalise_observations=True)
    made.set_input_statistics([1.0, 2.0], [2.0, 4.0])
    obs = torch.tensor([[3.0, 6.0]])
    for part, weights_ in ((made.online, ONLINE), (made.target, TARGET)):
        assert part(obs)[0].output.tolist() == [[sum(row) for row in weights_]]  # (obs - mean) / std is (1, 1)
    assert made.online.spec.input.mean == (1.0, 2.0)
    image = InputSpec(shape=(8, 8), dtype="uint8", layout="hw")
    with pytest.raises(
        ConfigError,
        match=r"normalise_observations must be False for images, .* got observations uint8 \[8, 8\], read as an image",
    ):
        q_network_spec(DQNConfig(normalise_observations=True), image, 2)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_restored_learner_goes_on_to_the_same_bits(precision: Precision) -> None:
    made = learner(precision, hidden=(8,))
    made.update(random_batch(12))
    made.update_target()
    made.update(random_batch(12, seed=1))
    state, tensors = made.state()
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    restored = learner(precision, hidden=(8,))
    restored.restore(state, tensors)
    results = []
    for each in (made, restored):
        metrics, priority = each.update(random_batch(12, seed=2))
        each.update_target()
        results.append(
            [priority, *metrics.values(), *weights(each), *each.target.parameters(), greedy(each, random_batch(9).s_t)]
        )
        assert each.num_updates == 9
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_the_state_of_another_network_is_refused() -> None:
    state, tensors = learner(hidden=(8,)).state()
    with pytest.raises(CheckpointError, match="another network"):
        learner(hidden=(9,)).restore(state, tensors)


def test_bfloat16_learns_what_float32_does() -> None:
    steps = {precision: learner(precision, hidden=(128, 128), batch_size=64) for precision in ("float32", "bfloat16")}
    losses = {precision: made.update(random_batch(64))[0]["loss"].item() for precision, made in steps.items()}
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.02)
    assert losses["bfloat16"] != losses["float32"]  # or it was not used
    assert all(parameter.dtype == torch.float32 for parameter in steps["bfloat16"].online.parameters())


def test_first_weights_are_a_function_of_the_seed() -> None:
    config = DQNConfig(hidden=(8,))
    spec = q_network_spec(config, INPUT, 3)
    a, b, c = (
        DQNLearner(config, initial_network(config, spec, seed), device=CPU, precision="float32") for seed in (5, 5, 6)
    )
    assert all(torch.equal(x, y) for x, y in zip(weights(a), weights(b), strict=True))
    assert not all(torch.equal(x, y) for x, y in zip(weights(a), weights(c), strict=True))
    assert all(torch.equal(x, y) for x, y in zip(a.online.parameters(), a.target.parameters(), strict=True))
    assert a.num_actions == 3


def test_a_network_that_labels_is_refused() -> None:
    spec = NetworkSpec(input=INPUT, torso=MLPSpec(), head=LogitsHeadSpec(num_classes=2))
    with pytest.raises(ConfigError, match="must have a head that values actions, got LogitsHeadSpec"):
        DQNLearner(DQNConfig(), build_network(spec, torch.Generator()), device=CPU, precision="float32")


# -- settings and schedules ------------------------------------------------------------------------------------------


def test_epsilon_falls_in_a_straight_line_and_stays() -> None:
    config = DQNConfig(epsilon_start=0.9, epsilon_end=0.1, epsilon_decay_steps=400)
    assert [config.epsilon(step) for step in (0, 100, 200, 400, 401, 10**9)] == pytest.approx(
        [0.9, 0.7, 0.5] + [0.1] * 3
    )
    assert linear(0, start=1.0, end=0.0, num_steps=0) == 0.0
    decaying = DQNConfig(learning_rate=1e-3, learning_rate_end=1e-4, learning_rate_decay_steps=100)
    assert [decaying.learning_rate_at(step) for step in (0, 50, 100, 200)] == pytest.approx([1e-3, 5.5e-4, 1e-4, 1e-4])
    assert DQNConfig(learning_rate=1e-3).learning_rate_at(10**9) == 1e-3
    towards = DQNConfig(importance_start=0.4, importance_end=1.0, importance_steps=10)
    assert [towards.importance(step) for step in (0, 5, 99)] == pytest.approx([0.4, 0.7, 1.0])


@given(st.integers(0, 500), st.lists(st.integers(0, 40)), st.integers(1, 50))
def test_what_is_owed_does_not_depend_on_how_the_steps_came(first: int, strides: list[int], period: int) -> None:
    at, owed = first, 0
    for stride in strides:
        owed += multiples_passed(at, at + stride, period)
        at += stride
    assert owed == sum(step % period == 0 for step in range(first + 1, at + 1))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"net": "transformer"}, "mlp, cnn, lenet, nature"),
        ({"activation": "selu"}, "activation"),
        ({"gamma": 1.5}, r"gamma must lie in \[0, 1\], got 1.5"),
        ({"gamma": float("nan")}, "gamma"),
        ({"epsilon_start": -0.1}, "epsilon_start"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"learning_rate": None}, "learning_rate"),
        ({"adam_eps": None}, "adam_eps"),
        ({"huber_delta": float("inf")}, "huber_delta"),
        ({"max_grad_norm": -1.0}, "max_grad_norm"),
        ({"num_envs": 0}, "num_envs"),
        ({"batch_size": 2.5}, "batch_size"),
        ({"learn_period": True}, "learn_period"),
        ({"target_update_period": 0}, "target_update_period"),
        ({"checkpoint_period": 0}, "checkpoint_period"),
        ({"min_replay_size": 200, "replay_capacity": 100}, "at most replay_capacity 100, .* never reached, got 200"),
        ({"min_replay_size": 8, "num_envs": 8}, "min_replay_size must be more than n_step times num_envs"),
        ({"min_replay_size": 24, "num_envs": 8, "n_step": 3}, "got 24 for 3 of 8 envs"),
        ({"num_envs": 40, "replay_capacity": 100, "min_replay_size": 90}, "at least 3 steps of each env"),
        ({"num_envs": 40, "n_step": 3, "replay_capacity": 199, "min_replay_size": 130}, "at least 5 .* 200 in all"),
        ({"n_step": 0}, "n_step"),
        ({"target_update_rate": 0.0}, "target_update_rate must be above 0"),
        ({"target_update_rate": 1.1}, "target_update_rate"),
        ({"priority_exponent": -0.1}, "priority_exponent"),
        ({"importance_end": 1.5}, "importance_end"),
        ({"learning_rate_end": 0.0}, "learning_rate_end"),
        ({"freeze_torso": True}, "freeze_torso must be False .*; give init_torso"),
        ({"init_torso": "x", "normalise_observations": True}, "leave out normalise_observations"),
        ({"dueling": True, "hidden": ()}, "give hidden at least one"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        DQNConfig(**settings)


def test_checkpoints_are_20_000_steps_of_each_env_apart_by_default() -> None:
    assert DQNConfig().steps_between_checkpoints == 20_000
    assert DQNConfig(num_envs=8).steps_between_checkpoints == 160_000
    assert DQNConfig(num_envs=8, checkpoint_period=7).steps_between_checkpoints == 7


# -- learning --------------------------------------------------------------------------------------------------------

IDENTITY = DQNConfig(
    hidden=(32,),
    learning_rate=3e-3,
    batch_size=32,
    min_replay_size=100,
    learn_period=2,
    target_update_period=100,
    epsilon_decay_steps=600,
    evaluation_period=400,
    evaluation_episodes=10,
)


@pytest.mark.parametrize("prioritized", [False, True], ids=["even", "prioritized"])
@pytest.mark.parametrize("dueling", [False, True], ids=["one", "dueling"])
@pytest.mark.parametrize("double", [False, True], ids=["plain", "double"])
def test_the_algorithms_solve_the_identity_env(double: bool, dueling: bool, prioritized: bool) -> None:
    """8 steps an episode, 1 for naming what is shown out of 4 values: 8 at best, 2 by chance.

    Half of all combinations, chosen so that each pair of choices is there; benchmarks/combinations.toml has the others.
    """
    n_step = 3 if double ^ dueling ^ prioritized else 1
    config = replace(IDENTITY, double=double, dueling=dueling, prioritized=prioritized, n_step=n_step)
    agent = DQN("torso/Identity-v0", config=config, seed=n_step).learn(1_600)
    assert agent.evaluate(20).mean >= 0.95 * 8


# -- what a network of one's own may hold ----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class NoisySpec:
    width: int = 6


class NoisyTorso(torch.nn.Module):
    """A layer whose output is blurred by draws from the generator, and that counts its training forwards."""

    calls: torch.Tensor

    def __init__(self, spec: NoisySpec, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(input_shape[0], spec.width)
        self.num_features = spec.width
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, inputs: torch.Tensor, state: Any, generator: torch.Generator | None) -> Any:
        assert generator is not None, "a draw from the process' own generator would not be resumed"
        if self.training:
            self.calls += 1
        x = self.layer(inputs)
        return x + 0.1 * torch.randn(x.shape, generator=generator), state


def noisy_learner(seed: int) -> DQNLearner:
    register_torso("noisy-of-a-test", NoisySpec, NoisyTorso)
    spec = NetworkSpec(input=InputSpec(shape=(2,)), torso=NoisySpec(), head=ScalarHeadSpec(num_actions=2))
    generator = torch.Generator().manual_seed(seed)
    network = build_network(spec, torch.Generator().manual_seed(0))
    config = DQNConfig(batch_size=4, target_update_rate=0.5)
    return DQNLearner(config, network, device=CPU, precision="float32", generator=generator)


@pytest.mark.usefixtures("registries")
def test_what_a_network_draws_is_of_the_learners_generator_and_is_resumed() -> None:
    first, other = noisy_learner(1), noisy_learner(2)
    obs = np.ones((5, 2), np.float32)
    policies = [each.policy(torch.Generator().manual_seed(seed)) for seed, each in enumerate((first, other))]
    for _ in range(3):
        first.update(random_batch(8))
        policies[0].values(obs)
    other.restore(*first.state())
    policies[1].restore(*policies[0].state())
    torch.manual_seed(99)  # the process' own, which decides nothing
    results = [(each.update(random_batch(8, seed=3)), *weights(each)) for each in (first, other)]
    assert torch.equal(results[0][0].priority, results[1][0].priority)
    assert all(torch.equal(a, b) for a, b in zip(results[0][1:], results[1][1:], strict=True))
    assert torch.equal(policies[0].values(obs)[0], policies[1].values(obs)[0])
    assert not torch.equal(policies[0].values(obs)[0], policies[0].values(obs)[0])


@pytest.mark.usefixtures("registries")
def test_a_target_update_copies_buffers_too() -> None:
    made = noisy_learner(1)
    made.update(random_batch(8))
    calls = made.online.torso.calls
    assert calls.item() == 2  # minibatches
    assert made.target.torso.calls.item() == 0
    made.update_target()
    assert made.target.torso.calls.item() == 2  # copied, whatever the rate for weights


# -- how it is run, and what it shows --------------------------------------------------------------------------------


class CountingExecutor:
    """An executor that records what it prepared and how often it ran."""

    def __init__(self, *, captures: bool = False) -> None:
        self.captures = captures
        self.prepared: list[Any] = []
        self.calls = 0

    def prepare(self, call: Any, example: Any, generators: Any) -> Any:
        self.prepared.append((example, list(generators)))

        def run(minibatch: Any) -> Any:
            self.calls += 1
            return call(minibatch)

        return run


def test_minibatches_run_through_the_executor() -> None:
    executor = CountingExecutor()
    config = DQNConfig(hidden=(4,), batch_size=4)
    spec = q_network_spec(config, INPUT, 2)
    made, plain = (
        DQNLearner(config, initial_network(config, spec, 0), device=CPU, precision="float32", executor=each)
        for each in (executor, None)
    )
    for _ in range(2):
        updates = [each.update(random_batch(8)) for each in (made, plain)]
    [(example, generators)] = executor.prepared  # once, for the shapes of the first
    assert example.batch.s_tm1.shape == (4, 2)
    assert generators == [made.generator]
    assert executor.calls == made.num_updates == 4
    assert torch.equal(updates[0].priority, updates[1].priority)


@pytest.mark.parametrize("name", algorithm_names())
def test_an_executor_that_captures_is_given_targets_too(name: str) -> None:
    executor = CountingExecutor(captures=True)
    config = DQNConfig(algorithm=name, hidden=(4,), batch_size=4)
    spec = q_network_spec(config, INPUT, 2)
    made, plain = (
        DQNLearner(config, initial_network(config, spec, 0), device=CPU, precision="float32", executor=each)
        for each in (executor, None)
    )
    for _ in range(3):
        rows = random_batch(8)
        updates = [each.update(rows) for each in (made, plain)]
    [(example, _)] = executor.prepared
    assert example.target is None
    assert executor.calls == made.num_updates == 6
    torch.testing.assert_close(updates[0], updates[1], atol=1e-6, rtol=1e-5)  # targets of 4 rows, and of 8 at once
    torch.testing.assert_close(made.online.state_dict(), plain.online.state_dict(), atol=1e-6, rtol=1e-5)


def test_a_log_shows_the_best_value_and_the_target() -> None:
    """Q(s) = (1, 4) in the first row and (2, 2) in the second; targets 1 and 1 + 0.5 * 1.5."""
    rows = batch(([1.0, 2.0], 0, 1.0, 0.0, [0.0, 1.0], 1.0), ([2.0, 1.0], 1, 1.0, 0.5, [1.0, 1.0], 1.0))
    metrics = learner(batch_size=1).update(rows).metrics
    assert list(metrics) == ["loss", "max_q", "target"]
    assert metrics["target"].item() == pytest.approx((1.0 + 1.75) / 2)
    first_step = learner(batch_size=2).update(rows).metrics
    assert first_step["max_q"].item() == (4.0 + 2.0) / 2
    assert not first_step["max_q"].requires_grad


def test_a_rule_gets_the_masks_of_both_states() -> None:
    seen = []

    class Rule:
        needs = frozenset({"target_tm1"})

        def __call__(self, forwards: Any) -> Any:
            seen.append(forwards)
            return one_hot_greedy(forwards.target_t), torch.zeros_like(forwards.discount_t)

    made = learner(batch_size=2)
    made.next_policy = Rule()
    masks = torch.tensor([[[True, False], [True, True]], [[False, True], [True, True]]])
    rows = random_batch(2)._replace(mask_t=masks[0], mask_tm1=masks[1])
    made.update(rows)
    [forwards] = seen
    assert torch.equal(forwards.mask_t, masks[0])
    assert torch.equal(forwards.mask_tm1, masks[1])
    assert torch.equal(forwards.target_tm1, made.target(rows.s_tm1)[0].output)
