"""DQN settings, their checks and schedules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Literal

from torso.agents.optim.schedules import linear
from torso.agents.value_based.algorithms import Algorithm, algorithm_names, algorithm_row
from torso.agents.value_based.exploration import EXPLORATIONS, require_exploration
from torso.agents.value_based.next_policies import GREEDY_ONLINE, GREEDY_TARGET, SoftmaxPolicy
from torso.agents.value_based.training_config import SHARED_CHECKS, Check, TrainingConfig, one_of
from torso.checks import count, flag, number, optional, positive, share, text, whole
from torso.errors import ConfigError
from torso.nets.specs.named_heads import has_own_layers, head_fields, require_head

_OF_ALGORITHM: Any = None  # the default of a setting whose value is the algorithm's, unless it is given
# The settings of which an algorithm is made.
IDENTITY = ("head", "double", "dueling", "noisy", "exploration", "prioritized", "n_step")

_NEED_PRIORITIES = ("priority_exponent", "importance_start", "importance_end", "importance_steps")
_FIELDS_OF_POLICY = {  # of a SoftmaxPolicy, by setting
    "munchausen_alpha": "alpha",
    "munchausen_tau": "tau",
    "munchausen_clip": "clip",
    "munchausen_network": "network",
}
_LEFT_TO_HEAD = (  # None is the default of the head's specification
    *("num_atoms", "v_min", "v_max", "num_quantiles"),
    *("num_fractions", "num_fixed_fractions", "num_cosines", "noisy_std"),
)
_OF_HEADS = ("huber_delta", *_LEFT_TO_HEAD)
_OF_EXPLORATIONS = tuple(name for each in EXPLORATIONS.values() for name in each.settings)
_NEVER_PRESET = (*_NEED_PRIORITIES, *_FIELDS_OF_POLICY, "noisy_std", "ladder_epsilon", "ladder_alpha", "temperature")


@dataclass(frozen=True, kw_only=True)
class DQNConfig(TrainingConfig):
    """Settings of DQN. A step is one action of one env, whatever the number of envs.

    ``head``, ``double``, ``dueling``, ``noisy``, ``exploration``, ``prioritized`` and ``n_step`` are the algorithm's
    unless they are given. They may add to it, and not take away what makes it that algorithm.
    """

    agent = "DQN"
    optional_names = IDENTITY
    never_preset = _NEVER_PRESET

    algorithm: str = "dqn"
    """Algorithm: dqn, double, dueling, prioritized, n-step, c51, qr-dqn, iqn, munchausen, m-iqn or rainbow, or a
    registered one."""
    n_step: int = _OF_ALGORITHM
    """Number of rewards in a TD target before it bootstraps (Sutton 1988; Hessel et al. 2018)."""
    adam_eps: float = 1e-8
    """Epsilon in the denominator of Adam (Kingma & Ba 2015)."""
    huber_delta: float | None = 1.0
    """TD error beyond which the Huber loss is linear (Mnih et al. 2015); None: squared error, or with a head of
    quantiles the plain quantile loss."""
    batch_size: int = 64
    """Transitions sampled from the replay for each gradient step."""
    replay_capacity: int = 100_000
    """Steps that the replay holds; the oldest are overwritten."""
    min_replay_size: int = 1_000
    """Steps in the replay before the first gradient step."""
    learn_period: int = 4
    """Steps in the env from one learning phase to the next (Mnih et al. 2015)."""
    updates_per_phase: int = 1
    """Gradient steps in each learning phase."""
    target_update_period: int = 1_000
    """Steps between updates of the target network."""
    target_update_rate: float = 1.0
    """Share of the way that an update moves the target network to the online one; 1 copies it (Mnih et al. 2015)."""
    head: str = _OF_ALGORITHM
    """Head of the network, which values actions: scalar, categorical (C51), quantile (QR-DQN) or implicit-quantile
    (IQN), or a registered one."""
    num_atoms: int | None = None
    """Atoms of a categorical head; None: the head's own, 51 as in Bellemare et al. 2017."""
    v_min: float | None = None
    """Smallest return that a categorical head tells from smaller ones, rewards being as in targets; None: the head's
    own, -10 as in Bellemare et al. 2017."""
    v_max: float | None = None
    """Largest return that a categorical head tells from larger ones, rewards being as in targets; None: the head's own,
    10 as in Bellemare et al. 2017."""
    num_quantiles: int | None = None
    """Quantiles of a quantile head; None: the head's own, 200 as in Dabney et al. 2018, QR-DQN."""
    num_fractions: int | None = None
    """Fractions that an implicit quantile head draws for each state, in updates and in acting; None: the head's own,
    64 as in Dabney et al. 2018, IQN."""
    num_fixed_fractions: int | None = None
    """Fractions of an implicit quantile head where none are drawn, in evaluation and in a served model; None: the
    head's own, 32."""
    num_cosines: int | None = None
    """Cosines that embed a fraction in an implicit quantile head; None: the head's own, 64 as in Dabney et al. 2018,
    IQN."""
    double: bool = _OF_ALGORITHM
    """Double Q-learning: the online network picks the next action, the target network values it (van Hasselt 2016)."""
    dueling: bool = _OF_ALGORITHM
    """Dueling network: a value and an advantage stream, each with the last of the hidden layers (Wang et al. 2016)."""
    noisy: bool = _OF_ALGORITHM
    """Noisy network: learnt noise in the weights of the head, which has the last of the hidden layers (Fortunato et al.
    2018)."""
    noisy_std: float | None = None
    """Deviation of that noise at first, for one input of a layer; for p inputs it is divided by the root of p; None:
    the head's own, 0.5 as in Fortunato et al. 2018."""
    munchausen_alpha: float | None = None
    """Share of the policy's scaled logarithm in a Munchausen algorithm's reward; None: its own, 0.9 as in
    Vieillard et al. 2020."""
    munchausen_tau: float | None = None
    """Temperature of a Munchausen algorithm's policy; None: its own, 0.03 as in Vieillard et al. 2020."""
    munchausen_clip: float | None = None
    """Smallest value of that scaled logarithm, at most 0; None: the algorithm's own, -1 as in
    Vieillard et al. 2020."""
    munchausen_network: Literal["target", "online"] | None = None
    """Network that gives that logarithm, target or online; None: the algorithm's own, target as in
    Vieillard et al. 2020 (online as in Clark et al. 2024)."""
    prioritized: bool = _OF_ALGORITHM
    """Prioritized replay: sample in proportion to TD errors, or to the losses of a head of distributions, instead of
    evenly (Schaul et al. 2016; Hessel et al. 2018)."""
    priority_exponent: float = 0.6
    """Exponent of TD errors, or losses, as priorities, with prioritized replay; 0 samples evenly (Schaul et al.
    2016)."""
    importance_start: float = 0.4
    """Exponent of importance weights at step 0, with prioritized replay; 1 corrects the bias of priorities fully."""
    importance_end: float = 1.0
    """Exponent of importance weights after importance_steps, with prioritized replay."""
    importance_steps: int = 100_000
    """Steps over which the exponent goes from importance_start to importance_end, with prioritized replay."""
    exploration: str = _OF_ALGORITHM
    """Exploration: epsilon (random actions, fewer by and by), ladder (random actions, in each env another share),
    noisy (the noise of a noisy network alone) or boltzmann (actions in proportion to exp(value / temperature))."""
    ladder_epsilon: float = 0.4
    """Probability of a random action in the first env of a ladder (Horgan et al. 2018)."""
    ladder_alpha: float = 7.0
    """Growth of that probability's exponent, from 1 in the first env of a ladder to 1 + this in the last."""
    temperature: float = 1.0
    """Temperature of boltzmann exploration, in units of the values."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set_identity()
        if self.target_update_rate == 0:
            raise ConfigError("target_update_rate must be above 0, or the target network would never learn, got 0")
        if self.dueling and not self.hidden and self.net in ("auto", "mlp"):
            raise ConfigError(
                "hidden must have at least one layer with dueling, whose streams it forms, got (); "
                "give hidden at least one"
            )
        if self.min_replay_size > self.replay_capacity:
            raise ConfigError(
                f"min_replay_size must be at most replay_capacity {self.replay_capacity}, or it is never reached, got "
                f"{self.min_replay_size}"
            )
        if self.min_replay_size <= self.n_step * self.num_envs:
            raise ConfigError(
                f"min_replay_size must be more than n_step times num_envs, since a step is sampled once those "
                f"after it were made; got {self.min_replay_size} for {self.n_step} of {self.num_envs} envs"
            )
        minimum = (self.n_step + 2) * self.num_envs
        if self.replay_capacity < minimum:
            raise ConfigError(
                f"replay_capacity must hold at least {self.n_step + 2} steps of each env, {minimum} in all, got "
                f"{self.replay_capacity}"
            )

    def _set_identity(self) -> None:
        """Take from the algorithm's row what was not given; refuse what contradicts the row."""
        row = algorithm_row(self.algorithm)
        for name in IDENTITY:
            value, own = getattr(self, name), getattr(row, name)
            if value is None:
                object.__setattr__(self, name, own)
            elif takes_away(row, name, value):
                expected = "more than 1" if name == "n_step" else f"{own!r}"
                raise ConfigError(
                    f"{name} must be {expected} for algorithm {self.algorithm!r}, got {value!r}; leave it out, or give "
                    "another algorithm"
                )
        if isinstance(row.next_policy, SoftmaxPolicy):
            for name, value in _settings_of(row.next_policy).items():
                if getattr(self, name) is None:
                    object.__setattr__(self, name, value)
        require_head(self.head, "policy")
        if self.double and not row.has_greedy_rule:
            raise ConfigError(
                f"double must be False for algorithm {self.algorithm!r}, whose next policy is {row.next_policy!r}, got "
                "True; leave it out"
            )
        for name in ("dueling", "noisy"):
            if getattr(self, name) and name not in head_fields(self.head):
                raise ConfigError(
                    f"{name} must be False for head {self.head!r}, whose specification has no such field, got True; "
                    "leave it out"
                )
        require_exploration(self.exploration, noisy=self.noisy)

    @cached_property
    def row(self) -> Algorithm:
        """The algorithm's row, with what this configuration changes of it."""
        row = algorithm_row(self.algorithm)
        if row.has_greedy_rule:
            row = replace(row, next_policy=GREEDY_ONLINE if self.double else GREEDY_TARGET)
        if isinstance(row.next_policy, SoftmaxPolicy):
            given = {_FIELDS_OF_POLICY[name]: getattr(self, name) for name in _FIELDS_OF_POLICY}
            row = replace(row, next_policy=SoftmaxPolicy(**given))
        own = row.head_settings if self.head == row.head else {}
        return replace(
            row,
            head=self.head,
            head_settings=own,
            dueling=self.dueling,
            noisy=self.noisy,
            exploration=self.exploration,
            prioritized=self.prioritized,
            n_step=self.n_step,
        )

    @property
    def head_settings(self) -> dict[str, Any]:
        """Settings that a head's specification may have fields for, those that are left to the head aside."""
        given = {name: getattr(self, name) for name in _LEFT_TO_HEAD}
        own = {"huber_delta": self.huber_delta, "dueling": self.dueling, "noisy": self.noisy}
        return own | {name: value for name, value in given.items() if value is not None} | dict(self.row.head_settings)

    @property
    def head_has_layers(self) -> bool:
        """Whether the last of the hidden layers is the head's: of a dueling, a noisy or an implicit quantile one."""
        return self.dueling or self.noisy or has_own_layers(self.head)

    @classmethod
    def checks(cls) -> Mapping[str, Check]:
        """Check of each setting, by name."""
        return _CHECKS

    @classmethod
    def upgrade_settings(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Bring recorded settings to the form of today; they keep their meaning."""
        return upgrade_settings(settings)

    def with_algorithm(self, name: str) -> DQNConfig:
        """Copy the configuration for another algorithm; what was added to the one of before is kept."""
        before = algorithm_row(self.algorithm)
        own = {each: getattr(before, each) for each in IDENTITY}
        if isinstance(before.next_policy, SoftmaxPolicy):
            own |= _settings_of(before.next_policy)
        taken = {name: None for name, value in own.items() if getattr(self, name) == value}
        return replace(self, algorithm=name, **taken)  # type: ignore[arg-type]

    def reason_unused(self, name: str) -> str:
        """Say why a setting is of no use; empty where it is of use."""
        if name in _NEED_PRIORITIES and not self.prioritized:
            return "without prioritized"
        if name == "noisy_std" and not self.noisy:
            return "without noisy"
        if name in _FIELDS_OF_POLICY and not isinstance(self.row.next_policy, SoftmaxPolicy):
            return f"for algorithm {self.algorithm!r}, whose next policy is {self.row.next_policy!r}"
        if name in _OF_EXPLORATIONS and name not in EXPLORATIONS[self.exploration].settings:
            return f"with exploration {self.exploration!r}"
        if name in self.row.head_settings:
            return f"for algorithm {self.algorithm!r}, which sets it"
        if name in _OF_HEADS and name not in head_fields(self.head):
            return f"for head {self.head!r}, whose specification has no such field"
        return super().reason_unused(name)

    @property
    def head_name(self) -> str:
        """Registered head of the network, ``head``."""
        return self.head

    @property
    def steps_to_first_update(self) -> int:
        """Steps before the first update, ``min_replay_size``."""
        return self.min_replay_size

    def nothing_learnt(self) -> str:
        """Say when the first update comes."""
        return f"after min_replay_size {self.min_replay_size:,}; train longer, or lower it"

    def importance(self, step: int) -> float:
        """Exponent of the importance weights at a step."""
        return linear(step, start=self.importance_start, end=self.importance_end, num_steps=self.importance_steps)


def takes_away(row: Algorithm, name: str, value: object) -> bool:
    """Whether a setting's value takes away what makes the algorithm of a row: what it has beyond plain DQN."""
    own, plain = getattr(row, name), getattr(Algorithm(), name)
    return bool(own != plain and (value == plain if name == "n_step" else value != own))


def upgrade_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Bring recorded settings to the form of today; they keep their meaning.

    Before a row of the table was a setting, the name of the algorithm stood beside the settings and could differ from
    them, or was not recorded: then it is the row that has these settings, or the nearest.
    """
    fields = DQNConfig.__dataclass_fields__
    settings = {**_BEFORE, **settings}
    if "head" in settings:
        return settings
    identity = {name: settings[name] for name in IDENTITY if name in settings}
    name = settings.get("algorithm")
    if name not in algorithm_names() or any(takes_away(algorithm_row(name), *each) for each in identity.items()):
        nearest = "double" if identity.get("double") else "dqn"
        exact = (each for each in algorithm_names() if _has(algorithm_row(each), identity))
        name = next(exact, nearest)
    unused = () if identity.get("prioritized") else _NEED_PRIORITIES  # they were not refused then
    defaults = {each: fields[each].default for each in unused if each in settings}
    return {**settings, **defaults, "algorithm": name, "head": "scalar"}


def _has(row: Algorithm, identity: Mapping[str, Any]) -> bool:
    base = {name: getattr(Algorithm(), name) for name in IDENTITY}
    return all(getattr(row, name) == value for name, value in {**base, **identity}.items())


_BEFORE = {  # settings that had one value before there was a choice
    "normalise_rewards": False,
    "evaluation_envs": 32,
    "evaluation_max_steps": 27_000,
    "noisy": False,
    "exploration": "epsilon",
    "memory_format": "auto",
    "executor": "auto",  # which is eager in a run that has not recorded another
    "layer_norm_kind": "image",
    "init": "default",
    **dict.fromkeys((*_LEFT_TO_HEAD, *_FIELDS_OF_POLICY)),
    **{
        name: DQNConfig.__dataclass_fields__[name].default for name in ("ladder_epsilon", "ladder_alpha", "temperature")
    },
}


def _settings_of(policy: SoftmaxPolicy) -> dict[str, Any]:
    return {name: getattr(policy, field) for name, field in _FIELDS_OF_POLICY.items()}


def _at_least_0(name: str, value: object) -> float:
    if (found := number(name, value)) < 0:
        raise ConfigError(f"{name} must be at least 0, got {found}")
    return found


def _at_most_0(name: str, value: object) -> float:
    if (found := number(name, value)) > 0:
        raise ConfigError(f"{name} must be at most 0, got {found}")
    return found


_CHECKS: dict[str, Check] = {
    **SHARED_CHECKS,
    **dict.fromkeys(("head", "exploration"), text),
    **dict.fromkeys(
        (
            *("n_step", "importance_steps", "batch_size", "replay_capacity", "min_replay_size", "learn_period"),
            *("updates_per_phase", "target_update_period"),
        ),
        count,
    ),
    **dict.fromkeys(
        ("target_update_rate", "priority_exponent", "importance_start", "importance_end", "ladder_epsilon"), share
    ),
    **dict.fromkeys(("adam_eps", "temperature"), positive),
    **dict.fromkeys(("huber_delta", "noisy_std", "munchausen_tau"), optional(positive)),
    **dict.fromkeys(("num_quantiles", "num_fractions", "num_fixed_fractions", "num_cosines"), optional(count)),
    "num_atoms": optional(partial(whole, least=2)),
    **dict.fromkeys(("v_min", "v_max"), optional(number)),
    "ladder_alpha": _at_least_0,
    "munchausen_alpha": optional(share),
    "munchausen_clip": optional(_at_most_0),
    "munchausen_network": optional(one_of("target", "online")),
    **dict.fromkeys(("double", "dueling", "noisy", "prioritized"), flag),
}
