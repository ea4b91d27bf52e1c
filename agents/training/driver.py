"""Training driver: the training core with logs, evaluations, the best model, checkpoints and exact resume."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

import numpy as np

from torso.agents.acting.evaluation import evaluate, evaluation_seeds
from torso.agents.acting.videos import VideoRecorder
from torso.agents.optim.devices import resolve_precision, torch_threads
from torso.agents.optim.schedules import multiples_passed
from torso.agents.runs.callbacks import Callback, Hooks
from torso.agents.runs.checkpoints import CheckpointStore
from torso.agents.runs.events import Checkpointed, Evaluated, Evaluation, Logged, Tick, TrainingEvent
from torso.agents.runs.learning_curves import plot_training
from torso.agents.runs.run_directory import RunDirectory
from torso.agents.runs.trackers import Tracker
from torso.agents.training.session import Session
from torso.agents.value_based.config import DQNConfig
from torso.envs.vector.world import World
from torso.nets import (
    LARGE_WEIGHTS,
    ModelCard,
    Network,
    Predictor,
    TorchBackend,
    export_onnx,
    make_provenance,
    save_model,
)
from torso.nets.modules.devices import resolve_device

E = TypeVar("E", bound=TrainingEvent)


def resolve_training(config: DQNConfig) -> dict[str, Any]:
    """Resolve the ``auto`` settings on this machine, as JSON for config.json."""
    device = resolve_device(config.device)
    widths = zip(config.hidden, config.hidden[1:], strict=False)
    pays = config.net != "mlp" or any(a * b >= LARGE_WEIGHTS for a, b in widths)
    precision = resolve_precision(config.precision, device, pays=pays)
    return {"device": str(device), "precision": precision, "checkpoint_period": config.steps_between_checkpoints}


class Training:
    """Training in a world, with a run directory or in memory only. Both give the same bits.

    ``network`` gives the initial weights instead of the seed. A run directory with a checkpoint is resumed.
    Every ``video_period`` steps (0: never) a greedy episode is recorded into the run directory, which changes no bit.
    """

    def __init__(
        self,
        world: World,
        config: DQNConfig,
        *,
        seed: int,
        run: RunDirectory | None = None,
        network: Network | None = None,
        video_period: int = 0,
    ) -> None:
        resolved = resolve_training(config) if run is None else run.resolved
        self.world, self.config, self.seed, self.run_directory = world, config, seed, run
        self.session = Session(
            world,
            config,
            seed=seed,
            device=resolve_device(resolved["device"]),
            precision=resolved["precision"],
            network=network,
        )
        self._checkpoint_period: int = resolved["checkpoint_period"]
        self._checkpointed_at = -1
        self._hooks = Hooks()
        self._camera: VideoRecorder | None = None
        if run is not None and video_period:
            [episode] = evaluation_seeds(seed, 1, "video")
            self._camera = VideoRecorder(world, run.videos, seed=episode, period_steps=video_period)
        self._tracker: Tracker | None = None
        self._position: Mapping[str, Any] | None = None  # of the logs, at the latest checkpoint
        self._is_warm_start = network is not None  # from weights that do not follow from the seed
        checkpoint = None if run is None else CheckpointStore(run.checkpoint).load()
        if run is not None and checkpoint is not None:
            self.session.restore(checkpoint)
            self._position = checkpoint.state["tracker"]
            if self.session.best_network is not None:  # best/ may be of a step after the checkpoint
                self.save(run.best, onnx=False)

    @property
    def total_steps(self) -> int:
        """Steps made so far."""
        return self.session.total_steps

    @property
    def is_solved(self) -> bool:
        """Whether an evaluation has reached ``config.stop_return``."""
        threshold, best = self.config.stop_return, self.session.best_mean
        return threshold is not None and best is not None and best >= threshold

    def is_done(self, until_steps: int) -> bool:
        """Whether ``until_steps`` steps were made in all, or ``config.stop_return`` is reached."""
        return self.total_steps >= until_steps or self.is_solved

    def run(
        self,
        until_steps: int,
        stop: Callable[[], bool] = lambda: False,
        callbacks: Sequence[Callback] = (),
    ) -> Iterator[TrainingEvent]:
        """Train until it `is_done`, or ``stop()`` or a callback returns True.

        Yields events, after the callbacks were notified. ``stop`` is called after each tick; each of these ends writes
        a checkpoint. An exception, or a caller that abandons the generator, writes none: a run directory then holds its
        latest checkpoint, which a new `Training` resumes.
        """
        self._hooks = Hooks(callbacks)
        if self.is_done(until_steps):
            return
        if self.run_directory is not None:
            self.run_directory.drop_summary()  # of an earlier end of this run
        core = self.session.core
        self._tracker = None if self.run_directory is None else Tracker(self.run_directory.path, self._position)
        try:
            with torch_threads(self.config.num_threads):
                if self._is_warm_start and self.total_steps == 0:
                    self._write_checkpoint()  # or a run killed before its first one would resume from the seed
                core.begin()
                for tick in core.run(until_steps):
                    yield from self._process_tick(tick, until_steps)
                    if self.is_solved or self._hooks.stop or stop():
                        break
                if self._checkpointed_at != self.total_steps:
                    yield self._notify("on_checkpoint", self._checkpoint(planned=False))
        finally:
            core.close()
            if self._tracker is not None:
                self._tracker.close()

    def predictor(self) -> Predictor:
        """Copy the best network into a predictor."""
        return self._as_predictor(copy.deepcopy(self._best_network()))

    def score(self, episodes: int) -> Evaluation:
        """Play fresh episodes greedily with the best network."""
        with torch_threads(self.config.num_threads):
            return self._evaluate_network(
                copy.deepcopy(self._best_network()), evaluation_seeds(self.seed, episodes, "score")
            )

    def save(self, directory: str | os.PathLike[str], *, best: bool = True, onnx: bool = True) -> None:
        """Save the best, or the latest, network as a model directory."""
        save_model(
            directory,
            self._best_network() if best else self.session.learner.online,
            kind="policy",
            action_start=self.world.spec.action_start,
            provenance=make_provenance(
                "torso.agents.DQN",
                seed=self.seed,
                env_id=self.world.name,
                env_kwargs=dict(self.world.env_kwargs),
                wrappers=self.world.wrapper_names,
                config=asdict(self.config),
                total_steps=self.session.best_step if best else self.total_steps,
            ),
            onnx=onnx,
        )

    def finish(self, score_episodes: int) -> dict[str, Any]:
        """Score the best network on fresh seeds; write ONNX files, the learning curve and summary.json; return it."""
        summary = {
            "env_id": self.world.name,
            "seed": self.seed,
            "total_steps": self.total_steps,
            "num_updates": self.session.learner.num_updates,
            "num_episodes": self.session.num_episodes,
            "num_cut_episodes": self.session.num_cut_episodes,
            "best_step": self.session.best_step,
            "selection_mean_return": self.session.best_mean,
            "score": self.score(score_episodes).to_json(self.world.name),
            "cuts": self.session.cuts,
        }
        run = self.run_directory
        if run is not None:
            export_onnx(run.best)
            export_onnx(run.model)
            plot_training(run.path)
            run.write_summary(summary)
        return summary

    # -- after each tick -------------------------------------------------------------------------------------------

    def _process_tick(self, tick: Tick, until_steps: int) -> Iterator[TrainingEvent]:
        """Yield a tick's events, in an order that a resume repeats: episodes, a log line, an evaluation, a checkpoint.

        The last tick always has an evaluation, and before the checkpoint: a resume from that one would skip it. A video
        comes before the checkpoint for the same reason.
        """
        config = self.config
        self.session.record_tick(tick)
        self._hooks("on_step", tick)
        if tick.updates:
            self._hooks("on_update", tick)
        for episode in tick.episodes:
            yield self._notify("on_episode", episode)
        before, after = tick.steps_before, tick.total_steps
        if multiples_passed(before, after, config.log_period):
            yield self._log()
        if multiples_passed(before, after, config.evaluation_period) or after >= until_steps:
            yield self._notify("on_evaluation", self._evaluate())
        if self._camera is not None and multiples_passed(before, after, self._camera.period_steps):
            network = copy.deepcopy(self.session.learner.online).eval()
            self._camera.record_video(self._as_predictor(network).act, after)
        if multiples_passed(before, after, self._checkpoint_period):
            yield self._notify("on_checkpoint", self._checkpoint(planned=True))

    def _notify(self, hook: str, event: E) -> E:
        """Notify the callbacks of an event, and return it."""
        self._hooks(hook, event)
        return event

    def _log(self) -> Logged:
        self.session.require_finite()
        figures = self.session.pop_metrics()
        if self._tracker is not None:
            self._tracker.log(self.total_steps, figures)
        return Logged(total_steps=self.total_steps, figures=figures)

    def _evaluate(self) -> Evaluated:
        session, total_steps = self.session, self.total_steps
        session.require_finite()  # or a network of NaN could be the best
        network = copy.deepcopy(session.learner.online).eval()
        seeds = evaluation_seeds(self.seed, self.config.evaluation_episodes, "selection")
        evaluation = self._evaluate_network(network, seeds)
        if self.world.is_constructed:  # the episodes were played in the training env itself
            session.cut()
        is_best = session.best_mean is None or evaluation.mean >= session.best_mean  # of equals the later one
        if is_best:
            session.best_network, session.best_mean, session.best_step = network, evaluation.mean, total_steps
            if self.run_directory is not None:
                self.save(self.run_directory.best, onnx=False)
        if self._tracker is not None:
            figures = {
                "evaluation_return": evaluation.mean,
                "evaluation_std": evaluation.std,
                "evaluation_length": float(np.mean(evaluation.lengths_steps)),
                "is_best": is_best,
            }
            self._tracker.log(total_steps, figures)
        return Evaluated(total_steps=total_steps, evaluation=evaluation, is_best=is_best)

    def _checkpoint(self, *, planned: bool) -> Checkpointed:
        """Truncate all unfinished episodes, begin new ones, and write a checkpoint there."""
        self.session.require_finite()  # so the latest checkpoint is always a good one
        self.session.cut()
        if not planned:
            self.session.cuts.append(self.total_steps)
        self._write_checkpoint()
        self._checkpointed_at = self.total_steps
        return Checkpointed(total_steps=self.total_steps)

    def _write_checkpoint(self) -> None:
        if self.run_directory is None or self._tracker is None:
            return
        self.save(self.run_directory.model, best=False, onnx=False)
        store = CheckpointStore(self.run_directory.checkpoint)
        state, tensors = self.session.state()
        state["tracker"] = position = self._tracker.position()
        store.save(self.total_steps, state, tensors, list(self.session.segments(store.rows)))
        self._position = position

    def _best_network(self) -> Network:
        best = self.session.best_network
        return self.session.learner.online if best is None else best

    def _evaluate_network(self, network: Network, seeds: Sequence[int]) -> Evaluation:
        """Evaluate greedily a network that is not being trained, through the same predictor as in serving."""
        return evaluate(self._as_predictor(network).act, self.world, seeds)

    def _as_predictor(self, network: Network) -> Predictor:
        start = self.world.spec.action_start
        card = ModelCard(kind="policy", network=network.spec, weights_sha256="", action_start=start)
        return Predictor(card, TorchBackend(network, self.session.learner.device))
