"""Profile of a training: where its time goes, by parts of the driver."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")

PARTS = {
    "env": "steps and resets of the envs",
    "act": "action values of the network, and the choice of actions",
    "store": "keeping steps for learning",
    "sample": "gathering what is learnt from, and feeding priorities back",
    "learn": "targets, losses, gradients, optimizer, target network",
    "log": "lines of progress.jsonl",
    "evaluate": "evaluations of the network, and videos",
    "checkpoint": "checkpoints, and the envs that are built anew after them",
}
"""Parts by name, and what belongs to them; what is left is the driver's own loop, and callbacks."""


class Profile:
    """Seconds by part. Each call of a watched function counts for its part; calls within such calls do not.

    device: where the functions compute; a GPU is waited for after each call, so that its work counts where it was asked
    for.
    """

    def __init__(self, device: torch.device) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._device = device
        self._is_within = False
        self._began_s = time.perf_counter()
        self._ended_s: float | None = None

    def watch(self, part: str, function: Callable[P, R]) -> Callable[P, R]:
        """Return a function that does the same and counts its time."""

        @wraps(function)
        def watched(*args: P.args, **kwargs: P.kwargs) -> R:
            if self._is_within:
                return function(*args, **kwargs)
            self._is_within = True
            began_s = time.perf_counter()
            try:
                result = function(*args, **kwargs)
                if self._device.type == "cuda":
                    torch.cuda.synchronize(self._device)
                return result
            finally:
                self._is_within = False
                self.seconds[part] += time.perf_counter() - began_s

        return watched

    def watch_methods(self, owner: Any, parts: Mapping[str, str]) -> None:
        """Watch methods of an object in place; ``parts`` are the parts by the method's name."""
        for name, part in parts.items():
            setattr(owner, name, self.watch(part, getattr(owner, name)))

    def begin(self) -> None:
        """Begin to count anew."""
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._began_s, self._ended_s = time.perf_counter(), None

    def end(self) -> None:
        """Count no longer."""
        self._ended_s = time.perf_counter()

    def to_json(self, num_steps: int) -> dict[str, Any]:
        """Return the seconds from the beginning to the end, in all and by part, and the steps made in them."""
        total_s = (time.perf_counter() if self._ended_s is None else self._ended_s) - self._began_s
        by_part = {**self.seconds, "rest": max(0.0, total_s - sum(self.seconds.values()))}
        return {"seconds": total_s, "steps": num_steps, "seconds_by_part": by_part}


def profile_table(profile: Mapping[str, Any]) -> str:
    """Format what `Profile.to_json` returned as lines of text."""
    total_s, steps = profile["seconds"], profile["steps"]
    lines = [f"{total_s:,.1f} s for {steps:,} steps: {steps / max(total_s, 1e-9):,.0f} steps/s"]
    for part, seconds in profile["seconds_by_part"].items():
        text = PARTS.get(part, "the driver's loop, callbacks and the display")
        lines.append(f"  {part:10} {seconds:9.2f} s  {seconds / max(total_s, 1e-9):4.0%}  {text}")
    return "\n".join(lines)
