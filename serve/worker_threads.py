"""Daemon threads for work that may never end: nobody joins them, at the end of the process neither."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import contextvars
import os
import sys
import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")

_at_work: set[int] = set()  # identifiers of threads


@contextlib.contextmanager
def at_work() -> Iterator[None]:
    """Count the current thread as one at work."""
    thread = threading.get_ident()
    _at_work.add(thread)
    try:
        yield
    finally:
        _at_work.discard(thread)


def exit_without(code: int) -> None:
    """Have the process end with ``code``, without the interpreter's last steps, if threads are still at work then.

    Those steps would destroy what such a thread uses, and the process would abort.
    """
    atexit.register(_end_if_at_work, code)


def _end_if_at_work(code: int) -> None:
    if _at_work:
        flush_output()
        os._exit(code)


def flush_output() -> None:
    """Write what was printed."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # closed, or a pipe that nobody reads
            stream.flush()


class DaemonPool:
    """Pool of daemon threads for an event loop's calls. They start when they are first needed.

    niceness: how far they stand back behind the event loop, and other processes (on Linux).

    The executors of `concurrent.futures` would not do: the interpreter joins their threads at its end, for ever where
    one hangs.
    """

    def __init__(self, name: str, size: int, *, niceness: int = 0) -> None:
        self._name = name
        self._size = size
        self._niceness = niceness
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._closed = False

    async def run(self, work: Callable[..., T], *arguments: Any) -> T:
        """Call ``work`` in a thread, in a copy of this context. What is cancelled before it begins is dropped."""
        return await self._submit(work, arguments)  # not kept in a variable: its exception would refer to this frame

    def _submit(self, work: Callable[..., T], arguments: tuple[Any, ...]) -> asyncio.Future[T]:
        if self._closed:
            raise RuntimeError(f"the threads {self._name} are closed")
        if len(self._threads) < self._size:
            name = f"{self._name}_{len(self._threads)}"
            self._threads.append(
                threading.Thread(target=_work_off, args=(self._jobs, self._niceness), name=name, daemon=True)
            )
            self._threads[-1].start()
        job = _Job(work, arguments)
        self._jobs.put(job)
        return job.result

    def close(self) -> None:
        """Take no more calls, and end the threads, each once its running call ends. Nothing is waited for."""
        self._closed = True
        for _ in self._threads:
            self._jobs.put(None)


def run_in_daemon(name: str, work: Callable[..., T], *arguments: Any) -> asyncio.Future[T]:
    """Call ``work`` in a daemon thread of its own; who awaits the future may leave it behind at any time."""
    job = _Job(work, arguments)
    threading.Thread(target=job.run, name=name, daemon=True).start()
    return job.result


class _Job:
    """Call of a function for the running event loop."""

    def __init__(self, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self._loop = asyncio.get_running_loop()
        self.result: asyncio.Future[Any] = self._loop.create_future()
        self._context = contextvars.copy_context()  # so that log records have the request's id, too
        self._work = work
        self._arguments = arguments

    def run(self) -> None:
        """Make the call and deliver its result or exception, unless nobody waits for it any more."""
        if self.result.cancelled():
            return
        with at_work():
            outcome, failure = self._context.run(_call, self._work, self._arguments)
        with contextlib.suppress(RuntimeError):  # the loop ended meanwhile
            self._loop.call_soon_threadsafe(_deliver, self.result, outcome, failure)
        del self, outcome, failure  # an exception's frames refer to this one: it would be kept, with all that it holds


def _call(work: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, BaseException | None]:
    """Return the call's result, or its exception."""
    try:
        return work(*arguments), None
    except BaseException as error:  # noqa: BLE001 - delivered to the caller
        return None, error


def _deliver(result: asyncio.Future[Any], outcome: Any, failure: BaseException | None) -> None:
    if result.cancelled():
        return
    if failure is None:
        result.set_result(outcome)
    else:
        result.set_exception(failure)


def _work_off(jobs: SimpleQueue[_Job | None], niceness: int) -> None:
    if niceness and sys.platform == "linux":  # where a thread has a priority of its own
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)
    while (job := jobs.get()) is not None:
        job.run()
        del job  # free its memory before waiting for the next
