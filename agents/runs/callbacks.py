"""What happens in a training run, and callbacks: a user's own hooks, called as it happens.

A callback overrides the hooks it wants, and ends the run by returning True from any of them::

    class EnoughEpisodes(Callback):
        def __init__(self, num_episodes: int) -> None:
            self.left = num_episodes

        def on_episode(self, episode: Episode) -> bool:
            self.left -= 1
            return self.left <= 0

    DQN("CartPole-v1").learn(50_000, callbacks=[EnoughEpisodes(300)])

A run that a callback ends is saved as after Ctrl-C: it writes a checkpoint and can be gone on with. An exception in a
hook ends the run at once, and is raised; a run directory then stands at its latest checkpoint.

Hooks are called between the run's own work, and its bits do not depend on them as long as they only look. What a
callback keeps to itself is in no checkpoint: a run that is resumed calls it from its checkpoint's step on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torso.agents.runs.events import Checkpointed, Episode, Evaluated, Tick
from torso.errors import ConfigError


class Callback:
    """Hooks that do nothing, for subclasses to override. A hook that returns True ends the run after this tick."""

    def on_step(self, tick: Tick) -> bool | None:
        """Every env was stepped once."""

    def on_update(self, tick: Tick) -> bool | None:
        """The agent learnt in this tick; ``tick.metrics`` are tensors on the device that learns."""

    def on_episode(self, episode: Episode) -> bool | None:
        """A training episode ended."""

    def on_evaluation(self, evaluated: Evaluated) -> bool | None:
        """The network was evaluated; where it is the best so far, it is in ``best/`` by now."""

    def on_checkpoint(self, checkpointed: Checkpointed) -> bool | None:
        """A checkpoint is complete, and ``model/`` holds its network."""


_HOOKS = ("on_step", "on_update", "on_episode", "on_evaluation", "on_checkpoint")


class Hooks:
    """The hooks that several callbacks override, called by their names; ``stop`` is whether one of them asked to."""

    def __init__(self, callbacks: Sequence[Callback] = ()) -> None:
        for callback in callbacks:
            if not isinstance(callback, Callback):
                raise ConfigError(f"callbacks must be instances of torso.agents.Callback, got {callback!r}")
        self._hooks = {name: [getattr(each, name) for each in callbacks if _overrides(each, name)] for name in _HOOKS}
        self.stop = False

    def __call__(self, name: str, happened: Any) -> None:
        """Call the hooks of a name, each with what happened."""
        for hook in self._hooks[name]:
            if hook(happened):
                self.stop = True


def _overrides(callback: Callback, name: str) -> bool:
    hook: Callable[..., Any] = getattr(callback, name)
    return getattr(hook, "__func__", None) is not getattr(Callback, name)
