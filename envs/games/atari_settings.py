"""Settings of an Atari game, and the protocols: named sets of settings."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any, Final

from gymnasium.envs.registration import EnvSpec

from torso.errors import ConfigError

# Named sets of settings, for ``protocol=``.
PROTOCOLS: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        # Mnih et al. 2015: deterministic but for the start; a lost life is an end to the learner.
        "dqn2015": {"repeat_action_probability": 0.0, "life_loss_info": True, "noop_max": 30},
        # After Machado et al. 2018, as ale-py's documentation and implementations of it have it: sticky actions are all
        # the randomness, all 18 actions, lost lives are not reported.
        "machado2018": {
            "repeat_action_probability": 0.25,
            "life_loss_info": False,
            "noop_max": 0,
            "full_action_space": True,
        },
        # As the -v5 ids are registered; torso's machado2018 before it had all actions.
        "v5": {"repeat_action_probability": 0.25, "life_loss_info": False, "noop_max": 0, "full_action_space": False},
    }
)
_UNSUPPORTED = {  # other arguments of ale-py's vector env, and why they cannot be set
    "reward_clipping": "rewards are clipped where they are learnt from, so that true returns stay visible",
    "episodic_life": "it begins a new game at each lost life; with life_loss_info=True the game goes on",
}


@dataclass(frozen=True, kw_only=True)
class AtariSettings:
    """Settings of a game. The defaults are those of Gymnasium's ``-v5`` ids.

    Raises ``ConfigError`` for a value out of its range.
    """

    repeat_action_probability: float = 0.25
    """Probability, for each frame, that it repeats the action before ("sticky actions")."""
    full_action_space: bool = False
    """All 18 actions, also those that do nothing in this game."""
    frameskip: int = 4
    """Frames a step, each with the same action."""
    max_num_frames_per_episode: int = 108_000
    """Truncates episodes; 108,000 are half an hour of play. No-ops do not count."""
    noop_max: int = 0
    """An episode begins with 0 to this many frames without an action, drawn uniformly."""
    use_fire_reset: bool = False
    """An episode begins with FIRE where the game has it, in place of one no-op."""
    life_loss_info: bool = False
    """Whether ``infos["life_lost"]`` reports lost lives."""

    def __post_init__(self) -> None:
        sticky = self.repeat_action_probability
        if not isinstance(sticky, Real) or not 0 <= sticky <= 1:
            raise ConfigError(f"repeat_action_probability must lie in [0, 1], got {sticky!r}")
        for name, least in (("frameskip", 1), ("max_num_frames_per_episode", 1), ("noop_max", 0)):
            if not is_whole(getattr(self, name), least):
                raise ConfigError(
                    f"{name} must be a whole number of at least {least} and below 2**31, got {getattr(self, name)!r}"
                )
        for name in ("full_action_space", "use_fire_reset", "life_loss_info"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} must be True or False, got {getattr(self, name)!r}")


def atari_settings(
    spec: EnvSpec, protocol: str | None, max_episode_steps: int | None, env_kwargs: Mapping[str, Any]
) -> AtariSettings:
    """Merge settings: the id's own, overridden by the protocol's, overridden by ``env_kwargs``.

    max_episode_steps: replaces the frame limit. Raises ``ConfigError`` for what is unknown or cannot work.
    """
    known = [field.name for field in dataclasses.fields(AtariSettings)]
    for name in env_kwargs:
        if name not in known:
            reason = _UNSUPPORTED.get(name) or _unknown_setting(name, [*known, "protocol", "raw_frames"])
            raise ConfigError(f"{spec.id} cannot be given {name}: {reason}")
    of_protocol = protocol_settings(protocol)
    registered = {name: value for name, value in spec.kwargs.items() if name != "game"}
    settings = AtariSettings(**{**registered, **of_protocol, **env_kwargs})
    if max_episode_steps is None:
        return settings
    if "max_num_frames_per_episode" in env_kwargs:
        raise ConfigError("give max_episode_steps or max_num_frames_per_episode, not both")
    if not is_whole(max_episode_steps, 1):
        raise ConfigError(f"max_episode_steps must be a whole number of at least 1, got {max_episode_steps!r}")
    return dataclasses.replace(settings, max_num_frames_per_episode=max_episode_steps * settings.frameskip)


def protocol_settings(protocol: object) -> Mapping[str, Any]:
    """Look up a protocol's settings; none for None. Raises ``ConfigError`` for an unknown one."""
    if protocol is not None and protocol not in PROTOCOLS:
        raise ConfigError(f"protocol must be one of {', '.join(PROTOCOLS)}, got {protocol!r}")
    return {} if protocol is None else PROTOCOLS[str(protocol)]


def _unknown_setting(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"{hint}it has {', '.join(known)}; a function that makes a single env may have others"


def is_whole(value: Any, least: int) -> bool:
    """Whether it is a whole number of at least ``least`` that fits the ALE's int32."""
    return isinstance(value, Integral) and not isinstance(value, bool) and least <= int(value) < 2**31
