"""``torso train``: train an agent in an environment."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from torso.agents.presets.lookup import preset
from torso.agents.runs.progress import TrainingProgress
from torso.agents.runs.run_directory import RunDirectory
from torso.agents.training.profile import profile_table
from torso.agents.training.train_runs import config_of, train_run
from torso.agents.value_based.config import DQNConfig
from torso.agents.value_based.families import all_algorithm_names, config_class
from torso.agents.value_based.network import input_spec, resolved_net
from torso.agents.value_based.pqn_config import PQNConfig
from torso.agents.value_based.training_config import TrainingConfig
from torso.cli.arguments.options import POSITIONAL, REPEATED, Sections
from torso.cli.imports import import_recorded, typed_modules
from torso.cli.parsing import UNSET, option_value
from torso.cli.runs import default_out, run_to_resume, run_until_stopped
from torso.cli.terminal.output import print_result
from torso.cli.worlds import format_score, read_env_kwargs
from torso.envs import load_wrapper
from torso.envs.vector.single_envs import load_recorded_wrapper
from torso.envs.vector.world import World, recorded_env_kwargs
from torso.errors import ConfigError

_ALGORITHM_HELP = f"The algorithm: {', '.join(all_algorithm_names())}, or a registered one; None: the preset's."


@dataclass(frozen=True, kw_only=True)
class _Options:
    """Train an agent into a run directory.

    Settings that are not given are those of the preset for the env: torso train --env ENV --help shows them. Without
    an algorithm it is the one that the preset recommends. With --resume they are those that the run was started with.
    Ctrl-C saves. A run that was killed and is resumed gives the same bits as one that was not; after Ctrl-C it resumes
    at that step, its episodes truncated.
    """

    algorithm: str | None = field(default=None, metadata={**POSITIONAL, "help": _ALGORITHM_HELP})
    env: str
    """The env, by its Gymnasium id; module:Env-v0 imports the module first, also one in the current folder."""
    env_kwargs: str = "{}"
    """Arguments of the env's constructor, as a JSON object."""
    wrapper: tuple[str, ...] = field(default=(), metadata=REPEATED)
    """A Gymnasium wrapper around each env, as MODULE:NAME; may be given several times, innermost first."""
    steps: int
    """Steps (decisions) in all, including those before a --resume."""
    seed: int = 0
    """Seed of everything random: the same seed gives the same bits."""
    out: Path | None = None
    """The run directory; None: runs/ENV-ALGORITHM-SEED."""
    video_period: int = 0
    """Steps between videos of a greedy episode, in videos/ of the run directory; 0 records none."""
    resume: bool = False
    """Continue the run in the run directory; with --env, begin it if there is none yet."""
    profile: bool = False
    """Print where the time went: envs, acting, storing, sampling, learning, logs, evaluations."""
    json: bool = False
    """Print the summary as one JSON object."""
    config: TrainingConfig
    """Settings of the algorithm."""

    @property
    def run_path(self) -> Path:
        """The run directory."""
        return self.out or default_out(self.env, self.settings.algorithm, self.seed)

    @property
    def settings(self) -> TrainingConfig:
        """Settings of the algorithm, which may stand anywhere if they are those of the preset's algorithm."""
        if self.algorithm in all_algorithm_names() and config_class(self.algorithm) is not type(self.config):
            raise ConfigError(
                f"algorithm must be the first argument where it has settings of its own, got {self.algorithm}; give "
                f"torso train {self.algorithm} --env {self.env}"
            )
        return self.config if self.algorithm is None else self.config.with_algorithm(self.algorithm)


_BASICS = ("algorithm", "env", "env_kwargs", "wrapper", "num_envs", "steps", "seed", "out", "resume")
_NETWORK = ("net", "layout", "hidden", "activation", "layer_norm", "layer_norm_kind")
_WEIGHTS = ("init", "init_torso", "freeze_torso", "normalise_observations")
_RATES = ("learning_rate", "learning_rate_end", "learning_rate_decay_steps")
_EPSILON = ("epsilon_start", "epsilon_end", "epsilon_decay_steps")
_OF_ALL: Sections = {
    "evaluation": (
        *("evaluation_period", "evaluation_episodes", "evaluation_envs", "evaluation_max_steps", "stop_return"),
        "video_period",
    ),
    "logging and checkpoints": ("log_period", "checkpoint_period", "profile", "json"),
    "device": ("device", "precision", "memory_format", "executor", "num_threads"),
}


