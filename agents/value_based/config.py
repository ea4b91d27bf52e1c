"""DQN settings, their checks and schedules."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Literal

from torso.agents.optim.memory_formats import MEMORY_FORMAT_SETTINGS
from torso.agents.optim.schedules import linear
from torso.agents.value_based.algorithms import Algorithm, algorithm_names, algorithm_row
from torso.agents.value_based.exploration import EXPLORATIONS, require_exploration
from torso.agents.value_based.next_policies import GREEDY_ONLINE, GREEDY_TARGET, SoftmaxPolicy
from torso.checks import choice, count, each, flag, number, optional, path, positive, share, text, whole
from torso.errors import ConfigError
from torso.image_layout import FLAT, LAYOUTS, LEGACY
from torso.nets import NETS
from torso.nets.modules.initialisation import INITS, Init
from torso.nets.specs.named_heads import has_own_layers, head_fields, require_head
from torso.nets.specs.named_torsos import registered_fields, registered_nets, unknown_net
from torso.nets.specs.torsos import ACTIVATIONS, LAYER_NORM_KINDS, Activation, LayerNormKind

Check = Callable[[str, object], Any]
_NETS = tuple(net for net in NETS if net != "linear")
_OF_ALGORITHM: Any = None  # the default of a setting whose value is the algorithm's, unless it is given
# The settings of which an algorithm is made.
IDENTITY = ("head", "double", "dueling", "noisy", "exploration", "prioritized", "n_step")


@dataclass(frozen=True, kw_only=True)
class DQNConfig:
    """Settings of DQN. A step is one action of one env, whatever the number of envs.

    ``head``, ``double``, ``dueling``, ``noisy``, ``exploration``, ``prioritized`` and ``n_step`` are the algorithm's
    unless they are given. They may add to it, and not take away what makes it that algorithm.
    """

    algorithm: str = "dqn"
    """Algorithm: dqn, double, dueling, prioritized, n-step, c51, qr-dqn, iqn, munchausen, m-iqn or rainbow, or a
    registered one."""
    net: str = "auto"
    """Architecture of the network: mlp, cnn, lenet, nature, minatar or vgg, or a registered one; auto: nature for
    images of at least 36 pixels a side, cnn for smaller ones, mlp for vectors."""
    layout: str | None = None
    """Layout of observations: hw, chw, hwc, tchw or thwc for images (t: a stack of them), flat for vectors; None: by
    their shape and the space's bounds."""
    hidden: tuple[int, ...] = (128, 128)
    """Widths of the fully connected layers."""
    activation: Activation = "relu"
    """Activation function between layers."""
    layer_norm: bool = False
    """Layer normalisation after each layer (Ba et al. 2016)."""
    layer_norm_kind: LayerNormKind = "image"
    """Layer normalisation after a convolution: image (over channels and pixels, with a scale and an offset for each
    channel), channels (over the channels of each pixel, as flax's and in Gallici et al. 2024) or elements (as image,
    but a scale and an offset for each element)."""
    init: Init = "default"
    """Initial weights: PyTorch's default, zeros, normal, xavier, he or orthogonal."""
    init_torso: str | None = None
    """A run or model directory whose torso the network begins with; None: random weights."""
    freeze_torso: bool = False
    """Keep the torso of init_torso as it is: only the head learns."""
    normalise_observations: bool = False
    """Normalise flat observations by their running mean and deviation, which the model keeps."""
    num_envs: int = 1
    """Envs stepped together; all other settings keep their meaning, and steps are those of all envs together."""
    gamma: float = 0.99
    """Discount factor of rewards, for each step (Mnih et al. 2015)."""
    n_step: int = _OF_ALGORITHM
    """Number of rewards in a TD target before it bootstraps (Sutton 1988; Hessel et al. 2018)."""
    clip_rewards: bool = False
    """Clip rewards to [-1, 1] in TD targets; reported returns are never clipped (Mnih et al. 2015)."""
    normalise_rewards: bool = False
    """Divide rewards in TD targets, clipped first if at all, by the running deviation of the discounted return."""
    learning_rate: float = 5e-4
    """Learning rate of the optimizer, Adam."""
    learning_rate_end: float | None = None
    """Learning rate to which it falls linearly over learning_rate_decay_steps; None: it stays as it is."""
    learning_rate_decay_steps: int = 100_000
    """Steps over which the learning rate falls from learning_rate to learning_rate_end."""
    adam_eps: float = 1e-8
    """Epsilon in the denominator of Adam (Kingma & Ba 2015)."""
    max_grad_norm: float | None = 10.0
    """Largest norm of the gradient; a longer one is scaled down to it (Wang et al. 2016); None: no limit."""
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
    epsilon_start: float = 1.0
    """Probability of a random action at step 0."""
    epsilon_end: float = 0.05
    """Probability of a random action after epsilon_decay_steps."""
    epsilon_decay_steps: int = 10_000
    """Steps over which the probability of a random action falls from epsilon_start to epsilon_end."""
    ladder_epsilon: float = 0.4
    """Probability of a random action in the first env of a ladder (Horgan et al. 2018)."""
    ladder_alpha: float = 7.0
    """Growth of that probability's exponent, from 1 in the first env of a ladder to 1 + this in the last."""
    temperature: float = 1.0
    """Temperature of boltzmann exploration, in units of the values."""
    evaluation_period: int | None = 5_000
    """Steps between evaluations, which decide on the best network; None: never, and the latest is kept."""
    evaluation_episodes: int = 20
    """Greedy episodes in each evaluation."""
    evaluation_envs: int = 32
    """Most envs that an evaluation steps together, beside those of the training; 0: num_envs, in place of those."""
    evaluation_max_steps: int = 27_000
    """Steps after which an episode of an evaluation is truncated; 27,000 are 30 minutes of Atari."""
    checkpoint_period: int | None = None
    """Steps between checkpoints; None: 20,000 of each env."""
    stop_return: float | None = None
    """End the training once the mean return of an evaluation reaches this; None: train all steps."""
    log_period: int = 1_000
    """Steps between lines of progress.jsonl."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of forward and backward passes: float32, bfloat16, or auto: bfloat16 where it is faster."""
    memory_format: Literal["auto", "contiguous", "channels-last"] = "auto"
    """Memory format of images in convolutions: contiguous, channels-last, or auto: channels-last where updates on this
    machine are a tenth faster with it, as measured at the start of the run."""
    device: str = "auto"
    """Device of the networks and the replay: auto, cpu or cuda."""
    num_threads: int = 1
    """Threads of PyTorch on the CPU; small networks run slower with more."""

    def __post_init__(self) -> None:
        for name, check in _CHECKS.items():
            if getattr(self, name) is not None or name not in IDENTITY:
                object.__setattr__(self, name, check(name, getattr(self, name)))
        self._set_identity()
        if self.net not in ("auto", *_NETS, *registered_nets()):
            raise unknown_net(self.net, _NETS)
        if self.stop_return is not None and self.evaluation_period is None:
            raise ConfigError(
                f"stop_return must be None without evaluations, which alone can reach it, got {self.stop_return}; give "
                "evaluation_period"
            )
        if self.target_update_rate == 0:
            raise ConfigError("target_update_rate must be above 0, or the target network would never learn, got 0")
        if self.freeze_torso and self.init_torso is None:
            raise ConfigError(
                "freeze_torso must be False without init_torso, or random weights would be frozen, got True; "
                "give init_torso"
            )
        if self.normalise_observations and self.init_torso is not None:
            raise ConfigError(
                "normalise_observations must be False with init_torso, which has its own input scaling, got True; "
                "leave out normalise_observations"
            )
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

    def with_algorithm(self, name: str) -> DQNConfig:
        """Copy the configuration for another algorithm; what was added to the one of before is kept."""
        before = algorithm_row(self.algorithm)
        own = {each: getattr(before, each) for each in IDENTITY}
        if isinstance(before.next_policy, SoftmaxPolicy):
            own |= _settings_of(before.next_policy)
        taken = {name: None for name, value in own.items() if getattr(self, name) == value}
        return replace(self, algorithm=name, **taken)  # type: ignore[arg-type]

    @classmethod
    def from_recorded(cls, settings: Mapping[str, Any]) -> DQNConfig:
        """Build the configuration of recorded settings, of this version or an older one.

        Raises TypeError for a setting that is not known.
        """
        return cls(**upgrade_settings(settings))

    def require_used(self, given: Collection[str]) -> None:
        """Raise ConfigError where one of the settings ``given`` is of no use to the algorithm, its head or its net.

        A preset's values for a net are not refused with a registered one: they are for torso's own nets.
        """
        for name in given:
            reason = self._reason_unused(name)
            if reason:
                raise ConfigError(f"{name} must be left out {reason}, got {getattr(self, name)!r}")

    def require_used_by_algorithm(self) -> None:
        """Raise ConfigError where a setting that is not at its default is of no use to the algorithm."""
        defaults = DQNConfig.__dataclass_fields__
        self.require_used([name for name in _NEVER_PRESET if getattr(self, name) != defaults[name].default])

    def is_used(self, name: str) -> bool:
        """Whether a setting is of use to the algorithm, its head or its net."""
        return not self._reason_unused(name)

    def _reason_unused(self, name: str) -> str:
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
        if name == "layer_norm_kind" and not self.layer_norm:
            return "without layer_norm"
        if name == "learning_rate_decay_steps" and self.learning_rate_end is None:
            return "without learning_rate_end"
        if name in _OF_HEADS and name not in head_fields(self.head):
            return f"for head {self.head!r}, whose specification has no such field"
        if name in ("hidden", "activation", "layer_norm", "layer_norm_kind") and self.net in registered_nets():
            is_width_of_head = name == "hidden" and self.head_has_layers and len(self.hidden) <= 1
            if name not in registered_fields(self.net) and not is_width_of_head:
                return f"for net {self.net!r}, whose specification has no such field"
        return ""

    @property
    def steps_between_checkpoints(self) -> int:
        """``checkpoint_period``, or its default of 20,000 steps of each env."""
        return self.checkpoint_period or 20_000 * self.num_envs

    @property
    def most_evaluation_envs(self) -> int:
        """Envs of an evaluation at a time: ``evaluation_envs``, or ``num_envs`` where they take the place of those."""
        return self.evaluation_envs or self.num_envs

    def epsilon(self, step: int) -> float:
        """Probability of a uniformly random action at a step."""
        return linear(step, start=self.epsilon_start, end=self.epsilon_end, num_steps=self.epsilon_decay_steps)

    def importance(self, step: int) -> float:
        """Exponent of the importance weights at a step."""
        return linear(step, start=self.importance_start, end=self.importance_end, num_steps=self.importance_steps)

    def learning_rate_at(self, step: int) -> float:
        """Learning rate at a step."""
        start, num_steps = self.learning_rate, self.learning_rate_decay_steps
        end = start if self.learning_rate_end is None else self.learning_rate_end
        return linear(step, start=start, end=end, num_steps=num_steps)


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
_BEFORE = {  # settings that had one value before there was a choice
    "normalise_rewards": False,
    "evaluation_envs": 32,
    "evaluation_max_steps": 27_000,
    "noisy": False,
    "exploration": "epsilon",
    "memory_format": "auto",
    "layer_norm_kind": "image",
    "init": "default",
    **dict.fromkeys((*_LEFT_TO_HEAD, *_FIELDS_OF_POLICY)),
    **{
        name: DQNConfig.__dataclass_fields__[name].default for name in ("ladder_epsilon", "ladder_alpha", "temperature")
    },
}


