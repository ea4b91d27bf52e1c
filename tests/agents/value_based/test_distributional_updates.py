"""Distributional and Munchausen learners: whole updates on a fixed batch, losses and gradients by oracles."""

from __future__ import annotations

from typing import Any

import distributions as oracle
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from torso.agents import DQNConfig
from torso.agents.replay.batches import Batch
from torso.agents.value_based.learner import DQNLearner
from torso.agents.value_based.network import q_network_spec
from torso.nets import InputSpec, build_network

Array = NDArray[Any]
ROWS, FEATURES, ACTIONS, GAMMA = 10, 3, 3, 0.9


def learner_of(**settings: Any) -> DQNLearner:
    """A learner whose head is linear in the inputs, in float64; the target network has other weights."""
    config = DQNConfig(**{"hidden": (), "max_grad_norm": None, "batch_size": ROWS, **settings})
    spec = q_network_spec(config, InputSpec(shape=(FEATURES,), dtype="float64"), ACTIONS)
    network = build_network(spec, torch.Generator().manual_seed(0)).double()
    generator = torch.Generator().manual_seed(7)
    made = DQNLearner(config, network, device=torch.device("cpu"), precision="float32", generator=generator)
    with torch.no_grad():
        for index, parameter in enumerate([*made.online.parameters(), *made.target.parameters()]):
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index)))
    return made


def batch_of() -> Batch:
    rng = np.random.default_rng(1)
    columns = [rng.normal(size=(ROWS, FEATURES)), rng.integers(ACTIONS, size=ROWS), rng.normal(size=ROWS)]
    columns += [
        rng.choice([0.0, GAMMA], size=ROWS),
        rng.normal(size=(ROWS, FEATURES)),
        rng.choice([0.5, 1.0], size=ROWS),
    ]
    return Batch(*(torch.from_numpy(column) for column in columns))


def outputs(network: Any, s: torch.Tensor, size: int) -> Array:
    """Outputs [B, A, size] of a linear head, in NumPy."""
    w = {name: value.detach().numpy() for name, value in network.head.state_dict().items()}
    flat = s.numpy() @ w["linear.weight"].T + w["linear.bias"]
    return np.asarray(flat).reshape(len(flat), ACTIONS, size)