@dataclass(frozen=True, kw_only=True)
class TrainOptions(_Options):  # noqa: D101 - its text is that of every algorithm
    __doc__ = _Options.__doc__

    sections: ClassVar[Sections] = {
        "basics": _BASICS,
        "network": (
            *(*_NETWORK, "head", "dueling", "noisy", "noisy_std"),
            *("num_atoms", "v_min", "v_max", "num_quantiles", "num_fractions", "num_fixed_fractions", "num_cosines"),
            *_WEIGHTS,
        ),
        "learning": (
            *("gamma", "n_step", "double", "clip_rewards", "normalise_rewards", "huber_delta"),
            *("munchausen_alpha", "munchausen_tau", "munchausen_clip", "munchausen_network"),
            *("target_update_period", "target_update_rate"),
        ),
        "optimiser": (*_RATES, "adam_eps", "max_grad_norm", "batch_size", "learn_period", "updates_per_phase"),
        "replay": (
            *("replay_capacity", "min_replay_size", "prioritized", "priority_exponent"),
            *("importance_start", "importance_end", "importance_steps"),
        ),
        "exploration": ("exploration", *_EPSILON, "ladder_epsilon", "ladder_alpha", "temperature"),
        **_OF_ALL,
    }
    """Headings of the help, and the options below each."""

    config: DQNConfig = field(default_factory=DQNConfig)
    """Settings of the algorithm."""


@dataclass(frozen=True, kw_only=True)
class PQNTrainOptions(_Options):  # noqa: D101 - as above
    __doc__ = _Options.__doc__

    sections: ClassVar[Sections] = {
        "basics": _BASICS,
        "network": (*_NETWORK, *_WEIGHTS),
        "learning": ("gamma", "trace_decay", "clip_rewards", "normalise_rewards", "reward_factor"),
        "optimiser": (*_RATES, "max_grad_norm", "rollout_steps", "epochs", "num_minibatches", "overlap"),
        "exploration": _EPSILON,
        **_OF_ALL,
    }
    """Headings of the help, and the options below each."""

    config: PQNConfig = field(default_factory=PQNConfig)
    """Settings of the algorithm."""


_CLASSES: dict[type[TrainingConfig], Callable[..., _Options]] = {DQNConfig: TrainOptions, PQNConfig: PQNTrainOptions}


def presets(arguments: Sequence[str]) -> _Options:
    """Return the default options: the settings of the resumed run, or of the preset."""
    first = next((word for word in arguments[:1] if not word.startswith("-")), None)
    named = option_value(arguments, "--algorithm")
    if first and named and first != named:
        raise ConfigError(f"algorithm must be given once, got {first} and --algorithm {named}; leave one of them out")
    env, seed = option_value(arguments, "--env"), option_value(arguments, "--seed")
    known = preset(first or named, env or "")
    out = option_value(arguments, "--out") or (env and default_out(env, known.config.algorithm, seed or 0))
    run = run_to_resume(arguments, "train", Path(out), "--env") if out else None
    if run is not None:
        options = _options_of_run(run, wrappers_given=option_value(arguments, "--wrapper") is not None)
        import_recorded([*([] if env else [options.env]), *options.wrapper], f"the run in {out}")
        for name in options.wrapper:
            load_recorded_wrapper(name, f"the run in {out}", typed_modules())
        return options
    return _CLASSES[type(known.config)](
        env=env or UNSET,
        env_kwargs=json.dumps(known.env_kwargs),
        steps=known.total_steps,
        config=known.config,
    )


