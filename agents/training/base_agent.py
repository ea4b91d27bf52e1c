"""Base class of the agents that scripts use: learning, acting, saving, loading."""

from __future__ import annotations

import copy
import difflib
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from torso.agents.acting.evaluation import evaluate, evaluation_seeds
from torso.agents.presets.lookup import preset
from torso.agents.runs.callbacks import Callback, Hooks
from torso.agents.runs.events import Evaluation
from torso.agents.runs.progress import TrainingProgress
from torso.agents.runs.run_directory import RunDirectory, is_free
from torso.agents.training.driver import Training
from torso.agents.training.session import build_network_for
from torso.agents.training.train_runs import config_of, open_run
from torso.agents.value_based.families import config_class
from torso.agents.value_based.network import input_spec, resolved_net
from torso.agents.value_based.training_config import TrainingConfig
from torso.envs import EnvSource, Wrapper
from torso.envs.vector.model_fit import interface_of, require_fit
from torso.envs.vector.world import World, recorded_env, recorded_world
from torso.errors import ConfigError, EnvError, InputError, ModelNotFoundError, RunError
from torso.interrupts import stoppable
from torso.nets import ModelCard, Network, Predictor, TorchBackend, load_model, save_model
from torso.nets.models.directory import CARD
from torso.nets.modules.network import count_parameters
from torso.plain import shown


