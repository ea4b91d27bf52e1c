"""Training driver: the training core with logs, evaluations, the best model, checkpoints and exact resume."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, TypeVar

import numpy as np

from torso.agents.acting.evaluation import evaluate, evaluation_seeds
from torso.agents.acting.videos import VideoRecorder
from torso.agents.optim.devices import resolve_precision, torch_threads
from torso.agents.optim.executors import resolve_executor
from torso.agents.optim.memory_formats import resolve_memory_format
from torso.agents.optim.schedules import multiples_passed
from torso.agents.runs.callbacks import Callback, Hooks
from torso.agents.runs.events import Checkpointed, Evaluated, Evaluation, Logged, Tick, TrainingEvent
from torso.agents.runs.learning_curves import plot_training
from torso.agents.runs.recorder import Recorder
from torso.agents.runs.run_directory import RunDirectory
from torso.agents.training.profile import Profile
from torso.agents.training.session import Session, build_network_for
from torso.agents.value_based.families import family_of
from torso.agents.value_based.network import input_spec, q_network_spec, resolved_net
from torso.agents.value_based.training_config import TrainingConfig
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

_log = logging.getLogger(__name__)
E = TypeVar("E", bound=TrainingEvent)


def resolve_training(world: World, config: TrainingConfig, initial: Network | None = None) -> dict[str, Any]:
    """Resolve the ``auto`` settings on this machine, as JSON for config.json; ``memory_format`` for convolutions only.

    ``initial`` is the network with the initial weights, where they do not follow from a seed.
    """
    device, family = resolve_device(config.device), family_of(config)
    widths = zip(config.hidden, config.hidden[1:], strict=False)
    pays = resolved_net(config, input_spec(world.spec, config)) != "mlp" or any(
        a * b >= LARGE_WEIGHTS for a, b in widths
    )
    precision = resolve_precision(config.precision, device, pays=pays)
    executor = resolve_executor(config.executor, device)
    memory_format = resolve_memory_format(
        config.memory_format,
        q_network_spec(config, input_spec(world.spec, config), world.spec.num_actions, initial),
        lambda: build_network_for(world, config, 0, initial),
        partial(family.trial, config, device=device, precision=precision),
        rows=family.minibatch_rows(config),
        usual="contiguous",
        device=device,
        precision=precision,
        num_threads=config.num_threads,
    )
    return {
        "device": str(device),
        "precision": precision,
        "executor": executor,
        **({} if memory_format is None else {"memory_format": memory_format}),
        **({"overlap": True} if family.overlap(config) and device.type == "cpu" else {}),
        "checkpoint_period": config.steps_between_checkpoints,
    }


class Training:
    """Training in a world, with a run directory or in memory only. Both give the same bits.

    ``network`` gives the initial weights instead of the seed; it is copied. ``built`` is the initial network where
    `build_network_for` has built it already; it becomes the training's own. A run directory with a checkpoint is
    resumed. Every ``video_period`` steps (0: never) a greedy episode is recorded into the run directory, which changes
    no bit. ``profiles``: ``profile`` tells where the time of the latest `run` went, which changes no bit either.
    """

    def __init__(
        self,
        world: World,
        config: TrainingConfig,
        *,
        seed: int,
        run: RunDirectory | None = None,
        network: Network | None = None,
        built: Network | None = None,
        video_period: int = 0,
        profiles: bool = False,
    ) -> None:
        resolved = resolve_training(world, config, network) if run is None else run.resolved
        self.world, self.config, self.seed = world, config, seed
        self.recorder = Recorder(run)
        self._profile = Profile(resolve_device(resolved["device"])) if profiles else None
        self._profiled_from = 0  # steps
        if built is None and network is not None:
            built = build_network_for(world, config, seed, network)
        self.session = Session(
            world,
            config,
            seed=seed,
            device=resolve_device(resolved["device"]),
            precision=resolved["precision"],
            memory_format=resolved.get("memory_format", "contiguous"),  # a run of before had no other
            executor=resolved.get("executor", "eager"),  # nor this
            overlap=resolved.get("overlap", False),  # nor that
            network=built,
            profile=self._profile,
        )
        if self._profile is not None:
            parts = {"_log": "log", "_evaluate": "evaluate", "_record_video": "evaluate", "_checkpoint": "checkpoint"}
            self._profile.watch_methods(self, parts)
        self._checkpoint_period: int = resolved["checkpoint_period"]
        self._checkpointed_at = -1
        self._hooks = Hooks()
        self._camera: VideoRecorder | None = None
        if run is not None and video_period:
            [episode] = evaluation_seeds(seed, 1, "video")
            self._camera = VideoRecorder(world, run.videos, seed=episode, period_steps=video_period)
        self._is_warm_start = network is not None  # from weights that do not follow from the seed
        if self.recorder.restore(self.session.restore) and run is not None and self.session.best.network is not None:
            self.save(run.best, onnx=False)  # it may be of a step after the checkpoint

    @property
    def run_directory(self) -> RunDirectory | None:
        """The run directory, if there is one."""
        return self.recorder.run

    @property
    def total_steps(self) -> int:
        """Steps made so far."""
        return self.session.total_steps

    @property
    def is_solved(self) -> bool:
        """Whether an evaluation has reached ``config.stop_return``."""
        threshold, best = self.config.stop_return, self.session.best.mean
        return threshold is not None and best is not None and best >= threshold

    @property
    def profile(self) -> dict[str, Any] | None:
        """Seconds of the latest `run` by part of the driver; see `torso.agents.training.profile`."""
        return None if self._profile is None else self._profile.to_json(self.total_steps - self._profiled_from)

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
        latest checkpoint, which a new `Training` resumes. A new run that ends before its first step leaves none.
        """
        self._hooks = Hooks(callbacks)
        if self.is_done(until_steps):
            return
        core, self._profiled_from = self.session.core, self.total_steps
        if self._profile is not None:
            self._profile.begin()
        try:
            self.recorder.begin()
            with torch_threads(self.config.num_threads):
                if self._is_warm_start and self.total_steps == 0:
                    self._write_checkpoint()  # or a run killed before its first one would resume from the seed
                core.begin()
                ends = False
                for tick in core.run(until_steps):
                    yield from self._process_tick(tick, until_steps)
                    ends = ends or self.is_solved or self._hooks.stop or stop()
                    if ends and core.experience.settled:
                        break
                if reason := self._nothing_learnt():
                    _log.warning("%s", reason)
                if self._checkpointed_at != self.total_steps:
                    yield self._notify("on_checkpoint", self._checkpoint(planned=False))
        finally:
            core.close()
            self.recorder.close()
            if self._profile is not None:
                self._profile.end()
            if self.total_steps == 0 and self.run_directory is not None:
                self.run_directory.discard()
            self._hooks = Hooks()

    def predictor(self) -> Predictor:
        """Return a predictor of the best network so far."""
        return self._as_predictor(self._best_network())

    def score(self, episodes: int) -> Evaluation:
        """Play fresh episodes greedily with the best network."""
        return self._evaluate_network(self._best_network(), evaluation_seeds(self.seed, episodes, "score"))

    def save(self, directory: str | os.PathLike[str], *, best: bool = True, onnx: bool = True) -> None:
        """Save the best, or the latest, network as a model directory."""
        save_model(
            directory,
            self._best_network() if best else self._online,
            kind="policy",
            action_start=self.world.spec.action_start,
            observation_space=self.world.spec.space,
            provenance=make_provenance(
                f"torso.agents.{self.config.agent}",
                seed=self.seed,
                env_id=self.world.name,
                env_kwargs=dict(self.world.env_kwargs),
                wrappers=self.world.wrapper_names,
                config=asdict(self.config),
                total_steps=self.session.best.step if best else self.total_steps,
            ),
            onnx=onnx,
        )

    def finish(self, score_episodes: int) -> dict[str, Any]:
        """Score the best network on fresh seeds; write ONNX files, the learning curve and summary.json; return it."""
        figures, best = self.session.figures, self.session.best
        summary = {
            "env_id": self.world.name,
            "seed": self.seed,
            "observations": self.session.learner.online.spec.input.reading,
            "total_steps": self.total_steps,
            "num_updates": self.session.core.num_updates,
            "num_episodes": figures.num_episodes,
            "num_cut_episodes": figures.num_cut_episodes,
            "best_step": best.step,
            "selection_mean_return": best.mean,
            "score": None if self.config.evaluation_period is None else self._final_score(score_episodes),
            "cuts": figures.cuts,
        }
        if reason := self._nothing_learnt():
            summary["warning"] = reason
        run = self.run_directory
        if run is not None:
            if best.network is not None:
                export_onnx(run.best, best.network)
            export_onnx(run.model, self._online)
            plot_training(run.path)
            run.write_summary(summary)
        return summary

    def _final_score(self, episodes: int) -> dict[str, Any]:
        return self.score(episodes).to_json(self.world.name, self.world.env_kwargs)

    def _nothing_learnt(self) -> str:
        """Say why there was no update; empty where there was one."""
        if self.session.core.num_updates:
            return ""
        first = self.config.nothing_learnt()
        return f"nothing was learnt: the run has {self.total_steps:,} steps, and the first update comes {first}"

    # -- after each tick -------------------------------------------------------------------------------------------

    def _process_tick(self, tick: Tick, until_steps: int) -> Iterator[TrainingEvent]:
        """Yield a tick's events, in an order that a resume repeats: episodes, a log line, an evaluation, a checkpoint.

        The last tick always has an evaluation, and before the checkpoint: a resume from that one would skip it. A video
        comes before the checkpoint for the same reason.
        """
        config = self.config
        self.session.figures.record(tick)
        self._hooks("on_step", tick)
        if tick.updates:
            self._hooks("on_update", tick)
        for episode in tick.episodes:
            yield self._notify("on_episode", episode)
        before, after = tick.steps_before, tick.total_steps
        if multiples_passed(before, after, config.log_period):
            yield self._log()
        if self._must_evaluate(tick, until_steps):
            yield self._notify("on_evaluation", self._evaluate())
        if self._camera is not None and multiples_passed(before, after, self._camera.period_steps):
            self._record_video(self._camera)
        if self._must_checkpoint(tick):
            yield self._notify("on_checkpoint", self._checkpoint(planned=True))

    def _record_video(self, camera: VideoRecorder) -> None:
        network = copy.deepcopy(self._online).eval()
        with self.recorder.not_stepping():
            camera.record_video(self._as_predictor(network).act, self.total_steps)

    def _must_checkpoint(self, tick: Tick) -> bool:
        """Whether a checkpoint is due after a tick. One that falls into a rollout waits for its end."""
        figures = self.session.figures
        figures.owes_checkpoint |= bool(multiples_passed(tick.steps_before, tick.total_steps, self._checkpoint_period))
        if not (figures.owes_checkpoint and self.session.core.experience.settled):
            return False
        figures.owes_checkpoint = False
        return True

    def _must_evaluate(self, tick: Tick, until_steps: int) -> bool:
        """Whether an evaluation is due after a tick; the last tick has one unless there are none at all.

        In place of the training it would cut the episodes that are under way. So it waits there for an episode's end,
        or for a checkpoint, which cuts them all the same; with rollouts, which a cut would spoil, for the end of one.
        """
        period, figures, experience = self.config.evaluation_period, self.session.figures, self.session.core.experience
        if period is None:
            return False
        before, after = tick.steps_before, tick.total_steps
        figures.owes_evaluation |= bool(multiples_passed(before, after, period))
        ends = bool(tick.episodes) or bool(multiples_passed(before, after, self._checkpoint_period))
        may_cut = ends if experience.keeps_rows else experience.settled
        waits = self._evaluates_in_place and not may_cut
        is_last = after >= until_steps and experience.settled
        if not is_last and (waits or not figures.owes_evaluation):
            return False
        figures.owes_evaluation = False
        return True

    @property
    def _evaluates_in_place(self) -> bool:
        """Whether evaluations take the place of the training: in its one constructed env, or with its envs closed."""
        return self.world.is_constructed or self.config.evaluation_envs == 0

    def _notify(self, hook: str, event: E) -> E:
        """Notify the callbacks of an event, and return it."""
        self._hooks(hook, event)
        return event

    def _log(self) -> Logged:
        self.session.figures.require_finite(self.total_steps)
        figures = self.session.pop_figures()
        self.recorder.log(self.total_steps, figures)
        return Logged(total_steps=self.total_steps, figures=figures)

    def _evaluate(self) -> Evaluated:
        session, total_steps = self.session, self.total_steps
        session.figures.require_finite(total_steps)  # or a network of NaN could be the best
        network = copy.deepcopy(self._online).eval()
        seeds = evaluation_seeds(self.seed, self.config.evaluation_episodes, "selection")
        if self._evaluates_in_place:
            session.cut(goes_on=False)
        with self.recorder.not_stepping():
            evaluation = self._evaluate_network(network, seeds)
        if self._evaluates_in_place:
            session.core.begin()
        is_best = session.best.challenge(network, evaluation.mean, total_steps)
        if is_best and self.run_directory is not None:
            self.save(self.run_directory.best, onnx=False)
        figures = {
            "evaluation_return": evaluation.mean,
            "evaluation_std": evaluation.std,
            "evaluation_min": min(evaluation.returns),
            "evaluation_max": max(evaluation.returns),
            "evaluation_length": float(np.mean(evaluation.lengths_steps)),
            "is_best": is_best,
        }
        self.recorder.log(total_steps, figures)
        return Evaluated(total_steps=total_steps, evaluation=evaluation, is_best=is_best)

    def _checkpoint(self, *, planned: bool) -> Checkpointed:
        """Truncate all unfinished episodes, and write a checkpoint there; after a planned one the training goes on."""
        if updates := self.session.core.settle():
            tick = Tick(self.total_steps, self.total_steps, (), updates)
            self.session.figures.record(tick)
            self._hooks("on_update", tick)
        self.session.figures.require_finite(self.total_steps)  # so the latest checkpoint is always a good one
        self.session.cut(goes_on=planned)
        if not planned:
            self.session.figures.cuts.append(self.total_steps)
        self._write_checkpoint()
        self._checkpointed_at = self.total_steps
        return Checkpointed(total_steps=self.total_steps)

    def _write_checkpoint(self) -> None:
        if self.run_directory is not None:
            self.save(self.run_directory.model, best=False, onnx=False)
            self.recorder.checkpoint(self.total_steps, self.session.parts(), self.session.segments)

    @property
    def _online(self) -> Network:
        """The network that learns, once nothing is being learnt."""
        self.session.core.wait()
        return self.session.learner.online

    def _best_network(self) -> Network:
        """Return the best network by evaluation, or a copy of the one that learns where there is none yet."""
        best = self.session.best.network
        return copy.deepcopy(self._online).eval() if best is None else best

    def _evaluate_network(self, network: Network, seeds: Sequence[int]) -> Evaluation:
        """Evaluate greedily a network that is not being trained, through the same predictor as in serving."""
        with torch_threads(self.config.num_threads):  # a training that learns beside acting has fewer for each
            return evaluate(
                self._as_predictor(network).act,
                self.world,
                seeds,
                max_steps=self.config.evaluation_max_steps,
                max_envs=self.config.most_evaluation_envs,
            )

    def _as_predictor(self, network: Network) -> Predictor:
        env = self.world.spec
        card = ModelCard(
            kind="policy",
            network=network.spec,
            weights_sha256="",
            action_start=env.action_start,
            observation_space=env.space,
        )
        return Predictor(card, TorchBackend(network, self.session.learner.device))
