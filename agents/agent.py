"""``DQN``: the agent as scripts use it."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from torso.agents.dqn import DQNConfig
from torso.agents.evaluation import Evaluation, evaluate, evaluation_seeds
from torso.agents.presets import preset
from torso.agents.rundir import RunDirectory
from torso.agents.training import Training, open_run
from torso.agents.world import World
from torso.envs import EnvSource, Wrapper
from torso.errors import ConfigError, ModelNotFoundError, RunError
from torso.nets import Network, Predictor, TorchBackend, load_model


class DQN:
    """Deep Q-learning (Mnih et al. 2015) in any Gymnasium env with Discrete actions.

    Args:
        env: a Gymnasium id, an env class, a function that makes an env, or a constructed env.
        config: the settings; without them the preset of the env's id, or else the defaults of `DQNConfig`.
        seed: everything random follows from it.
        env_kwargs: given to the env's constructor.
        wrappers: applied to each env in order, the first innermost.

    Raises:
        EnvError: torso cannot learn in the env.
        ConfigError: settings that cannot work.
    """

    def __init__(
        self,
        env: EnvSource,
        *,
        config: DQNConfig | None = None,
        seed: int = 0,
        env_kwargs: Mapping[str, Any] | None = None,
        wrappers: Sequence[Wrapper] = (),
    ) -> None:
        self.world = World(env=env, env_kwargs=env_kwargs or {}, wrappers=wrappers)
        self.config = preset("dqn", self.world.name).config if config is None else config
        self.seed = seed
        self._first_network: Network | None = None  # weights to start from, of a model that was loaded
        self._run_path: Path | None = None  # the run directory that learn() writes to
        self._training: Training | None = None
        self._predictor: Predictor | None = None
        _ = self.world.door  # an env that torso cannot learn in is refused here

    def learn(self, total_steps: int, *, out: str | os.PathLike[str] | None = None) -> DQN:
        """Train until ``total_steps`` steps were made in all; then the best network by evaluation acts.

        ``out`` makes a run directory of it, which `DQN.load` and ``torso train --resume`` go on with exactly.

        Raises:
            ConfigError: ``total_steps`` is not more than what was learnt already.
            RunError: ``out`` is not a new directory, or another process trains in it.
        """
        done = 0 if self._training is None else self._training.total_steps
        if total_steps <= done:
            raise ConfigError(f"total_steps must be more than the {done} steps learnt already, got {total_steps}")
        if out is not None and (self._training is not None or self._run_path is not None):
            raise ConfigError(
                "out is for an agent that has learnt nothing yet; this one goes on where it learnt before"
            )
        if out is None and self._run_path is None:
            self._training = self._training or self._new_training(None)
            self._consume(self._training, total_steps)
            return self
        resume, self._run_path = self._run_path is not None, Path(out if out is not None else self._run_path or "")
        with open_run(
            self.world, self.config, total_steps=total_steps, seed=self.seed, out=self._run_path, resume=resume
        ) as run:
            if self._training is None:
                self._training = self._new_training(run)
            self._training.run_directory = run
            self._consume(self._training, total_steps)
            self._training.finish(self.config.evaluation_episodes)
        return self

    def _new_training(self, run: RunDirectory | None) -> Training:
        return Training(self.world, self.config, seed=self.seed, run=run, network=self._first_network)

    def _consume(self, training: Training, total_steps: int) -> None:
        for _ in training.run(total_steps):
            pass
        self._predictor = training.predictor()

    def predict(self, observation: ArrayLike) -> NDArray[np.int64] | int:
        """The greedy action for one observation (an int), or for a batch of them (int64 [B]), as gymnasium takes it.

        Raises InputError for an observation that does not fit the env's, and ConfigError before `learn` or `load`.
        """
        predictor = self._require_predictor()
        single = np.shape(observation) == predictor.input.shape
        actions, _ = predictor.act(observation)
        return int(actions[0]) if single else actions

    def evaluate(self, episodes: int = 20, seed: int | None = None) -> Evaluation:
        """Play ``episodes`` greedy episodes in envs of their own, on seeds that chose nothing during training."""
        seeds = evaluation_seeds(self.seed if seed is None else seed, episodes, "score")
        return evaluate(self._require_predictor().act, self.world, seeds)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save the best network as a model directory (with ``model.onnx``), for `load` and ``torso serve``."""
        if self._training is None:
            raise ConfigError("nothing to save: call learn() first")
        self._training.save(path)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        env: EnvSource | None = None,
        *,
        config: DQNConfig | None = None,
        seed: int = 0,
        wrappers: Sequence[Wrapper] = (),
    ) -> DQN:
        """Load an agent.

        A model directory predicts at once, and learns anew from its weights; a run directory resumes: ``learn`` goes on
        with it, to the bits of a run that was never stopped. ``env`` is needed where the files name none that can be
        made.

        Raises:
            ModelError: no model there, or a damaged one.
            RunError: a run directory of another kind.
        """
        path = Path(path)
        if (path / "config.json").is_file():
            return cls._load_run(path, env, wrappers)
        card, network = load_model(path)
        if card.kind != "policy":
            raise ConfigError(f"{path} holds a {card.kind}, expected a policy; use Classifier.load")
        if config is None:
            if "config" not in card.provenance:
                raise ConfigError(
                    f"{path} does not name the settings it was trained with; give DQN.load(path, config=)"
                )
            config = DQNConfig(**card.provenance["config"])
        source = env if env is not None else card.provenance.get("env_id")
        if source is None:
            raise ConfigError(f"{path} does not say which env it is for; give DQN.load(path, env)")
        agent = cls(
            source,
            config=config,
            seed=seed,
            env_kwargs=card.provenance.get("env_kwargs", {}),
            wrappers=wrappers,
        )
        agent._first_network, agent._predictor = network, Predictor(card, TorchBackend(copy.deepcopy(network)))
        return agent

    @classmethod
    def _load_run(cls, path: Path, env: EnvSource | None, wrappers: Sequence[Wrapper]) -> DQN:
        run = RunDirectory.open(path)
        if run.kind != "train":
            raise RunError(f"{path} holds a {run.kind} run, expected a training run; use Classifier.load")
        settings = run.settings
        agent = cls(
            env if env is not None else settings["env_id"],
            config=DQNConfig(**{name: settings[name] for name in DQNConfig.__dataclass_fields__}),
            seed=int(run.config["seed"]),
            env_kwargs=settings["env_kwargs"],
            wrappers=wrappers,
        )
        agent._run_path = path
        with suppress(ModelNotFoundError):  # a run that was stopped before its first evaluation can only learn
            agent._predictor = Predictor.load(path)
        return agent

    def _require_predictor(self) -> Predictor:
        if self._predictor is None:
            raise ConfigError("this agent has learnt nothing yet: call learn() first")
        return self._predictor