class Agent:
    """Base class of agents: learning, acting, saving and loading, which are the same for all settings.

    It begins with the preset of an env or with a configuration; ``settings`` replace some of it.
    """

    config_class: ClassVar[type[TrainingConfig]]

    def __init__(
        self,
        env: EnvSource,
        *,
        algorithm: str | None,
        config: TrainingConfig | None,
        seed: int,
        env_kwargs: Mapping[str, Any] | None,
        wrappers: Sequence[Wrapper],
        settings: Mapping[str, Any],
    ) -> None:
        world = World(env=env, env_kwargs=env_kwargs or {}, wrappers=wrappers)
        default = preset(algorithm, world.name)
        if config is None and env_kwargs is None and isinstance(env, str):
            world = World(env=env, env_kwargs=default.env_kwargs, wrappers=wrappers)
        if config is None:
            config = replace(default.config, num_envs=1) if world.is_constructed else default.config
        elif algorithm is not None:
            config = config.with_algorithm(algorithm)
        config = _replace_settings(config, settings)
        config.require_used_by_algorithm()
        self._set_up(world, config, seed)

    def _set_up(
        self,
        world: World,
        config: TrainingConfig,
        seed: int,
        *,
        loaded: tuple[ModelCard, Network] | None = None,
        initial: Network | None = None,
    ) -> None:
        if loaded is not None and (policy := loaded[0].interface) is not None:
            require_fit(policy, interface_of(world.spec), world.name)
        self._built: Network | None = build_network_for(world, config, seed, initial)  # until a training takes it
        self._num_parameters = count_parameters(self._built)
        self.world, self.seed = world, seed
        self.config: Any = config
        self._loaded: tuple[ModelCard, Network] | None = loaded
        self._initial_network: Network | None = initial  # initial weights, of a model directory that was loaded
        self._run_path: Path | None = None  # run directory that learn() writes to
        self._video_period = 0  # as recorded there
        self._training: Training | None = None
        self._predictor: Predictor | None = None
        if loaded is not None:
            card, network = loaded
            if card.observation_space is None:  # an older model does not say how its observations were flattened
                loaded = card, network = replace(card, observation_space=world.spec.space), network
            self._loaded = loaded
            self._predictor = Predictor(card, TorchBackend(copy.deepcopy(network)))

    def __repr__(self) -> str:
        steps = self.total_steps
        if not steps and self._loaded is not None:
            steps = int(self._loaded[0].provenance.get("total_steps") or 0)
        net = resolved_net(self.config, input_spec(self.world.spec, self.config))
        parts = [repr(self.world.name), f"algorithm={self.config.algorithm!r}", f"net={net!r}"]
        return f"{type(self).__name__}({', '.join(parts)}: {self._num_parameters:,} parameters, {steps:,} steps)"

    @property
    def total_steps(self) -> int:
        """Steps learnt since this agent was created or loaded."""
        return 0 if self._training is None else self._training.total_steps

    def learn(
        self,
        total_steps: int,
        *,
        out: str | os.PathLike[str] | None = None,
        callbacks: Sequence[Callback] = (),
        progress: bool = False,
    ) -> Self:
        """Train up to ``total_steps`` steps in all; afterwards the best network by evaluation acts.

        ``out`` creates a run directory, which `load` and ``torso train --resume`` continue bit-exactly. Callbacks
        (`torso.agents.Callback`) are notified of events, and may stop the training earlier: ``total_steps`` of the
        agent tells where, and learning continues from there. ``progress`` shows what ``torso train`` shows on stderr: a
        progress bar, or a line every few seconds where that is no terminal.

        Ctrl-C ends the training after the tick that is under way, and is raised as KeyboardInterrupt once everything is
        as at any other end: the agent acts, can be saved and learns on from there, a run directory has a checkpoint. A
        second one ends it at once. After any other exception an agent with a run directory continues from its latest
        checkpoint when it learns again; one without continues from where it was.

        Raises:
            KeyboardInterrupt: see above.
            ConfigError: ``total_steps`` is not more than what was learnt already.
            RunError: ``out`` is not a new directory, or another process trains in it.
        """
        if total_steps <= self.total_steps:
            raise ConfigError(
                f"total_steps must be more than the {self.total_steps} steps learnt already, got {total_steps}"
            )
        Hooks(callbacks)  # rejects anything but callbacks, before anything is written
        if out is not None and (self._training is not None or self._run_path is not None):
            raise ConfigError(
                f"out must be None for an agent that has learnt already, got {os.fspath(out)!r}; "
                "it continues where it learnt before"
            )
        if out is None and self._run_path is None:
            self._training = self._training or self._new_training(None)
            with stoppable([signal.SIGINT]) as request:
                self._run_training(self._training, total_steps, callbacks, request.requested, progress)
            request.raise_if_requested()
            return self
        path, resume = Path(out if out is not None else self._run_path or ""), self._run_path is not None
        try:
            self._learn_into(path, total_steps, callbacks, progress, resume=resume)
        finally:
            if self._run_path is not None and is_free(self._run_path):  # it ended before its first step
                self._run_path = None
        return self

    def _learn_into(
        self, path: Path, total_steps: int, callbacks: Sequence[Callback], progress: bool, *, resume: bool
    ) -> None:
        with open_run(
            self.world,
            self.config,
            total_steps=total_steps,
            seed=self.seed,
            out=path,
            resume=resume,
            video_period=self._video_period,
            initial=self._initial_network,
        ) as run:
            self._run_path = path
            training, self._training = self._training or self._new_training(run), None  # None if what follows fails
            training.recorder.run = run
            with stoppable([signal.SIGINT]) as request:
                self._run_training(training, total_steps, callbacks, request.requested, progress)
                if training.is_done(total_steps):
                    training.finish(self.config.evaluation_episodes)
            self._training = training
        request.raise_if_requested()

    def _new_training(self, run: RunDirectory | None) -> Training:
        built, self._built = self._built, None
        return Training(
            self.world,
            self.config,
            seed=self.seed,
            run=run,
            network=self._initial_network,
            built=built,
            video_period=self._video_period,
        )

    def _run_training(
        self,
        training: Training,
        total_steps: int,
        callbacks: Sequence[Callback],
        stop: Callable[[], bool],
        progress: bool,
    ) -> None:
        try:
            with TrainingProgress(total_steps, shows_end=True) if progress else nullcontext() as display:
                displays = [] if display is None else [display]
                for event in training.run(total_steps, stop, [*callbacks, *displays]):
                    for each in displays:
                        each.on_event(event)
        finally:
            if training.total_steps:
                self._predictor = training.predictor()

    def predict(self, observation: Any, mask: ArrayLike | None = None) -> NDArray[np.int64] | int:
        """Predict the greedy action of one observation (an int), or of a batch (int64 [B]), in the env's numbering.

        observation: as the env's ``reset()`` and ``step()`` give it, of any space that training takes, or flattened as
        in training; a batch: as a vector env stacks them, or a list of observations. mask: the legal actions, 1 or True
        each, as ``info["action_mask"]`` has them: [A] for one observation, [B, A] for a batch; None: all are legal.

        Raises InputError for an observation or a mask that does not fit the env's, and ConfigError before `learn` or
        `load`.
        """
        predictor = self._require_predictor()
        single = predictor.is_one(observation)
        actions, _ = predictor.act(observation, mask=None if mask is None else _legal(mask, single=single))
        return int(actions[0]) if single else actions

    def evaluate(self, episodes: int = 20, seed: int | None = None) -> Evaluation:
        """Play ``episodes`` greedy episodes in separate envs, on seeds that were not used during training."""
        seeds = evaluation_seeds(self.seed if seed is None else seed, episodes, "score")
        return evaluate(
            self._require_predictor().act,
            self.world,
            seeds,
            max_steps=self.config.evaluation_max_steps,
            max_envs=self.config.most_evaluation_envs,
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save the best network as a model directory (with ``model.onnx``), for `load` and ``torso serve``."""
        if self._training is not None:
            self._training.save(path)
        elif self._loaded is not None:
            card, network = self._loaded
            provenance = dict(card.provenance)
            save_model(
                path,
                network,
                kind="policy",
                action_start=card.action_start,
                observation_space=card.observation_space,
                provenance=provenance,
            )
        else:
            raise ConfigError("nothing to save: call learn() first")

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        env: EnvSource | None = None,
        *,
        config: TrainingConfig | None = None,
        seed: int | None = None,
        wrappers: Sequence[Wrapper] | None = None,
    ) -> Self:
        """Load an agent from a model directory or a run directory.

        A model directory predicts at once, and starts a new training from its weights; a run directory resumes:
        ``learn`` continues from its latest checkpoint. ``env`` and ``wrappers`` are needed where the files name none
        that can be made. ``config`` and ``seed`` (0) are for a new training from a model; a run has its own.

        Raises:
            ConfigError: a ``config`` or a ``seed`` for a run directory, or a model without recorded settings.
            EnvError: an env with other observations, or other actions, than the model's.
            ModelError: a missing or damaged model.
            RunError: a run directory of another kind.
        """
        path = Path(path)
        if (path / "config.json").is_file() and not (path / CARD).is_file():
            if config is not None or seed is not None:
                raise ConfigError(f"{path} is a run, which continues with its own config and seed; leave both out")
            return cls._load_run(path, env, wrappers)
        card, network = load_model(path)
        if card.kind != "policy":
            raise ConfigError(f"{path} must hold a policy, got a {card.kind}; use Classifier.load")
        config = _config_of(cls.__name__, path, card) if config is None else config
        cls._require_own(path, config)
        world = _world_of(cls.__name__, path, env, wrappers, card.provenance)
        agent = cls.__new__(cls)
        with _suggest_env(cls.__name__, path, env):
            agent._set_up(world, config, seed or 0, loaded=(card, network), initial=network)
        return agent

    @classmethod
    def _load_run(cls, path: Path, env: EnvSource | None, wrappers: Sequence[Wrapper] | None) -> Self:
        run = RunDirectory.open(path)
        if run.kind != "train":
            raise RunError(f"{path} must hold a training run, got a {run.kind} run; use Classifier.load")
        settings = run.settings
        config = config_of(settings)
        cls._require_own(path, config)
        world = _world_of(cls.__name__, path, env, wrappers, settings)
        loaded = None
        with suppress(ModelNotFoundError):  # a run that ended before its first checkpoint can only learn
            loaded = load_model(path)
        agent = cls.__new__(cls)
        with _suggest_env(cls.__name__, path, env):
            agent._set_up(world, config, run.config["seed"], loaded=loaded)
        agent._run_path, agent._video_period = path, settings.get("video_period", 0)
        return agent

    @classmethod
    def _require_own(cls, path: Path, config: TrainingConfig) -> None:
        """Raise ConfigError for the settings of another kind of agent."""
        if not isinstance(config, cls.config_class):
            raise ConfigError(
                f"{path} must hold settings of {cls.__name__}, got those of {config.agent}; use {config.agent}.load"
            )

    def _require_predictor(self) -> Predictor:
        if self._predictor is None:
            raise ConfigError("this agent has learnt nothing yet: call learn() first")
        return self._predictor


def _legal(mask: ArrayLike, *, single: bool) -> NDArray[np.bool_]:
    """Convert an env's mask, 0 or 1 an action, to the predictor's, bool [B, A]; InputError for other values."""
    values = np.asarray(mask)
    if values.dtype.kind not in "biuf" or not np.isin(values, (0, 1)).all():
        raise InputError("mask", expected="0 or 1 an action, 1 where it is legal", got=shown(mask))
    if values.ndim != (1 if single else 2):
        expected = "[actions], for one observation" if single else "[batch, actions], for a batch of observations"
        raise InputError("mask.shape", expected=expected, got=str(list(values.shape)))
    return np.atleast_2d(values == 1)


def _replace_settings(config: TrainingConfig, settings: Mapping[str, Any]) -> TrainingConfig:
    """Copy a configuration with some of its settings replaced; ConfigError for an unknown one."""
    known = type(config).__dataclass_fields__
    for name in settings:
        if name not in known:
            close = difflib.get_close_matches(name, known)
            hint = f"; did you mean {close[0]}?" if close else f"; torso.agents.{type(config).__name__} lists them"
            raise ConfigError(f"{config.agent} has no setting {name!r}{hint}")
    replaced = replace(config, **settings)
    replaced.require_used(settings)
    return replaced


def _world_of(
    agent: str,
    path: Path,
    env: EnvSource | None,
    wrappers: Sequence[Wrapper] | None,
    recorded: Mapping[str, Any],
) -> World:
    """Build the world of the ``env`` argument, or else of the recorded env.

    Where both are the same env, it has the recorded ``env_kwargs``, and the recorded wrappers unless ``wrappers`` are
    given.
    """
    if env is None and recorded.get("env_id") is None:
        raise EnvError(f"the files name no env for this agent; give {agent}.load({str(path)!r}, env)")
    with _suggest_env(agent, path, env):
        source = recorded_env(recorded, str(path)) if env is None else env
    try:
        return recorded_world(recorded, source, wrappers=wrappers, where=str(path))
    except EnvError as error:
        raise EnvError(f"{error}; give {agent}.load({str(path)!r}, wrappers=[...])") from error


@contextmanager
def _suggest_env(agent: str, path: Path, env: EnvSource | None) -> Iterator[None]:
    """Add to the error of an env that the files name and that cannot be made the advice to pass ``env``."""
    try:
        yield
    except EnvError as error:
        if env is not None:
            raise
        raise EnvError(f"{error}; give {agent}.load({str(path)!r}, env)") from error


def _config_of(agent: str, path: Path, card: ModelCard) -> TrainingConfig:
    """Read the settings that a model was trained with."""
    if "config" not in card.provenance:
        raise ConfigError(f"{path} does not name the settings it was trained with; give {agent}.load(path, config=)")
    try:
        recorded = card.provenance["config"]
        return config_class(recorded.get("algorithm")).from_recorded(recorded)
    except TypeError as error:
        raise ConfigError(f"{path} was trained with settings of another torso ({error}); give config=") from error
