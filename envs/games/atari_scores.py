"""Human-normalised scores: published scores of a random and a human player in 57 Atari games."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torso.envs.games.atari_settings import PROTOCOLS, AtariSettings

# Game, as ale-py names it: (random, human). Mean returns of unclipped rewards, episodes of at most 108,000 frames that
# begin with up to 30 no-ops, no sticky actions. The figures of dqn_zoo's atari_data.py (DeepMind), which are those that
# Wang et al. 2016 (arXiv 1511.06581) print beside their own.
PUBLISHED_SCORES = {
    "Alien": (227.8, 7127.7),
    "Amidar": (5.8, 1719.5),
    "Assault": (222.4, 742.0),
    "Asterix": (210.0, 8503.3),
    "Asteroids": (719.1, 47388.7),
    "Atlantis": (12850.0, 29028.1),
    "BankHeist": (14.2, 753.1),
    "BattleZone": (2360.0, 37187.5),
    "BeamRider": (363.9, 16926.5),
    "Berzerk": (123.7, 2630.4),
    "Bowling": (23.1, 160.7),
    "Boxing": (0.1, 12.1),
    "Breakout": (1.7, 30.5),
    "Centipede": (2090.9, 12017.0),
    "ChopperCommand": (811.0, 7387.8),
    "CrazyClimber": (10780.5, 35829.4),
    "Defender": (2874.5, 18688.9),
    "DemonAttack": (152.1, 1971.0),
    "DoubleDunk": (-18.6, -16.4),
    "Enduro": (0.0, 860.5),
    "FishingDerby": (-91.7, -38.7),
    "Freeway": (0.0, 29.6),
    "Frostbite": (65.2, 4334.7),
    "Gopher": (257.6, 2412.5),
    "Gravitar": (173.0, 3351.4),
    "Hero": (1027.0, 30826.4),
    "IceHockey": (-11.2, 0.9),
    "Jamesbond": (29.0, 302.8),
    "Kangaroo": (52.0, 3035.0),
    "Krull": (1598.0, 2665.5),
    "KungFuMaster": (258.5, 22736.3),
    "MontezumaRevenge": (0.0, 4753.3),
    "MsPacman": (307.3, 6951.6),
    "NameThisGame": (2292.3, 8049.0),
    "Phoenix": (761.4, 7242.6),
    "Pitfall": (-229.4, 6463.7),
    "Pong": (-20.7, 14.6),
    "PrivateEye": (24.9, 69571.3),
    "Qbert": (163.9, 13455.0),
    "Riverraid": (1338.5, 17118.0),
    "RoadRunner": (11.5, 7845.0),
    "Robotank": (2.2, 11.9),
    "Seaquest": (68.4, 42054.7),
    "Skiing": (-17098.1, -4336.9),
    "Solaris": (1236.3, 12326.7),
    "SpaceInvaders": (148.0, 1668.7),
    "StarGunner": (664.0, 10250.0),
    "Surround": (-10.0, 6.5),
    "Tennis": (-23.8, -8.3),
    "TimePilot": (3568.0, 5229.2),
    "Tutankham": (11.4, 167.6),
    "UpNDown": (533.4, 11693.2),
    "Venture": (0.0, 1187.5),
    "VideoPinball": (16256.9, 17667.9),
    "WizardOfWor": (563.5, 4756.5),
    "YarsRevenge": (3092.9, 54576.9),
    "Zaxxon": (32.5, 9173.3),
}


def human_normalized_score(env_id: str, mean_return: float) -> float | None:
    """Normalise a mean return linearly: 0.0 is the random player's score, 1.0 the published human's.

    env_id: such as ``"ALE/Pong-v5"`` or ``"module:ALE/Pong-v5"``. mean_return: of true, unclipped rewards over whole
    games. None for anything but the ALE's 57 games with published scores. (Mnih et al. 2015, there in percent.)
    """
    namespace, _, name = env_id.rpartition(":")[2].rpartition("/")
    scores = PUBLISHED_SCORES.get(name.rpartition("-v")[0])
    if namespace != "ALE" or scores is None:
        return None
    random, human = scores
    return (mean_return - random) / (human - random)


def incomparable_score_note(env_id: str, env_kwargs: Mapping[str, Any]) -> str | None:
    """Say why a human-normalised score cannot be compared with published ones; None where it can.

    The published scores are of games without sticky actions, which the ``-v5`` ids and most protocols have.
    """
    if human_normalized_score(env_id, 0.0) is None:
        return None
    sticky = _settings(env_kwargs)["repeat_action_probability"]
    if not sticky:
        return None
    return f"not comparable with published ones: sticky actions of probability {sticky:g}, which those were without"


def protocol_text(env_id: str, env_kwargs: Mapping[str, Any]) -> str | None:
    """Describe how an Atari game of these recorded arguments is played: protocol, sticky actions, start, frames.

    None for anything but the ALE's games.
    """
    sticky = sticky_actions_text(env_id, env_kwargs)
    if sticky is None:
        return None
    settings, protocol = _settings(env_kwargs), env_kwargs.get("protocol")
    no_ops = settings["noop_max"]
    parts = [
        f"protocol {protocol}" if protocol is not None else "no protocol, the id's defaults",
        sticky,
        f"up to {no_ops} no-ops" if no_ops else "no no-ops",
        f"{settings['frameskip']} frames a step",
        *(["all 18 actions"] if settings["full_action_space"] else []),
    ]
    return ", ".join(parts)


def sticky_actions_text(env_id: str, env_kwargs: Mapping[str, Any]) -> str | None:
    """Say whether an Atari game of these recorded arguments has sticky actions; None for other envs."""
    if not env_id.rpartition(":")[2].startswith("ALE/"):
        return None
    sticky = _settings(env_kwargs)["repeat_action_probability"]
    return f"sticky actions of probability {sticky:g}" if sticky else "no sticky actions"


def _settings(env_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a game: the defaults, overridden by the protocol's, overridden by the arguments."""
    defaults = {name: field.default for name, field in AtariSettings.__dataclass_fields__.items()}
    return {**defaults, **PROTOCOLS.get(str(env_kwargs.get("protocol")), {}), **env_kwargs}