def expect(made: DQNLearner, batch: Batch, per_row: list[tuple[float, Array]], priority: Array | None = None) -> None:
    """Compare an update with the loss of each row and its gradient by the outputs of the action that was taken."""
    weight = batch.weight.numpy()
    update = made.update(batch)
    losses = np.array([loss for loss, _ in per_row])
    assert update.metrics["loss"].item() == pytest.approx((weight * losses).mean(), rel=1e-6)
    np.testing.assert_allclose(update.priority, losses if priority is None else priority, rtol=1e-6, atol=1e-9)
    size = len(per_row[0][1])
    gradient = np.zeros((ACTIONS, size, FEATURES))
    for w, a, s, (_, slope) in zip(weight, batch.a_tm1.numpy(), batch.s_tm1.numpy(), per_row, strict=True):
        gradient[a] += w * np.outer(slope, s) / ROWS
    grad = made.online.head.linear.weight.grad
    np.testing.assert_allclose(grad, gradient.reshape(-1, FEATURES), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("double", [False, True])
def test_c51(double: bool) -> None:
    made, batch = learner_of(algorithm="c51", double=double, num_atoms=9, v_min=-2.0, v_max=2.0), batch_of()
    atoms = oracle.atoms(-2.0, 2.0, 9)
    nexts, now = outputs(made.target, batch.s_t, 9), outputs(made.online, batch.s_tm1, 9)
    chooser = outputs(made.online, batch.s_t, 9) if double else nexts
    per_row = []
    for b, a in enumerate(batch.a_tm1.tolist()):
        best = int(np.argmax(oracle.softmax(chooser[b]) @ atoms))
        r_t, discount_t = batch.r_t[b].item(), batch.discount_t[b].item()
        target = oracle.categorical_algorithm(r_t, discount_t, oracle.softmax(nexts[b, best]), -2.0, 2.0)
        per_row.append(oracle.divergence_and_gradient(target, now[b, a]))
    expect(made, batch, per_row)


def test_qr_dqn() -> None:
    made, batch = learner_of(algorithm="qr-dqn", num_quantiles=4, huber_delta=0.5), batch_of()
    nexts, now = outputs(made.target, batch.s_t, 4), outputs(made.online, batch.s_tm1, 4)
    per_row = []
    for b, a in enumerate(batch.a_tm1.tolist()):
        best = int(np.argmax(nexts[b].mean(axis=1)))
        target = batch.r_t[b].item() + batch.discount_t[b].item() * nexts[b, best]
        per_row.append(oracle.quantile_huber_and_gradient(now[b, a], (np.arange(4) + 0.5) / 4, target, 0.5))
    expect(made, batch, per_row)


@pytest.mark.parametrize("network", ["target", "online"])
def test_munchausen(network: str) -> None:
    made = learner_of(algorithm="munchausen", munchausen_tau=0.5, munchausen_network=network, huber_delta=None)
    batch = batch_of()
    nexts, now = outputs(made.target, batch.s_t, 1)[:, :, 0], outputs(made.online, batch.s_tm1, 1)[:, :, 0]
    before = outputs(made.target, batch.s_tm1, 1)[:, :, 0] if network == "target" else now
    per_row, errors = [], []
    for b, a in enumerate(batch.a_tm1.tolist()):
        ended = batch.discount_t[b].item() == 0
        rewards = [batch.r_t[b].item()]
        _, _, target = oracle.munchausen(
            rewards, GAMMA, ended, before[b], a, nexts[b], nexts[b][:, None], alpha=0.9, tau=0.5, clip=-1.0
        )
        error = float(target[0] - now[b, a])
        errors.append(abs(error))
        per_row.append((error**2 / 2, np.array([-error])))
    expect(made, batch, per_row, priority=np.array(errors))


@pytest.mark.parametrize("algorithm", ["iqn", "m-iqn"])
def test_implicit_quantiles(algorithm: str) -> None:
    """The fractions are the generator's, the target network's first; Munchausen's has one more, before the step."""
    soft = {"munchausen_tau": 0.5} if algorithm == "m-iqn" else {}
    made, batch = learner_of(algorithm=algorithm, num_fractions=4, num_cosines=5, **soft), batch_of()
    generator = torch.Generator().manual_seed(7)

    def drawn(network: Any, s: torch.Tensor) -> tuple[Array, Array]:
        """Fractions [B, N], and quantiles at them [B, A, N]."""
        fractions = torch.rand(ROWS, 4, dtype=torch.float64, generator=generator).numpy()
        w = {name: value.detach().numpy() for name, value in network.head.state_dict().items()}
        quantiles = [
            [oracle.implicit_quantiles(row, tau, w, 5) for tau in taus]
            for row, taus in zip(s.numpy(), fractions, strict=True)
        ]
        return fractions, np.array(quantiles).transpose(0, 2, 1)

    _, nexts = drawn(made.target, batch.s_t)
    before = drawn(made.target, batch.s_tm1)[1].mean(axis=2) if soft else None
    fractions, now = drawn(made.online, batch.s_tm1)
    losses = []
    for b, a in enumerate(batch.a_tm1.tolist()):
        r_t, discount_t = batch.r_t[b].item(), batch.discount_t[b].item()
        target = r_t + discount_t * nexts[b, int(np.argmax(nexts[b].mean(axis=1)))]
        if before is not None:
            values = nexts[b].mean(axis=1)
            _, _, target = oracle.munchausen(
                [r_t], GAMMA, discount_t == 0, before[b], a, values, nexts[b], alpha=0.9, tau=0.5, clip=-1.0
            )
        losses.append(oracle.quantile_huber_and_gradient(now[b, a], fractions[b], target, 1.0)[0])
    update = made.update(batch)
    np.testing.assert_allclose(update.priority, losses, rtol=1e-5)
    assert update.metrics["loss"].item() == pytest.approx(float(np.mean(batch.weight.numpy() * losses)), rel=1e-5)


def test_a_noisy_policy_draws_once_for_every_act_and_from_its_own_generator() -> None:
    made = learner_of(algorithm="rainbow", num_atoms=5, hidden=(4,))
    obs = np.ones((6, FEATURES))
    policy, again = (made.policy(torch.Generator().manual_seed(3)) for _ in range(2))
    before = made.generator.get_state()
    first, second = policy.values(obs)[0], policy.values(obs)[0]
    assert not torch.equal(first, second)
    assert torch.equal(first, first[:1].expand_as(first))  # the same noise for all envs
    assert torch.equal(again.values(obs)[0], first)
    assert torch.equal(made.generator.get_state(), before)


def test_noise_is_drawn_anew_for_each_minibatch() -> None:
    made = learner_of(algorithm="rainbow", num_atoms=5, hidden=(4,), learning_rate=1e-12)
    batch = batch_of()
    first, second = made.update(batch).priority, made.update(batch).priority
    assert (first - second).abs().max() > 1e-3
    still = learner_of(algorithm="c51", num_atoms=5, learning_rate=1e-12)
    first, second = still.update(batch).priority, still.update(batch).priority
    torch.testing.assert_close(first, second, rtol=0, atol=1e-6)


@pytest.mark.parametrize("algorithm", ["c51", "qr-dqn", "iqn", "munchausen", "m-iqn", "rainbow"])
def test_bfloat16_learns_what_float32_does(algorithm: str) -> None:
    config = DQNConfig(algorithm=algorithm, hidden=(128, 128), batch_size=64)
    spec = q_network_spec(config, InputSpec(shape=(FEATURES,)), ACTIONS)
    rng = np.random.default_rng(1)
    floats = [
        torch.from_numpy(rng.normal(size=size).astype(np.float32)) for size in ((64, FEATURES), 64, (64, FEATURES))
    ]
    actions, discount, weight = torch.from_numpy(rng.integers(ACTIONS, size=64)), torch.full((64,), 0.9), torch.ones(64)
    batch = Batch(floats[0], actions, floats[1], discount, floats[2], weight)
    losses = []
    for precision in ("float32", "bfloat16"):
        network = build_network(spec, torch.Generator().manual_seed(0))
        generator = torch.Generator().manual_seed(7)
        made = DQNLearner(config, network, device=torch.device("cpu"), precision=precision, generator=generator)  # type: ignore[arg-type]
        losses.append(made.update(batch).metrics["loss"].item())
    assert losses[1] == pytest.approx(losses[0], rel=0.03)
    assert losses[1] != losses[0]
