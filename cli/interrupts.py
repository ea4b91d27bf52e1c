"""Ctrl-C, SIGTERM, a closed terminal: an exception where nothing needs saving, else a request to stop."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Interrupted(KeyboardInterrupt):
    """A signal asked this process to end; ``exit_code`` is 128 and the signal's number, as shells have it."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


class StopRequest:
    """What the first signal asked for, and when: ``requested()`` is for a loop to look at after each step."""

    def __init__(self) -> None:
        self._number: int | None = None

    def requested(self) -> bool:
        """Whether a signal came."""
        return self._number is not None

    @property
    def exit_code(self) -> int:
        """The exit code of a run that stopped for it; 0 without one."""
        return 0 if self._number is None else 128 + self._number

    def raise_if_requested(self) -> None:
        """Raise Interrupted if a signal came: for what may not be interrupted in the middle, but may be afterwards."""
        if self._number is not None:
            raise Interrupted(self._number)

    def receive(self, number: int, frame: FrameType | None = None) -> None:
        """Take a signal: note the first, raise Interrupted at the second."""
        if self._number is not None:
            raise Interrupted(number)
        self._number = number
        # Not through sys.stderr, which may be in the middle of a write when a signal arrives.
        with suppress(OSError):  # a terminal that was closed
            os.write(2, b"\nstopping: saving first; press Ctrl-C again to stop at once\n")


@contextmanager
def interruptible() -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into Interrupted, so that ``finally`` and ``with`` blocks run."""

    def end(number: int, frame: FrameType | None) -> None:
        raise Interrupted(number)

    with _handling(end):
        yield


@contextmanager
def stoppable() -> Iterator[StopRequest]:
    """Turn the first Ctrl-C or SIGTERM into a request that the loop within honours; the second ends it at once."""
    request = StopRequest()
    with _handling(request.receive):
        yield request


@contextmanager
def _handling(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handle both signals for a while, unless they are ignored (as under nohup), or this is not the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    handled = [number for number in _SIGNALS if before[number] is not signal.SIG_IGN]
    for number in handled:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, before[number])
