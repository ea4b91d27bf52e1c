"""Run directories: paths a run accepts, settings a resume may change, and that no other file is touched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from torso import __version__
from torso.agents.runs.run_directory import RunDirectory
from torso.errors import RunError

SETTINGS = {"hidden": (64, 64), "learning_rate": 1e-3, "total_steps": 1000}


def prepare(path: Path, *, resume: bool = False, seed: int = 0, kind: Any = "train", **changes: Any) -> RunDirectory:
    return RunDirectory.prepare(
        path,
        kind=kind,
        settings={**SETTINGS, **changes},
        resolved={"device": "cpu"},
        seed=seed,
        resume=resume,
        extendable=("total_steps",),
        command=["torso", "train"],
    )


def content(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("exists", [False, True])
def test_a_run_begins_where_nothing_is(tmp_path: Path, exists: bool, resume: bool) -> None:
    path = tmp_path / "runs" / "new"
    if exists:
        path.mkdir(parents=True)
        (path / ".config.json.0a1b2c3d.tmp").write_text('{"torso')  # a beginning that was killed
    with prepare(path, resume=resume, seed=3):
        config = json.loads((path / "config.json").read_bytes())
    assert config["kind"] == "train"
    assert config["seed"] == 3
    assert config["settings"] == {"hidden": [64, 64], "learning_rate": 1e-3, "total_steps": 1000}
    assert config["resolved"] == {"device": "cpu"}
    assert config["versions"]["torso"] == __version__
    assert config["versions"].keys() >= {"python", "torch", "numpy", "gymnasium"}
    assert config["command"] == ["torso", "train"]


def test_a_resume_removes_what_killed_saves_left_and_nothing_else(tmp_path: Path) -> None:
    prepare(tmp_path).close()
    (tmp_path / "checkpoint").mkdir()
    left = [tmp_path / ".summary.json.0a1b2c3d.tmp", tmp_path / "checkpoint" / ".latest.json.306db345.tmp"]
    kept = [tmp_path / "notes.tmp", tmp_path / "checkpoint" / ".mine.tmp"]
    for path in (*left, *kept):
        path.write_text("half")
    prepare(tmp_path, resume=True).close()
    assert [path.exists() for path in (*left, *kept)] == [False, False, True, True]


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize(
    ("name", "text"), [("thesis.tex", "ten years"), ("config.json", '{"model_type": "bert"}'), ("config.json", "[]")]
)
def test_a_directory_that_is_not_a_run_is_left_alone(tmp_path: Path, name: str, text: str, resume: bool) -> None:
    (tmp_path / name).write_text(text)
    before = content(tmp_path)
    with pytest.raises(RunError, match=r"not a run"):
        prepare(tmp_path, resume=resume)
    assert content(tmp_path) == before


def test_a_file_is_not_a_run(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    for path in (tmp_path / "out", tmp_path / "out" / "run"):
        with pytest.raises(RunError, match="is a file"):
            prepare(path)


def test_a_run_is_not_overwritten(tmp_path: Path) -> None:
    prepare(tmp_path).close()
    before = content(tmp_path)
    with pytest.raises(RunError, match=r"resume=True .* another out="):
        prepare(tmp_path)
    assert content(tmp_path) == before


def test_a_resume_goes_on_with_what_auto_chose(tmp_path: Path) -> None:
    prepare(tmp_path).close()
    config = json.loads((tmp_path / "config.json").read_bytes())
    (tmp_path / "config.json").write_text(json.dumps({**config, "resolved": {"device": "cuda"}}))
    with prepare(tmp_path, resume=True) as run:
        assert run.resolved == {"device": "cuda"}


def test_a_resume_with_other_settings_names_them(tmp_path: Path) -> None:
    prepare(tmp_path).close()
    before = content(tmp_path)
    with pytest.raises(RunError, match=r"learning_rate was 0\.001, now 0\.01; seed was 0, now 1\.") as caught:
        prepare(tmp_path, resume=True, learning_rate=0.01, seed=1, total_steps=5)
    assert "total_steps" not in str(caught.value)
    with pytest.raises(RunError, match=r"gamma was not there, now 0\.9"):
        prepare(tmp_path, resume=True, gamma=0.9)
    with pytest.raises(RunError, match="holds a train run, this is fit"):
        prepare(tmp_path, resume=True, kind="fit")
    assert content(tmp_path) == before


def test_extended_settings_are_recorded(tmp_path: Path) -> None:
    prepare(tmp_path).close()
    with prepare(tmp_path, resume=True, total_steps=2000) as run:
        assert run.settings["total_steps"] == 2000
    assert RunDirectory.open(tmp_path).settings == {**RunDirectory.open(tmp_path).settings, "total_steps": 2000}
    assert RunDirectory.open(tmp_path).settings["hidden"] == [64, 64]


def test_a_run_in_use_is_refused_until_it_is_closed(tmp_path: Path) -> None:
    first = prepare(tmp_path)
    with pytest.raises(RunError, match="in use"):
        prepare(tmp_path, resume=True)
    first.close()
    first.close()
    prepare(tmp_path, resume=True).close()


@pytest.mark.parametrize("text", ["", "{", '{"torso_run": 1}', '{"torso_run": 1, "settings": [], "resolved": {}}'])
def test_a_damaged_config_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(RunError, match=r"config\.json is damaged"):
        RunDirectory.open(tmp_path)


def test_a_newer_run_says_so(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"torso_run": 99, "settings": {}, "resolved": {}}')
    with pytest.raises(RunError, match="update torso"):
        RunDirectory.open(tmp_path)


def test_an_absent_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="does not exist"):
        RunDirectory.open(tmp_path / "absent")


def test_summary_and_paths(tmp_path: Path) -> None:
    with prepare(tmp_path) as run:
        assert run.read_summary() is None
        run.write_summary({"test_accuracy": 0.99})
        assert RunDirectory.open(tmp_path).read_summary() == {"test_accuracy": 0.99}
        run.drop_summary()
        run.drop_summary()
        assert run.read_summary() is None
        assert [path.name for path in (run.model, run.best, run.checkpoint, run.learning_curve)] == [
            "model",
            "best",
            "checkpoint",
            "learning_curve.png",
        ]
