"""A training run: around the loop, logs, evaluations, the best model, checkpoints and exact resume."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch

from torso.agents.checkpoints import CheckpointStore
from torso.agents.dqn import DQNConfig
from torso.agents.evaluation import Evaluation, evaluate, evaluation_seeds
from torso.agents.gradient import resolve_device, resolve_precision
from torso.agents.loop import Episode, Tick
from torso.agents.plots import plot_training
from torso.agents.rundir import RunDirectory
from torso.agents.schedules import multiples_passed
from torso.agents.session import Session
from torso.agents.trackers import Tracker
from torso.agents.world import World
from torso.errors import ConfigError
from torso.nets import ModelCard, Network, Predictor, TorchBackend, export_onnx, load_model, make_provenance, save_model


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """An evaluation on the selection seeds, and whether none before was better."""

    total_steps: int
    evaluation: Evaluation
    is_best: bool


@dataclass(frozen=True, kw_only=True)
class Logged:
    """A line of progress.jsonl."""

    total_steps: int
    figures: Mapping[str, float | None]


@dataclass(frozen=True, kw_only=True)
class Checkpointed:
    """A checkpoint was completed."""

    total_steps: int


TrainingEvent = Episode | Evaluated | Logged | Checkpointed


def resolve(config: DQNConfig) -> dict[str, Any]:
    """What the ``auto`` settings choose on this machine, as plain data for config.json."""
    device = resolve_device(config.device)
    precision = resolve_precision(config.precision, device, convolutional=config.net != "mlp")
    return {"device": str(device), "precision": precision, "checkpoint_period": config.steps_between_checkpoints}


class Training:
    """Trains in a world, with a run directory or in memory alone. Both give the same bits.

    ``network`` gives the first weights instead of the seed. A run directory that holds a checkpoint is gone on with.
    """

    def __init__(
        self,
        world: World,
        config: DQNConfig,
        *,
        seed: int,
        run: RunDirectory | None = None,
        network: Network | None = None,
    ) -> None:
        if run is not None and world.is_constructed:
            raise ConfigError(
                f"a run directory needs an env that can be built anew, got the constructed env {world.name}; "
                "give its id, its class or a function that makes it"
            )
        resolved = resolve(config) if run is None else run.resolved
        self.world, self.config, self.seed, self.run_directory = world, config, seed, run
        self.session = Session(
            world,
            config,
            seed=seed,
            device=resolve_device(resolved["device"]),
            precision=resolved["precision"],
            network=network,
        )
        self.best_network: Network | None = None
        self._tracker: Tracker | None = None
        self._evaluated_at = self._cut_at = -1
        if run is not None:
            checkpoint = CheckpointStore(run.checkpoint).load()
            if checkpoint is not None:
                self.session.restore(checkpoint)
                self.best_network = load_model(run.best)[1] if self.session.best_mean is not None else None
            self._position = None if checkpoint is None else checkpoint.state["tracker"]

    @property
    def total_steps(self) -> int:
        """Steps made so far."""
        return self.session.total_steps

    @property
    def is_solved(self) -> bool:
        """Whether an evaluation has reached ``config.stop_return``."""
        enough, best = self.config.stop_return, self.session.best_mean
        return enough is not None and best is not None and best >= enough

    def run(self, until_steps: int, stop: Callable[[], bool] = lambda: False) -> Iterator[TrainingEvent]:
        """Train until ``until_steps`` steps were made in all, an evaluation is good enough, or ``stop()`` says so.

        Yields what happens. ``stop`` is asked after each tick; however the run ends, a checkpoint is written.
        """
        if self.total_steps >= until_steps or self.is_solved:
            return
        interaction = self.session.interaction
        self._tracker = None if self.run_directory is None else Tracker(self.run_directory.path, self._position)
        try:
            with _torch_threads(self.config.num_threads):
                interaction.begin()
                stopped = False
                for tick in interaction.run(until_steps):
                    yield from self._after(tick)
                    stopped = stop()
                    if self.is_solved or stopped:
                        break
                if self._evaluated_at != self.total_steps and not stopped:
                    yield self._evaluate()
                yield self._checkpoint(planned=False)
        finally:
            interaction.close()
            if self._tracker is not None:
                self._tracker.close()

    def predictor(self) -> Predictor:
        """The best network as a predictor of its own."""
        return self._as_predictor(copy.deepcopy(self._best()))

    def score(self, episodes: int) -> Evaluation:
        """Play fresh episodes greedily with the best network."""
        return self._play(copy.deepcopy(self._best()), evaluation_seeds(self.seed, episodes, "score"))

    def save(self, directory: str | os.PathLike[str], *, best: bool = True, onnx: bool = True) -> None:
        """Save the best, or the latest, network as a model directory."""
        save_model(
            directory,
            self._best() if best else self.session.learner.online,
            kind="policy",
            action_start=self.world.door.action_start,
            provenance=make_provenance(
                "torso.agents.DQN",
                seed=self.seed,
                env_id=self.world.name,
                env_kwargs=dict(self.world.env_kwargs),
                config=asdict(self.config),
                total_steps=self.session.best_step if best else self.total_steps,
            ),
            onnx=onnx,
        )

    def finish(self, score_episodes: int) -> dict[str, Any]:
        """Score the best network on fresh seeds; write ONNX files, the learning curve and summary.json. Its content."""
        summary = {
            "env_id": self.world.name,
            "seed": self.seed,
            "total_steps": self.total_steps,
            "num_updates": self.session.learner.num_updates,
            "num_episodes": self.session.num_episodes,
            "best_step": self.session.best_step,
            "selection_mean_return": self.session.best_mean,
            "score": self.score(score_episodes).to_json(),
            "cuts": self.session.cuts,
        }
        run = self.run_directory
        if run is not None:
            export_onnx(run.best)
            export_onnx(run.model)
            plot_training(run.path)
            run.write_summary(summary)
        return summary

    # -- around a tick ---------------------------------------------------------------------------------------------

    def _after(self, tick: Tick) -> Iterator[TrainingEvent]:
        """What a tick brings, in an order that a resume repeats: episodes, a log line, an evaluation, a checkpoint."""
        config = self.config
        self.session.take_in(tick)
        yield from tick.episodes
        before, after = tick.steps_before, tick.total_steps
        if multiples_passed(before, after, config.log_period):
            yield self._log()
        if multiples_passed(before, after, config.evaluation_period):
            yield self._evaluate()
        if multiples_passed(before, after, config.steps_between_checkpoints):
            yield self._checkpoint(planned=True)

    def _log(self) -> Logged:
        figures = self.session.take_figures()
        if self._tracker is not None:
            self._tracker.log(self.total_steps, figures)
        return Logged(total_steps=self.total_steps, figures=figures)

    def _evaluate(self) -> Evaluated:
        session, total_steps = self.session, self.total_steps
        network = copy.deepcopy(session.learner.online).eval()
        seeds = evaluation_seeds(self.seed, self.config.evaluation_episodes, "selection")
        evaluation = self._play(network, seeds)
        is_best = session.best_mean is None or evaluation.mean >= session.best_mean  # of equals the later: it saw more
        if is_best:
            self.best_network, session.best_mean, session.best_step = network, evaluation.mean, total_steps
            if self.run_directory is not None:
                self.save(self.run_directory.best, onnx=False)
        if self._tracker is not None:
            figures = {"evaluation_return": evaluation.mean, "evaluation_std": evaluation.std, "is_best": is_best}
            self._tracker.log(total_steps, figures)
        self._evaluated_at = total_steps
        return Evaluated(total_steps=total_steps, evaluation=evaluation, is_best=is_best)

    def _checkpoint(self, *, planned: bool) -> Checkpointed:
        """Cut every episode short, begin anew, and write down where that is."""
        session = self.session
        if self._cut_at != self.total_steps:  # the run's end may fall on a planned checkpoint
            session.interaction.cut()
            self._cut_at = self.total_steps
            if not planned:
                session.cuts.append(self.total_steps)
        if self.run_directory is not None and self._tracker is not None:
            self.save(self.run_directory.model, best=False, onnx=False)
            store = CheckpointStore(self.run_directory.checkpoint)
            state, tensors = session.state()
            self._position = state["tracker"] = self._tracker.position()
            store.save(self.total_steps, state, tensors, list(session.segments(store.rows)))
        return Checkpointed(total_steps=self.total_steps)

    def _best(self) -> Network:
        return self.best_network if self.best_network is not None else self.session.learner.online

    def _play(self, network: Network, seeds: Sequence[int]) -> Evaluation:
        """Greedy episodes of a network that nobody trains, through the predictor that also serves it."""
        return evaluate(self._as_predictor(network).act, self.world, seeds)

    def _as_predictor(self, network: Network) -> Predictor:
        start = self.world.door.action_start
        card = ModelCard(kind="policy", network=network.spec, weights_sha256="", action_start=start)
        return Predictor(card, TorchBackend(network, self.session.learner.device))


@contextmanager
def _torch_threads(num_threads: int) -> Iterator[None]:
    """Torch's intra-op threads for a while: results depend on their number, so a run sets it and gives it back."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def open_run(
    world: World, config: DQNConfig, *, total_steps: int, seed: int, out: str | os.PathLike[str], resume: bool
) -> RunDirectory:
    """Open, lock and describe the run directory of a training; see `train_run` for what it refuses."""
    if total_steps < 1:
        raise ConfigError(f"total steps must be at least 1, got {total_steps}")
    _ = world.door  # an env that torso cannot learn in is refused before anything is written
    settings = {
        "algorithm": "dqn",
        "env_id": world.name,
        "env_kwargs": dict(world.env_kwargs),
        "total_steps": total_steps,
        **asdict(config),
    }
    return RunDirectory.prepare(
        out,
        kind="train",
        settings=settings,
        resolved=resolve(config),
        seed=seed,
        resume=resume,
        extendable=("total_steps", "stop_return"),
    )


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """How a training run ended. ``summary`` is None when it was stopped; ``--resume`` goes on with it then."""

    run_directory: RunDirectory
    total_steps: int
    summary: dict[str, Any] | None


def train_run(
    world: World,
    config: DQNConfig,
    *,
    total_steps: int,
    seed: int,
    out: str | os.PathLike[str],
    resume: bool = False,
    on_event: Callable[[TrainingEvent], None] = lambda event: None,
    stop: Callable[[], bool] = lambda: False,
) -> TrainingResult:
    """Train into a run directory: the road of ``torso train``.

    With ``resume``, goes on with the run in ``out`` to the same bits that it would have given without a stop;
    ``total_steps`` and ``stop_return`` may then be other ones.

    Raises:
        ConfigError, EnvError: settings or an env that cannot work; nothing was written.
        RunError: ``out`` is not a run, or is one and ``resume`` is not set, or has other settings.
        StorageError: the directory could not be written; the checkpoint before still loads.
    """
    with open_run(world, config, total_steps=total_steps, seed=seed, out=out, resume=resume) as run:
        training = Training(world, config, seed=seed, run=run)
        for event in training.run(total_steps, stop):
            on_event(event)
        finished = training.total_steps >= total_steps or training.is_solved
        summary = training.finish(config.evaluation_episodes) if finished else None
        return TrainingResult(run_directory=run, total_steps=training.total_steps, summary=summary)
