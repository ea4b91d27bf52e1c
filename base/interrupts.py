"""Signal handling: Ctrl-C, SIGTERM and SIGHUP end a process, raise an exception, or request a stop to save first."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Interrupted(KeyboardInterrupt):
    """Signal that ends this process; ``exit_code`` is 128 plus the signal's number, as in shells."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


class StopRequest:
    """Stop request set by the first signal; a loop checks ``requested()`` after each step."""

    def __init__(self, *, saves_from_start: bool = True) -> None:
        self._number: int | None = None
        self._can_save = saves_from_start

    def requested(self) -> bool:
        """Return whether a signal was received."""
        self._can_save = True
        return self._number is not None

    @property
    def exit_code(self) -> int:
        """Exit code of a run that stopped on request; 0 without a request."""
        return 0 if self._number is None else 128 + self._number

    def raise_if_requested(self) -> None:
        """Raise Interrupted if a signal was received; called after a section that must not be interrupted."""
        if self._number is not None:
            raise Interrupted(self._number)

    def handle(self, number: int, frame: FrameType | None = None) -> None:
        """Handle a signal: record the first, raise Interrupted at the second, or where there is nothing to save yet."""
        if self._number is not None or not (self._can_save or _is_importing(frame)):
            raise Interrupted(number)
        self._number = number
        # Not through sys.stderr, which may be in the middle of a write when a signal arrives.
        with suppress(OSError):  # a terminal that was closed
            os.write(2, b"\nstopping: saving first; press Ctrl-C again to stop at once\n")


def exit_on_signals() -> None:
    """End this process quietly on Ctrl-C, SIGTERM and SIGHUP from now on, while it has nothing to clean up."""
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _exit)


@contextmanager
def interruptible(*, exits_while_importing: bool = False) -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into Interrupted, so that ``finally`` and ``with`` blocks run.

    exits_while_importing: end the process where a signal comes during an import. An exception raised in the middle of
    one may be lost in a callback or leave a half-initialised module.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        if exits_while_importing and _is_importing(frame):
            _exit(number)
        raise Interrupted(number)

    with _signal_handlers(interrupt):
        yield


@contextmanager
def stoppable(numbers: Collection[int] = _SIGNALS, *, saves_from_start: bool = True) -> Iterator[StopRequest]:
    """Turn the first Ctrl-C, SIGTERM or SIGHUP into a stop request that the loop checks; the second raises Interrupted.

    numbers: the signals, if not these. saves_from_start: whether there is something to save before the loop's first
    check; if not, the first signal raises Interrupted until then.
    """
    request = StopRequest(saves_from_start=saves_from_start)
    with _signal_handlers(request.handle, numbers):
        yield request


def _exit(number: int, frame: FrameType | None = None) -> None:
    """End the process as an interrupted command ends, without running anything more of it."""
    with suppress(OSError):  # a terminal that was closed
        os.write(2, b"interrupted\n")
    os._exit(128 + number)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


@contextmanager
def _signal_handlers(
    handler: Callable[[int, FrameType | None], None], numbers: Collection[int] = _SIGNALS
) -> Iterator[None]:
    """Install a signal handler for a block, except for ignored signals (nohup) and outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in numbers}
    handled = [number for number in numbers if before[number] is not signal.SIG_IGN]
    for number in handled:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, before[number])
