"""Algorithms of the DQN family as rows: what makes each one what its paper says.

A row is data, so an algorithm of your own is a row of your own (`register_algorithm`); the learner, the replay and the
driver are the same for all. Everything else (rates, sizes, budgets) is a setting of `DQNConfig`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torso.agents.value_based.exploration import require_exploration
from torso.agents.value_based.next_policies import GREEDY_ONLINE, GREEDY_TARGET, NextPolicy, SoftmaxPolicy
from torso.errors import ConfigError
from torso.nets.specs.named_heads import head_fields, require_head
from torso.plain import shown


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """Row of the algorithm table. Its name is the one that it is registered by."""

    head: str = "scalar"
    """Registered head of its networks, one that values actions."""
    head_settings: Mapping[str, object] = field(default_factory=dict)
    """Fields of the head's specification that the algorithm sets, such as a number of quantiles."""
    next_policy: NextPolicy = GREEDY_TARGET
    """Policy that its targets assume after the step."""
    dueling: bool = False
    """Whether its head has a value and an advantage stream."""
    noisy: bool = False
    """Whether the layers of its head have learnt noise."""
    exploration: str = "epsilon"
    """Name of the explorer that acts: epsilon, ladder, noisy or boltzmann."""
    prioritized: bool = False
    """Whether transitions are sampled in proportion to their priorities."""
    n_step: int = 1
    """Rewards in a target before it bootstraps."""
    source: str = ""
    """Publication that it is from."""

    @property
    def double(self) -> bool:
        """Whether the online network picks the next action, and the target network values it."""
        return self.next_policy == GREEDY_ONLINE

    @property
    def has_greedy_rule(self) -> bool:
        """Whether its next policy is one of the two that the setting ``double`` chooses from."""
        return self.next_policy in (GREEDY_TARGET, GREEDY_ONLINE)


_ROWS: dict[str, Algorithm] = {}  # by name
_BUILT_IN = frozenset(
    {
        *("dqn", "double", "dueling", "prioritized", "n-step"),
        *("c51", "qr-dqn", "iqn", "munchausen", "m-iqn", "rainbow"),
    }
)


def register_algorithm(name: str, algorithm: Algorithm) -> None:
    """Register an algorithm of your own, for ``DQN(env, algorithm=name)`` and ``torso train name``.

    A name that is registered already is replaced, except torso's own.

    Raises:
        ConfigError: a name that is not text or one of torso's own; a row whose head is not registered, does not value
            actions or lacks what the row asks of it.
    """
    if not (isinstance(name, str) and name) or name.startswith("-"):
        raise ConfigError(f"an algorithm's name must be text that does not begin with -, got {shown(name)}")
    if name in _ROWS and name in _BUILT_IN:
        raise ConfigError(f"an algorithm's name must not be one of torso's own, got {name!r}; choose another name")
    if not isinstance(algorithm, Algorithm):
        raise ConfigError(f"algorithm {name!r} must be an Algorithm, got {shown(algorithm)}")
    require_head(algorithm.head, "policy")
    known = head_fields(algorithm.head)
    unknown = [each for each in algorithm.head_settings if each not in known]
    unknown += [each for each in ("dueling", "noisy") if getattr(algorithm, each) and each not in known]
    if unknown:
        raise ConfigError(f"the head {algorithm.head!r} of algorithm {name!r} has no field {', '.join(unknown)}")
    require_exploration(algorithm.exploration, noisy=algorithm.noisy)
    _ROWS[name] = algorithm


def algorithm_names() -> tuple[str, ...]:
    """Names of all algorithms, torso's own first."""
    return tuple(_ROWS)


def algorithm_row(name: object) -> Algorithm:
    """Look up an algorithm; ConfigError for one that is not registered."""
    if isinstance(name, str) and name in _ROWS:
        return _ROWS[name]
    raise unknown_algorithm(name, tuple(_ROWS))


def unknown_algorithm(name: object, known: Sequence[str]) -> ConfigError:
    """Return the error for a name that is not among those ``known``."""
    close = difflib.get_close_matches(str(name), known)
    hint = f"; did you mean {close[0]}?" if close else ""
    return ConfigError(f"unknown algorithm {name!r}; known are {', '.join(known)}{hint}")


register_algorithm("dqn", Algorithm(source="Mnih et al. 2015"))
register_algorithm("double", Algorithm(next_policy=GREEDY_ONLINE, source="van Hasselt et al. 2016"))
register_algorithm("dueling", Algorithm(next_policy=GREEDY_ONLINE, dueling=True, source="Wang et al. 2016"))
register_algorithm("prioritized", Algorithm(next_policy=GREEDY_ONLINE, prioritized=True, source="Schaul et al. 2016"))
register_algorithm("n-step", Algorithm(next_policy=GREEDY_ONLINE, n_step=3, source="Hessel et al. 2018"))
register_algorithm("c51", Algorithm(head="categorical", source="Bellemare et al. 2017"))
register_algorithm("qr-dqn", Algorithm(head="quantile", source="Dabney et al. 2018, QR-DQN"))
register_algorithm("iqn", Algorithm(head="implicit-quantile", source="Dabney et al. 2018, IQN"))
register_algorithm("munchausen", Algorithm(next_policy=SoftmaxPolicy(), source="Vieillard et al. 2020"))
register_algorithm(
    "m-iqn", Algorithm(head="implicit-quantile", next_policy=SoftmaxPolicy(), source="Vieillard et al. 2020")
)
register_algorithm(
    "rainbow",
    Algorithm(
        head="categorical",
        next_policy=GREEDY_ONLINE,
        dueling=True,
        noisy=True,
        exploration="noisy",
        prioritized=True,
        n_step=3,
        source="Hessel et al. 2018",
    ),
)