def _settings_of(policy: SoftmaxPolicy) -> dict[str, Any]:
    return {name: getattr(policy, field) for name, field in _FIELDS_OF_POLICY.items()}


def _one_of(*known: str) -> Check:
    def check(name: str, value: object) -> object:
        choice(name, value, known)
        return value

    return check


def _at_least_0(name: str, value: object) -> float:
    if (found := number(name, value)) < 0:
        raise ConfigError(f"{name} must be at least 0, got {found}")
    return found


def _at_most_0(name: str, value: object) -> float:
    if (found := number(name, value)) > 0:
        raise ConfigError(f"{name} must be at most 0, got {found}")
    return found


_CHECKS: dict[str, Check] = {
    **dict.fromkeys(("algorithm", "net", "head", "exploration", "device"), text),
    "layout": optional(_one_of(*LAYOUTS, FLAT, LEGACY)),
    **dict.fromkeys(
        (
            *("num_envs", "n_step", "learning_rate_decay_steps", "importance_steps", "batch_size", "replay_capacity"),
            *("min_replay_size", "learn_period", "updates_per_phase", "target_update_period", "epsilon_decay_steps"),
            *("evaluation_episodes", "evaluation_max_steps", "log_period", "num_threads"),
        ),
        count,
    ),
    "evaluation_envs": partial(whole, least=0, most=None),
    **dict.fromkeys(
        (
            *("gamma", "epsilon_start", "epsilon_end", "target_update_rate", "priority_exponent"),
            *("importance_start", "importance_end", "ladder_epsilon"),
        ),
        share,
    ),
    **dict.fromkeys(("learning_rate", "adam_eps", "temperature"), positive),
    **dict.fromkeys(("max_grad_norm", "huber_delta", "learning_rate_end"), optional(positive)),
    **dict.fromkeys(("noisy_std", "munchausen_tau"), optional(positive)),
    **dict.fromkeys(("num_quantiles", "num_fractions", "num_fixed_fractions", "num_cosines"), optional(count)),
    "num_atoms": optional(partial(whole, least=2)),
    **dict.fromkeys(("v_min", "v_max"), optional(number)),
    "ladder_alpha": _at_least_0,
    "munchausen_alpha": optional(share),
    "munchausen_clip": optional(_at_most_0),
    "munchausen_network": optional(_one_of("target", "online")),
    **dict.fromkeys(
        (
            *("layer_norm", "freeze_torso", "normalise_observations", "clip_rewards", "normalise_rewards"),
            *("double", "dueling", "noisy", "prioritized"),
        ),
        flag,
    ),
    "hidden": lambda name, value: each(name, value, whole),
    "activation": _one_of(*ACTIVATIONS),
    "init": _one_of(*INITS),
    "layer_norm_kind": _one_of(*LAYER_NORM_KINDS),
    "precision": _one_of("auto", "float32", "bfloat16"),
    "memory_format": _one_of(*MEMORY_FORMAT_SETTINGS),
    "init_torso": optional(path),
    **dict.fromkeys(("checkpoint_period", "evaluation_period"), optional(count)),
    "stop_return": optional(number),
}
