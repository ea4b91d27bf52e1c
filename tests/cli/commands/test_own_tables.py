"""Tables of one's own: columns by name, copies, hold-out files, figures that are undefined."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pytest
import torch

from torso.agents import Classifier, Regressor
from torso.errors import InputError
from torso.nets import Predictor, read_card

Run = Callable[..., Any]
QUICK = ("--hidden", 16, "--max-epochs", 30, "--learning-rate", 0.02)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)


def plants(num: int, seed: int) -> pd.DataFrame:
    """The class is the sign of the second column, whose place among the columns matters; the first is noise."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"noise": rng.normal(size=num), "signal": rng.normal(size=num), "other": rng.normal(size=num)})
    frame["kind"] = np.where(frame["signal"] > 0, "tall", "small")
    return frame


def ended_well(run: Run, *arguments: object) -> Any:
    ended = run(*arguments)
    assert ended.code == 0, ended
    return ended


def test_columns_are_known_by_name(run: Run) -> None:
    plants(200, 0).to_csv("plants.csv", index=False)
    ended = ended_well(run, "fit", "--dataset", "plants.csv", "--label-column", "kind", *QUICK, "--out", "fit")
    assert "plants.csv: 200 rows, 3 feature columns, 'kind' as label, of 2 classes\n" in ended.err
    assert "the first line holds column names\n" in ended.err
    card = read_card("fit/best")
    assert card.feature_names == ("noise", "signal", "other")
    assert card.provenance["label_columns"] == ["kind"]

    fresh = plants(100, 1)
    fresh.assign(comment="text", number=range(100))[["number", "kind", "other", "comment", "signal", "noise"]].to_csv(
        "fresh.csv", index=False
    )
    found = json.loads(ended_well(run, "evaluate", "fit", "--dataset", "fresh.csv", "--json").out)
    assert found["num_test"] == 100  # all of them
    assert found["test_accuracy"] >= 0.9
    classified = json.loads(ended_well(run, "classify", "fresh.csv", "--model", "fit", "--json").out)["rows"]
    labels = [row["top"][0]["label"] for row in classified]
    assert np.mean(np.array(labels) == fresh["kind"]) == pytest.approx(found["test_accuracy"])

    predictor = Predictor.load("fit")
    in_order = predictor.classify(fresh[["noise", "signal", "other"]]).labels
    assert predictor.classify(fresh[["other", "kind", "signal", "noise"]]).labels == in_order
    loaded = Classifier.load("fit")
    assert loaded.feature_names_in_.tolist() == ["noise", "signal", "other"]
    assert loaded.predict(fresh[["other", "signal", "noise"]]).tolist() == [row[0] for row in in_order]
    with pytest.raises(InputError, match="a frame with the columns 'signal', got the columns"):
        loaded.predict(fresh[["other", "noise"]])

    fresh.drop(columns="signal").to_csv("less.csv", index=False)
    for command in (("evaluate", "fit", "--dataset", "less.csv"), ("classify", "less.csv", "--model", "fit")):
        refused = run(*command)
        assert refused.code == 2
        assert "less.csv must have the columns 'signal', got" in refused.err


def test_a_file_that_is_not_the_training_one_is_scored_whole(run: Run) -> None:
    data = plants(200, 0)
    data.to_csv("plants.csv", index=False)
    ended_well(run, "fit", "--dataset", "plants.csv", *QUICK, "--out", "fit")

    def scored(frame: pd.DataFrame | None, name: str) -> tuple[dict[str, Any], str]:
        if frame is not None:
            frame.to_csv(name, index=False)
        figures = json.loads(ended_well(run, "evaluate", "fit", "--dataset", name, "--json").out)
        return figures, ended_well(run, "evaluate", "fit", "--dataset", name).out

    own = scored(None, "plants.csv")[0]
    assert own["num_test"] == json.loads(ended_well(run, "evaluate", "fit", "--json").out)["num_test"] < 50
    moved = scored(data, "copy.csv")[0]
    assert (moved["test_errors"], moved["num_test"]) == (own["test_errors"], own["num_test"])
    fresh = plants(60, 1)
    assert scored(fresh, "fresh.csv")[0]["num_test"] == 60
    one_class = fresh[fresh["kind"] == "tall"]
    figures, text = scored(one_class, "one_class.csv")
    assert figures["num_test"] == len(one_class)
    assert "test accuracy" in text
    assert scored(fresh[:1], "one_row.csv")[0]["num_test"] == 1

    strange = fresh.copy()
    strange.loc[:9, "kind"] = "strange"
    figures, text = scored(strange, "strange.csv")
    assert (figures["num_test"], figures["num_unknown_labels"]) == (60, 10)
    assert figures["test_errors"] >= 10
    assert "10 of them have labels that the model does not know, 'strange': errors" in text
    figures, text = scored(strange[:5], "unknown.csv")
    assert (figures["test_accuracy"], figures["test_metrics"], figures["test_loss"]) == (0.0, None, None)


