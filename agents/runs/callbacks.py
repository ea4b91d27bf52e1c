"""Callbacks: user-defined hooks on the events of a training run.

A callback overrides some hooks, and stops the run by returning True from any of them::

    class EnoughEpisodes(Callback):
        def __init__(self, num_episodes: int) -> None:
            self.remaining = num_episodes

        def on_episode(self, episode: Episode) -> bool:
            self.remaining -= 1
            return self.remaining <= 0

    DQN("CartPole-v1").learn(50_000, callbacks=[EnoughEpisodes(300)])

A run that a callback stops is saved as after Ctrl-C: it writes a checkpoint and can be resumed. An exception in a hook
ends the run at once, and is raised; a run directory then holds its latest checkpoint.

Hooks are called synchronously, and the run's bits do not depend on them as long as they only read. A callback's own
state is in no checkpoint: a run that is resumed calls it from its checkpoint's step on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torso.agents.protocols import Episode
from torso.agents.runs.events import Checkpointed, Evaluated, Tick
from torso.errors import ConfigError


class Callback:
    """Base class of callbacks: hooks that do nothing. A hook that returns True stops the run after this tick."""

    def on_step(self, tick: Tick) -> bool | None:
        """Called after every env was stepped once."""

    def on_update(self, tick: Tick) -> bool | None:
        """Called after a tick with gradient steps; ``tick.metrics`` are tensors on the training device."""

    def on_episode(self, episode: Episode) -> bool | None:
        """Called when a training episode ended."""

    def on_evaluation(self, evaluated: Evaluated) -> bool | None:
        """Called after an evaluation; where its network is the best so far, it is already saved in ``best/``."""

    def on_checkpoint(self, checkpointed: Checkpointed) -> bool | None:
        """Called when a checkpoint is complete; ``model/`` holds its network."""


_HOOKS = ("on_step", "on_update", "on_episode", "on_evaluation", "on_checkpoint")


class Hooks:
    """Dispatcher of hooks to callbacks, by hook name; ``stop`` is set once a hook returns True."""

    def __init__(self, callbacks: Sequence[Callback] = ()) -> None:
        for callback in callbacks:
            if not isinstance(callback, Callback):
                raise ConfigError(f"callbacks must be instances of torso.agents.Callback, got {callback!r}")
        self._hooks = {name: [getattr(each, name) for each in callbacks if _overrides(each, name)] for name in _HOOKS}
        self.stop = False

    def __call__(self, name: str, event: Any) -> None:
        """Call the hooks of a name, each with the event."""
        for hook in self._hooks[name]:
            if hook(event):
                self.stop = True


def _overrides(callback: Callback, name: str) -> bool:
    hook: Callable[..., Any] = getattr(callback, name)
    return getattr(hook, "__func__", None) is not getattr(Callback, name)
