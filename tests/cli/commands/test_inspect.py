"""Tests of ``torso inspect``: plots, their paths, and one-line errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from torso.envs import load_dataset

Run = Callable[..., Any]

PICTURES = ["weights", "activations", "units_dense1", "units_output", "adversarial", "confusion", "reliability"]


def test_it_prints_where_the_pictures_are(run: Run, models: Any, tmp_path: Path) -> None:
    ended = run("inspect", models.digits, "--out", tmp_path / "pictures")
    assert (ended.code, ended.err) == (0, "")
    lines = [line.split() for line in ended.out.splitlines()]
    assert [name for name, _ in lines] == PICTURES
    for name, path in lines:
        assert path == str(tmp_path / "pictures" / f"{name}.png")
        assert Path(path).read_bytes().startswith(b"\x89PNG")


def test_one_json_object_has_paths_and_figures(run: Run, models: Any, tmp_path: Path) -> None:
    ended = run(
        "inspect", models.digits, "--out", tmp_path, "--json", "--epsilons", 0.05, 0.2, "--unit", "dense1:3", "output:9"
    )
    assert (ended.code, ended.err) == (0, "")
    found = json.loads(ended.out)
    assert set(found) == {"model", "out", "pictures", "figures"}
    assert list(found["pictures"]) == PICTURES
    assert found["figures"]["adversarial"]["epsilons"] == [0.0, 0.05, 0.2]
    assert [unit["unit"] for unit in found["figures"]["units_dense1"]["units"]] == ["dense1:3"]
    assert [unit["unit"] for unit in found["figures"]["units_output"]["units"]] == ["output:9"]


def test_the_input_is_a_row_an_array_or_an_image(run: Run, models: Any, tmp_path: Path) -> None:
    scan = load_dataset("digits").test.inputs[17]
    np.save(tmp_path / "scan.npy", scan)
    Image.fromarray(scan * 15).save(tmp_path / "scan.png")
    shown = {}
    for given in ("17", tmp_path / "scan.npy", tmp_path / "scan.png"):
        ended = run("inspect", models.digits, "--out", tmp_path / "out", "--json", "--input", given)
        assert ended.code == 0, ended.err
        shown[str(given)] = json.loads(ended.out)["figures"]["activations"]["input"]
    assert list(shown.values()) == ["test input 17", "an input", "an image"]


def test_a_policy_shows_its_weights_in_its_own_directory(run: Run, models: Any) -> None:
    ended = run("inspect", models.cartpole)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == f"weights  {models.cartpole / 'inspection' / 'weights.png'}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--unit", "dense1"], "unit must be LAYER:INDEX"),
        (["--unit", "dense1:32"], "unit must be one of dense1 (units 0 to 31), output (units 0 to 9), got dense1:32"),
        (["--epsilons", "1.5"], "epsilons must be shares of the input's range"),
        (["--input", "999"], "input must be a row of the test data, 0 to 352, got 999"),
        (["--input", "nothing.png"], "--input nothing.png cannot be read"),
        (["--dataset", "iris"], "the model knows the labels"),
        (["--dataset", "digitz"], "unknown data set 'digitz'"),
    ],
)
def test_mistakes_end_in_a_line(run: Run, models: Any, tmp_path: Path, arguments: list[str], message: str) -> None:
    assert message in run("inspect", models.digits, "--out", tmp_path / "out", *arguments).error


def test_a_policy_has_no_use_for_a_data_set(run: Run, models: Any) -> None:
    assert run("inspect", models.cartpole, "--dataset", "digits").error == (
        f"--dataset must be omitted: {models.cartpole} is a policy, to which it does not apply"
    )


def test_no_model(run: Run, tmp_path: Path) -> None:
    assert "no model" in run("inspect", tmp_path / "nothing").error


def test_pictures_that_cannot_be_written(run: Run, models: Any, read_only: Path) -> None:
    assert "cannot create the directory" in run("inspect", models.cartpole, "--out", read_only / "out").error