def test_undefined_figures_are_said(run: Run) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.normal(size=6), "y": [1.5, 2.5, 3.5, 1.25, 9.5, 7.5]})
    frame[:3].to_csv("three.csv", index=False)
    small = ("--hidden", 4, "--max-epochs", 2)
    for again in ((), ("--resume",)):
        ended = ended_well(run, "fit", "--dataset", "three.csv", *small, "--out", "fit", *again)
        assert "test R² undefined, root mean squared error" in ended.out
    assert json.loads(Path("fit/summary.json").read_text())["test_r2"] is None
    assert "test R² undefined" in ended_well(run, "evaluate", "fit").out
    assert json.loads(ended_well(run, "evaluate", "fit", "--json").out)["test_r2"] is None
    frame.assign(y=2.0).to_csv("constant.csv", index=False)
    assert "test R² undefined" in ended_well(run, "evaluate", "fit", "--dataset", "constant.csv").out

    copies = pd.DataFrame({"x": [1.0, 2.0] * 10, "kind": ["a", "b"] * 10})  # no row is left to test with
    copies.to_csv("copies.csv", index=False)
    fit = ("fit", "--dataset", "copies.csv", *small, "--out", "copies")
    ended = ended_well(run, *fit)
    assert "18 of 20 rows repeat the inputs of another; copies stay on one side of the split" in ended.err
    for out in (ended.out, ended_well(run, *fit, "--resume").out):
        assert "test accuracy undefined (no errors in 0)" in out
    assert json.loads(Path("copies/summary.json").read_text())["num_repeated_rows"] == 18


def test_frames_of_a_regressor(tmp_path: Path) -> None:
    frame = plants(60, 0)
    targets = pd.DataFrame({"height": 3 * frame["signal"], "width": frame["other"]})
    inputs = frame[["noise", "signal", "other"]]
    regressor = Regressor(hidden=(8,), max_epochs=2, random_state=0).fit(inputs, targets)
    regressor.save(tmp_path / "model")
    card = read_card(tmp_path / "model")
    assert (card.feature_names, card.labels) == (("noise", "signal", "other"), ("height", "width"))
    loaded = Regressor.load(tmp_path / "model")
    assert np.array_equal(loaded.predict(inputs[["other", "noise", "signal"]]), regressor.predict(inputs))
    assert np.array_equal(loaded.predict(inputs.to_numpy()), regressor.predict(inputs))


def test_class_weights_are_kept(tmp_path: Path) -> None:
    frame = plants(60, 0)
    weights = {"tall": 2.0, "small": 0.5}
    classifier = Classifier(hidden=(8,), max_epochs=2, random_state=0, class_weight=weights)
    classifier.fit(frame[["noise", "signal"]], frame["kind"]).save(tmp_path / "model")
    assert read_card(tmp_path / "model").provenance["config"]["class_weight"] == weights
    assert read_card(tmp_path / "model").provenance["label_columns"] == ["kind"]
    assert Classifier.load(tmp_path / "model").class_weight == weights
    numbers = Classifier(hidden=(8,), max_epochs=2, random_state=0, class_weight={0: 2.0})
    numbers.fit(frame[["noise"]], (frame["signal"] > 0).astype(int)).save(tmp_path / "numbers")
    assert Classifier.load(tmp_path / "numbers").class_weight == {0: 2.0}
