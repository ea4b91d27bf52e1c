from __future__ import annotations

import sys
from pathlib import Path

import pytest

from torso.envs.datasets.data_files import data_home


def test_torso_data_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("TORSO_DATA", str(tmp_path))
    assert data_home() == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TORSO_DATA", "~/data")
    assert data_home() == tmp_path / "data"


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="XDG's folders")
def test_else_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("TORSO_DATA", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert data_home() == tmp_path / ".cache" / "torso"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert data_home() == tmp_path / "xdg" / "torso"