def run(options: _Options) -> int:
    """Train, and print the summary."""
    wrappers = [load_wrapper(name) for name in options.wrapper]
    world = World(env=options.env, env_kwargs=read_env_kwargs(options.env_kwargs), wrappers=wrappers)
    out = options.run_path
    if not (out / "config.json").is_file():  # a run goes on with what it began with
        options.settings.require_used(_given_settings(options))

    preface = _preface(options) + ("" if options.json else f"\n{_reading(world, options.settings)}")

    def work(stop: Callable[[], bool]) -> str | None:
        with TrainingProgress(options.steps, preface) as progress:
            trained = train_run(
                world,
                options.settings,
                total_steps=options.steps,
                seed=options.seed,
                out=out,
                resume=options.resume,
                callbacks=[progress],
                video_period=options.video_period,
                profiles=options.profile,
                on_event=progress.on_event,
                stop=stop,
            )
        if trained.profile is not None and not options.json:
            print(profile_table(trained.profile), file=sys.stderr)
        if trained.summary is None:  # Ctrl-C
            return f"step {trained.total_steps:,} of {options.steps:,}"
        profile = {} if trained.profile is None else {"profile": trained.profile}
        _print_summary({**trained.summary, **profile}, trained.run_directory, as_json=options.json)
        return None

    return run_until_stopped("train", out, work)


def _options_of_run(run: RunDirectory, *, wrappers_given: bool) -> _Options:
    """Return the options that a run was started with; wrappers that are given again replace its wrappers."""
    settings = run.settings
    config = config_of(settings)
    return _CLASSES[type(config)](
        env=settings["env_id"],
        env_kwargs=json.dumps(recorded_env_kwargs(settings)),
        wrapper=() if wrappers_given else tuple(settings.get("wrappers", ())),
        steps=settings["total_steps"],
        seed=run.config["seed"],
        video_period=settings.get("video_period", 0),
        config=config,
    )


def _reading(world: World, settings: TrainingConfig) -> str:
    """Describe how observations are read, and by which net."""
    network_input, torso = input_spec(world.spec, settings), settings.init_torso
    net = resolved_net(settings, network_input) if torso is None else f"the torso of {torso}"
    return f"observations: {network_input.reading}; net {net}"


def _preface(options: _Options) -> str:
    """Describe the run before it starts: the preset, its source, and the settings that override it."""
    algorithm = options.settings.algorithm
    known = preset(algorithm, options.env)
    defaults, theirs = asdict(type(known.config)(algorithm=algorithm)), asdict(known.config)
    lines = [f"{algorithm} on {options.env}, {options.steps:,} steps, seed {options.seed}: {options.run_path}"]
    of_preset = {name: theirs[name] for name in theirs if theirs[name] != defaults[name] and known.config.is_used(name)}
    if known.env_kwargs:
        of_preset["env_kwargs"] = json.dumps(known.env_kwargs)
    source = f"preset from {known.source}" if known.source != "defaults" else f"no preset for {options.env}, defaults"
    lines.append(f"{source}: {_format_settings(of_preset)}" if of_preset else source)
    changed = _given_settings(options)
    if read_env_kwargs(options.env_kwargs) != known.env_kwargs:
        changed["env_kwargs"] = options.env_kwargs
    if options.wrapper:
        changed["wrapper"] = options.wrapper
    if changed:
        lines.append(f"given: {_format_settings(changed)}")
    return "\n".join(lines)


def _given_settings(options: _Options) -> dict[str, Any]:
    """Settings that differ from the preset's."""
    theirs = asdict(preset(options.settings.algorithm, options.env).config)
    return {name: value for name, value in asdict(options.settings).items() if value != theirs[name]}


def _format_settings(settings: dict[str, Any]) -> str:
    def shown(value: Any) -> str:
        return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)

    return ", ".join(f"{name} {shown(value)}" for name, value in settings.items())


def _print_summary(summary: dict[str, Any], run: RunDirectory, *, as_json: bool) -> None:
    score, model = summary["score"], run.model if summary["score"] is None else run.best
    text = (
        f"{summary['env_id']}: {'not evaluated' if score is None else format_score(score, 'fresh episodes')}\n"
        f"{summary['total_steps']:,} steps, {summary['num_episodes']:,} episodes; "
        f"{'latest model' if score is None else 'best model: step ' + format(summary['best_step'], ',')}\n"
        f"model: {model}\ncurve: {run.learning_curve}"
    )
    print_result({**summary, "run": str(run.path), "model": str(model)}, text, as_json=as_json)
