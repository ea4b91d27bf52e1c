"""Algorithms as rows: what a row fixes, what a configuration may add to it, and what it has no use for."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from torso.agents import DQN, GREEDY_ONLINE, GREEDY_TARGET, Algorithm, DQNConfig, Forwards, register_algorithm
from torso.agents.value_based.algorithms import algorithm_names, algorithm_row
from torso.agents.value_based.config import IDENTITY, upgrade_settings
from torso.agents.value_based.network import q_network_spec
from torso.agents.value_based.next_policies import SoftmaxPolicy
from torso.errors import ConfigError
from torso.nets import InputSpec, register_head

pytestmark = pytest.mark.usefixtures("registries")


@dataclass(frozen=True)
class SoftPolicy:
    """A next policy that is neither of the two greedy ones."""

    needs: frozenset[str] = frozenset()

    def __call__(self, forwards: Forwards) -> tuple[Tensor, Tensor]:
        return forwards.target_t.softmax(dim=1), torch.zeros_like(forwards.discount_t)


@dataclass(frozen=True, kw_only=True)
class PlainSpec:
    num_actions: int
    scale: float = 1.0


def test_an_algorithm_is_in_the_configuration_once() -> None:
    agent = DQN("CartPole-v1", algorithm="double", config=DQNConfig())
    assert (agent.config.algorithm, agent.config.double) == ("double", True)
    assert agent.config == DQNConfig(algorithm="double")
    assert agent.config.row.next_policy == GREEDY_ONLINE
    assert DQN("CartPole-v1", config=DQNConfig(algorithm="dueling")).config.dueling
    with pytest.raises(ConfigError, match="unknown algorithm 'c52'; known are dqn, double"):
        DQNConfig(algorithm="c52")


@pytest.mark.parametrize("name", algorithm_names())
def test_a_configuration_shows_what_its_row_is_made_of(name: str) -> None:
    config, row = DQNConfig(algorithm=name), algorithm_row(name)
    assert config.row == row
    for setting in IDENTITY:
        assert getattr(config, setting) == getattr(row, setting)


def test_the_rows() -> None:
    """The head, dueling, noisy, next policy, exploration, prioritized and n of each, as the papers have them."""
    soft = SoftmaxPolicy(alpha=0.9, tau=0.03, clip=-1.0, network="target")
    expected: dict[str, tuple[object, ...]] = {
        "dqn": ("scalar", False, False, GREEDY_TARGET, "epsilon", False, 1),
        "double": ("scalar", False, False, GREEDY_ONLINE, "epsilon", False, 1),
        "dueling": ("scalar", True, False, GREEDY_ONLINE, "epsilon", False, 1),
        "prioritized": ("scalar", False, False, GREEDY_ONLINE, "epsilon", True, 1),
        "n-step": ("scalar", False, False, GREEDY_ONLINE, "epsilon", False, 3),
        "c51": ("categorical", False, False, GREEDY_TARGET, "epsilon", False, 1),
        "qr-dqn": ("quantile", False, False, GREEDY_TARGET, "epsilon", False, 1),
        "iqn": ("implicit-quantile", False, False, GREEDY_TARGET, "epsilon", False, 1),
        "munchausen": ("scalar", False, False, soft, "epsilon", False, 1),
        "m-iqn": ("implicit-quantile", False, False, soft, "epsilon", False, 1),
        "rainbow": ("categorical", True, True, GREEDY_ONLINE, "noisy", True, 3),
    }
    rows = {name: algorithm_row(name) for name in algorithm_names()}
    assert {
        name: (row.head, row.dueling, row.noisy, row.next_policy, row.exploration, row.prioritized, row.n_step)
        for name, row in rows.items()
    } == expected
    assert all(row.source and not row.head_settings for row in rows.values())


def test_noise_is_added_to_what_a_row_explores_by_and_may_replace_it() -> None:
    assert DQNConfig(noisy=True).row.exploration == "epsilon"
    alone = DQNConfig(noisy=True, exploration="noisy")
    assert alone.row.exploration == "noisy"
    assert alone.with_algorithm("double") == DQNConfig(algorithm="double", noisy=True, exploration="noisy")
    assert DQNConfig(algorithm="rainbow").with_algorithm("dqn") == DQNConfig()


def test_munchausens_settings_are_the_rows_unless_given() -> None:
    row = DQNConfig(algorithm="munchausen", munchausen_tau=0.1, munchausen_network="online").row
    assert row.next_policy == SoftmaxPolicy(tau=0.1, network="online")
    register_algorithm("softer", Algorithm(next_policy=SoftmaxPolicy(tau=0.5, alpha=0.0)))
    assert DQNConfig(algorithm="softer").row.next_policy == SoftmaxPolicy(tau=0.5, alpha=0.0)
    assert DQNConfig(algorithm="softer").munchausen_tau == 0.5
    assert DQNConfig(algorithm="munchausen").with_algorithm("dqn") == DQNConfig()
    assert DQNConfig(algorithm="munchausen").with_algorithm("softer") == DQNConfig(algorithm="softer")


def test_a_setting_adds_to_a_row() -> None:
    config = DQNConfig(algorithm="prioritized", dueling=True, n_step=5)
    assert config.row == replace(algorithm_row("prioritized"), dueling=True, n_step=5)
    assert DQNConfig(double=True).row.next_policy == GREEDY_ONLINE
    assert DQNConfig(algorithm="n-step", n_step=7).n_step == 7


@pytest.mark.parametrize(
    ("algorithm", "setting", "expected"),
    [
        ("double", {"double": False}, "double must be True for algorithm 'double', got False; leave it out"),
        ("dueling", {"dueling": False}, "dueling must be True for algorithm 'dueling', got False"),
        ("prioritized", {"prioritized": False}, "prioritized must be True for algorithm 'prioritized', got False"),
        ("rainbow", {"dueling": False}, "dueling must be True for algorithm 'rainbow', got False; leave it out"),
        ("rainbow", {"noisy": False}, "noisy must be True for algorithm 'rainbow', got False; leave it out"),
        ("rainbow", {"double": False}, "double must be True for algorithm 'rainbow', got False; leave it out"),
        ("rainbow", {"prioritized": False}, "prioritized must be True for algorithm 'rainbow', got False"),
        ("rainbow", {"n_step": 1}, "n_step must be more than 1 for algorithm 'rainbow', got 1"),
        ("rainbow", {"head": "scalar"}, "head must be 'categorical' for algorithm 'rainbow', got 'scalar'"),
        ("rainbow", {"exploration": "epsilon"}, "exploration must be 'noisy' for algorithm 'rainbow', got 'epsilon'"),
        ("iqn", {"head": "quantile"}, "head must be 'implicit-quantile' for algorithm 'iqn', got 'quantile'"),
        ("m-iqn", {"double": True}, "double must be False for algorithm 'm-iqn', whose next policy is SoftmaxPolicy"),
        ("dqn", {"exploration": "noisy"}, "exploration must not be 'noisy' without noisy, or nothing would explore"),
        (
            "dqn",
            {"exploration": "softmax"},
            "exploration must be one of epsilon, ladder, noisy, boltzmann; got 'softmax'",
        ),
        ("plain", {"noisy": True}, "noisy must be False for head 'plain-of-a-test', whose specification has no such"),
        ("n-step", {"n_step": 1}, "n_step must be more than 1 for algorithm 'n-step', got 1"),
        ("dqn", {"double": "yes"}, "double must be True or False, got 'yes'"),
        (
            "dqn",
            {"head": "logits"},
            "head must be one that values actions, got 'logits'; known are scalar, categorical",
        ),
        ("soft", {"double": True}, "double must be False for algorithm 'soft', whose next policy is SoftPolicy"),
        ("plain", {"dueling": True}, "dueling must be False for head 'plain-of-a-test', whose specification has no"),
        ("plain", {"head": "scalar"}, "head must be 'plain-of-a-test' for algorithm 'plain', got 'scalar'"),
    ],
)
def test_what_contradicts_a_row_is_refused(algorithm: str, setting: dict[str, Any], expected: str) -> None:
    register_algorithm("soft", Algorithm(next_policy=SoftPolicy()))
    register_head("plain-of-a-test", PlainSpec, lambda spec, num_features: None)  # type: ignore[arg-type,return-value]
    register_algorithm("plain", Algorithm(head="plain-of-a-test"))
    with pytest.raises(ConfigError) as error:
        DQNConfig(algorithm=algorithm, **setting)
    assert str(error.value).startswith(expected)


def test_another_algorithm_keeps_what_was_added() -> None:
    config = DQNConfig(algorithm="n-step", dueling=True, batch_size=7)
    assert config.with_algorithm("prioritized") == DQNConfig(algorithm="prioritized", dueling=True, batch_size=7)
    assert config.with_algorithm("dueling").row == algorithm_row("dueling")
    assert DQNConfig(double=True).with_algorithm("dqn") == DQNConfig(double=True)


@pytest.mark.parametrize("name", ["priority_exponent", "importance_start", "importance_end", "importance_steps"])
def test_settings_of_priorities_are_for_priorities(name: str) -> None:
    value = 7 if name == "importance_steps" else 0.25
    with pytest.raises(ConfigError, match=f"^{name} must be left out without prioritized, got {value}"):
        DQN("torso/Identity-v0", algorithm="dqn", **{name: value})
    with pytest.raises(ConfigError, match=f"^{name} must be left out without prioritized, got {value}"):
        DQN("torso/Identity-v0", config=DQNConfig(**{name: value}))
    default = DQNConfig.__dataclass_fields__[name].default
    with pytest.raises(ConfigError, match=f"^{name} must be left out without prioritized"):
        DQN("torso/Identity-v0", **{name: default})
    assert getattr(DQN("torso/Identity-v0", algorithm="prioritized", **{name: value}).config, name) == value


@pytest.mark.parametrize(
    ("algorithm", "settings", "message"),
    [
        (
            "dqn",
            {"num_atoms": 11},
            "num_atoms must be left out for head 'scalar', whose specification has no such field",
        ),
        ("dqn", {"v_min": 0.0}, "v_min must be left out for head 'scalar'"),
        ("qr-dqn", {"v_max": 0.0}, "v_max must be left out for head 'quantile'"),
        ("c51", {"num_quantiles": 7}, "num_quantiles must be left out for head 'categorical'"),
        ("c51", {"huber_delta": 0.5}, "huber_delta must be left out for head 'categorical'"),
        ("c51", {"num_cosines": 7}, "num_cosines must be left out for head 'categorical'"),
        ("qr-dqn", {"num_fractions": 7}, "num_fractions must be left out for head 'quantile'"),
        ("qr-dqn", {"num_fixed_fractions": 7}, "num_fixed_fractions must be left out for head 'quantile'"),
        ("dqn", {"noisy_std": 0.1}, "noisy_std must be left out without noisy, got 0.1"),
        ("dqn", {"munchausen_tau": 0.1}, "munchausen_tau must be left out for algorithm 'dqn', whose next policy is"),
        (
            "iqn",
            {"munchausen_alpha": 0.1},
            "munchausen_alpha must be left out for algorithm 'iqn', whose next policy is",
        ),
        ("dqn", {"munchausen_clip": -2.0}, "munchausen_clip must be left out for algorithm 'dqn'"),
        ("dqn", {"munchausen_network": "online"}, "munchausen_network must be left out for algorithm 'dqn'"),
        ("rainbow", {"epsilon_end": 0.2}, "epsilon_end must be left out with exploration 'noisy', got 0.2"),
        ("dqn", {"temperature": 2.0}, "temperature must be left out with exploration 'epsilon', got 2.0"),
        ("dqn", {"ladder_epsilon": 0.2}, "ladder_epsilon must be left out with exploration 'epsilon', got 0.2"),
        (
            "dqn",
            {"exploration": "boltzmann", "ladder_alpha": 2.0},
            "ladder_alpha must be left out with exploration 'bol",
        ),
        ("fixed", {"num_quantiles": 7}, "num_quantiles must be left out for algorithm 'fixed', which sets it, got 7"),
    ],
)
def test_settings_that_an_algorithm_has_no_use_for_are_refused(
    algorithm: str, settings: dict[str, Any], message: str
) -> None:
    register_algorithm("fixed", Algorithm(head="quantile", head_settings={"num_quantiles": 5}))
    with pytest.raises(ConfigError) as error:
        DQN("torso/Identity-v0", algorithm=algorithm, **settings)
    assert str(error.value).startswith(message)


def test_a_decay_without_an_end_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^learning_rate_decay_steps must be left out without learning_rate_end"):
        DQN("torso/Identity-v0", learning_rate_decay_steps=10)
    DQN("torso/Identity-v0", learning_rate_decay_steps=10, learning_rate_end=1e-5)


@pytest.mark.parametrize(
    ("recorded", "algorithm"),
    [
        ({"algorithm": "double", "double": True}, "double"),
        ({"algorithm": "double", "double": False}, "dqn"),  # it was recorded as double, and was not
        ({"algorithm": "dqn", "n_step": 3}, "dqn"),  # as a preset had it
        ({"algorithm": "n-step", "double": True, "n_step": 1}, "double"),
        ({"double": True, "n_step": 3, "dueling": False}, "n-step"),  # a model's provenance names none
        ({"double": True, "n_step": 2}, "double"),
        ({"batch_size": 5}, "dqn"),
        ({"algorithm": "of-another-day", "double": False, "dueling": True}, "dqn"),
    ],
)
def test_older_settings_keep_their_meaning(recorded: dict[str, Any], algorithm: str) -> None:
    config = DQNConfig.from_recorded(recorded)
    assert config.algorithm == algorithm
    expected = {"head": "scalar", **{name: value for name, value in recorded.items() if name != "algorithm"}}
    assert {name: getattr(config, name) for name in expected} == expected
    today = asdict(config)
    assert upgrade_settings(today) == today
    assert DQNConfig.from_recorded(today) == config


def test_settings_of_before_there_were_distributions_mean_what_they_meant() -> None:
    today = asdict(DQNConfig(algorithm="n-step", dueling=True))
    later = ("num_atoms", "v_min", "v_max", "num_quantiles", "num_fractions", "num_fixed_fractions", "num_cosines")
    later += ("noisy", "noisy_std", "munchausen_alpha", "munchausen_tau", "munchausen_clip", "munchausen_network")
    later += ("exploration", "ladder_epsilon", "ladder_alpha", "temperature")
    before = {name: value for name, value in today.items() if name not in later}
    assert upgrade_settings(before) == today


def test_older_settings_without_use_are_dropped() -> None:
    recorded = {"algorithm": "dqn", "prioritized": False, "priority_exponent": 0.3}
    assert DQNConfig.from_recorded(recorded) == DQNConfig()
    assert DQNConfig.from_recorded({**recorded, "prioritized": True}).priority_exponent == 0.3


def test_a_row_of_ones_own_sets_its_head() -> None:
    register_head("plain-of-a-test", PlainSpec, lambda spec, num_features: None)  # type: ignore[arg-type,return-value]
    register_algorithm("plain", Algorithm(head="plain-of-a-test", head_settings={"scale": 2.0}))
    assert algorithm_names()[-1] == "plain"
    config = DQNConfig(algorithm="plain")
    assert (config.head, config.row.head_settings) == ("plain-of-a-test", {"scale": 2.0})
    assert config.row.next_policy == GREEDY_TARGET
    with pytest.raises(ConfigError, match=r"^huber_delta must be left out for head 'plain-of-a-test'"):
        config.require_used(["huber_delta"])


def test_a_head_of_ones_own_keeps_its_sizes_and_may_have_the_last_layer() -> None:
    @dataclass(frozen=True, kw_only=True)
    class OwnSpec:
        own_layers: ClassVar[bool] = True
        num_actions: int
        num_quantiles: int = 32
        hidden: tuple[int, ...] = ()

    register_head("own-of-a-test", OwnSpec, lambda spec, num_features: None)  # type: ignore[arg-type,return-value]
    register_algorithm("own", Algorithm(head="own-of-a-test"))
    network_input = InputSpec(shape=(2,))
    spec = q_network_spec(DQNConfig(algorithm="own", hidden=(16, 8)), network_input, 3)
    assert (spec.torso.hidden, spec.head) == ((16,), OwnSpec(num_actions=3, num_quantiles=32, hidden=(8,)))
    given = DQNConfig(algorithm="own", hidden=(16, 8), num_quantiles=5)
    assert q_network_spec(given, network_input, 3).head.num_quantiles == 5


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("mine", Algorithm(exploration="noisy"), "exploration must not be 'noisy' without noisy"),
        ("mine", Algorithm(exploration="luck"), "exploration must be one of epsilon, ladder, noisy, boltzmann"),
        ("rainbow", Algorithm(), "an algorithm's name must not be one of torso's own, got 'rainbow'"),
        ("dqn", Algorithm(), "an algorithm's name must not be one of torso's own, got 'dqn'"),
        ("", Algorithm(), "an algorithm's name must be text"),
        ("--mine", Algorithm(), "an algorithm's name must be text that does not begin with -, got '--mine'"),
        ("mine", {"head": "scalar"}, "algorithm 'mine' must be an Algorithm, got"),
        ("mine", Algorithm(head="of-nobody"), "head must be one that values actions, got 'of-nobody'"),
        ("mine", Algorithm(head_settings={"atoms": 51}), "the head 'scalar' of algorithm 'mine' has no field atoms"),
    ],
)
def test_a_row_that_cannot_be_registered(name: str, row: Any, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        register_algorithm(name, row)
    assert str(error.value).startswith(message)
