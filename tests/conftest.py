"""Fixtures and settings for all tests: import paths of oracles, Hypothesis, a cache folder, registries, a full disk."""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from hypothesis import settings

from torso.agents.value_based import algorithms
from torso.nets.specs.registry import HEADS, TORSOS

if "PYTEST_XDIST_WORKER" in os.environ:  # one of several processes: a thread each, before torch is imported
    os.environ["OMP_NUM_THREADS"] = "1"

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    # A shell ignores Ctrl-C in background jobs, and processes that the tests start would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)

for folder in ("", "oracles", "golden"):
    sys.path.append(str(Path(__file__).parent / folder))
settings.register_profile("torso", deadline=None)
settings.load_profile("torso")


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Set a user's cache folder for the tests, and for the processes that they start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def registries() -> Iterator[None]:
    """Restore the registries of torsos, heads and algorithms after a test."""
    saved = dict(TORSOS._by_name), dict(HEADS._by_name), dict(algorithms._ROWS)
    yield
    TORSOS._by_name, HEADS._by_name, algorithms._ROWS = saved


@pytest.fixture
def largest_file() -> Callable[[int], AbstractContextManager[None]]:
    """Limit the size of files by the operating system: writes beyond it fail like those on a full disk."""

    @contextmanager
    def limited(size: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited
