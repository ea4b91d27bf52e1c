"""For all tests: oracles importable by name, Hypothesis that measures no time, and a disk that can be full."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from hypothesis import settings

sys.path.append(str(Path(__file__).parent / "oracles"))
settings.register_profile("torso", deadline=None)
settings.load_profile("torso")


@pytest.fixture
def largest_file() -> Callable[[int], AbstractContextManager[None]]:
    """A real limit of the operating system on the size of files: writes beyond it fail like those on a full disk."""

    @contextmanager
    def limited(size: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited
