"""``DQN`` and ``PQN``: the agents' Python API for scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torso.agents.training.base_agent import Agent
from torso.agents.value_based.config import DQNConfig
from torso.agents.value_based.families import config_class
from torso.agents.value_based.pqn_config import PQNConfig
from torso.envs import EnvSource, Wrapper
from torso.errors import ConfigError


class DQN(Agent):
    """Deep Q-learning (Mnih et al. 2015) in any Gymnasium env with Discrete actions.

    Args:
        env: a Gymnasium id, an env class, a function that makes an env, or a constructed env.
        algorithm: dqn, double, dueling, prioritized, n-step, c51, qr-dqn, iqn, munchausen, m-iqn, rainbow or a
            registered one; None: that of ``config``, or the one that the env's preset recommends.
        config: the settings instead of the preset's for the env's id (with one env, where that is constructed already),
            or of the defaults of `DQNConfig` in an env without one.
        env_kwargs: passed to the env's constructor; without them and without a ``config``, the preset's.
        wrappers: applied to each env in order, the first innermost.
        settings: fields of `DQNConfig`, in place of the preset's or the config's.

    Raises:
        EnvError: torso cannot learn in the env.
        ConfigError: settings that cannot work.
    """

    config_class = DQNConfig
    config: DQNConfig

    def __init__(
        self,
        env: EnvSource,
        *,
        algorithm: str | None = None,
        config: DQNConfig | None = None,
        seed: int = 0,
        env_kwargs: Mapping[str, Any] | None = None,
        wrappers: Sequence[Wrapper] = (),
        **settings: Any,
    ) -> None:
        if algorithm is not None and config_class(algorithm) is not DQNConfig:
            raise ConfigError(
                f"algorithm must be one of DQN's, got {algorithm!r}; use torso.agents.{config_class(algorithm).agent}"
            )
        super().__init__(
            env,
            algorithm=algorithm,
            config=config,
            seed=seed,
            env_kwargs=env_kwargs,
            wrappers=wrappers,
            settings=settings,
        )


class PQN(Agent):
    """Parallelised Q-network (Gallici et al. 2024) in any Gymnasium env with Discrete actions: no replay, many envs.

    Args:
        env: a Gymnasium id, an env class, or a function that makes an env.
        config: the settings instead of the preset's for the env's id, or of the defaults of `PQNConfig` in an env
            without one.
        env_kwargs: passed to the env's constructor; without them and without a ``config``, the preset's.
        wrappers: applied to each env in order, the first innermost.
        settings: fields of `PQNConfig`, in place of the preset's or the config's.

    Raises:
        EnvError: torso cannot learn in the env.
        ConfigError: settings that cannot work.
    """

    config_class = PQNConfig
    config: PQNConfig

    def __init__(
        self,
        env: EnvSource,
        *,
        config: PQNConfig | None = None,
        seed: int = 0,
        env_kwargs: Mapping[str, Any] | None = None,
        wrappers: Sequence[Wrapper] = (),
        **settings: Any,
    ) -> None:
        super().__init__(
            env,
            algorithm=PQNConfig.algorithm,
            config=config,
            seed=seed,
            env_kwargs=env_kwargs,
            wrappers=wrappers,
            settings=settings,
        )
