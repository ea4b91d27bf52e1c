"""``torso play``: play episodes, and print their returns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from torso.cli.models import AnyModel, ModelOptions, open_model
from torso.cli.terminal.output import print_result
from torso.errors import ConfigError

if TYPE_CHECKING:
    from torso.agents.acting.evaluation import Frames
    from torso.envs.vector.world import World


@dataclass(frozen=True, kw_only=True)
class PlayOptions(ModelOptions):
    """Play episodes greedily, with a local or a served model, and print each return.

    In Atari games a served model is sent raw frames, which its server preprocesses; this process then loads no library
    that computes.
    """

    env: str | None = None
    """A Gymnasium id; None: the env that the model was trained in."""
    env_kwargs: str | None = None
    """Arguments of the env's constructor, as a JSON object; None: those of the model's training."""
    episodes: int = 1
    """Number of episodes."""
    seed: int = 0
    """Seed of the episodes: a seed gives the same episodes each time, and in torso evaluate."""
    render: bool = False
    """Show the env in a window."""
    video: Path | None = None
    """Record the episodes, one after the other, into this .mp4 file."""
    json: bool = False
    """Print one JSON object."""


def run(options: PlayOptions) -> int:
    """Play, and print a line for each episode as it ends."""
    from torso.agents.acting.evaluation import evaluate, evaluation_seeds
    from torso.agents.acting.videos import frames_per_second
    from torso.agents.runs.events import Evaluation
    from torso.cli.worlds import choose_world, rendered_in_window, with_raw_frames
    from torso.envs.vector.model_fit import interface_of, require_fit

    if options.episodes < 1:
        raise ConfigError(f"--episodes must be at least 1, got {options.episodes}")
    if options.video is not None and options.render:
        raise ConfigError(
            "--video and --render must not go together: an env renders to a file or to a window; give one of them"
        )
    if options.video is not None and options.video.suffix.lower() != ".mp4":
        raise ConfigError(f"--video must be a file name that ends in .mp4, got {options.video}")
    returns: list[float] = []
    lengths: list[int] = []
    num_cut = 0
    with open_model(options) as model, ExitStack() as stack:
        world = choose_world(
            options.env, options.env_kwargs, model.provenance("policy"), is_served=options.address is not None
        )
        act, own_world = _greedy_policy(model, world), world
        env_id, env_kwargs, on_frames = world.name, world.env_kwargs, None
        raw = with_raw_frames(world)
        if raw is not None and (stream := model.stream_frames()) is not None:
            world, act = raw, stack.enter_context(stream).act_together
        policy = model.interface()
        own = None if policy is None else interface_of(own_world.spec)  # before a window is open: there may be one env
        if options.render:
            world = stack.enter_context(rendered_in_window(world))
        fps = None if options.video is None else frames_per_second(world)
        if policy is not None and own is not None:
            require_fit(policy, own, own_world.name)
        if options.video is not None and fps is not None:
            on_frames = stack.enter_context(_recording(options.video, fps))
        for seed in evaluation_seeds(options.seed, options.episodes, "score"):
            played = evaluate(act, world, [seed], on_frames=on_frames)
            returns += played.returns
            lengths += played.lengths_steps
            num_cut += played.num_cut
            if not options.json:
                print(f"episode {len(returns)}: return {returns[-1]:,.1f}, {lengths[-1]:,} steps", flush=True)
    evaluation = Evaluation(returns=tuple(returns), lengths_steps=tuple(lengths), num_cut=num_cut)
    figures = {"model": options.model, "env_id": env_id, "seed": options.seed, **evaluation.to_json(env_id, env_kwargs)}
    text = f"mean return {evaluation.mean:,.1f}"
    if options.video is not None:
        figures["video"] = str(options.video)
        text += f"\nvideo: {options.video}"
    print_result({**figures, "lengths_steps": lengths}, text, as_json=options.json)
    return 0


@contextmanager
def _recording(path: Path, frames_per_s: float) -> Iterator[Callable[[Frames], None]]:
    """Record rendered frames into a video."""
    from torso.agents.acting.videos import record_video

    with record_video(path, frames_per_s) as add:
        yield lambda frames: add(frames[0])


def _greedy_policy(model: AnyModel, world: World) -> Any:
    """Return the model's greedy policy; under an action mask, the legal action of the highest value."""

    def act(
        observations: NDArray[Any], state: tuple[Any, ...], mask: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.int64], tuple[Any, ...]]:
        actions, values = model.act(observations)
        if mask is not None:
            from torso.nets.prediction.choosing import best_legal

            actions = best_legal(values, mask) + world.spec.action_start
        return actions, state

    return act
