"""torso fit and torso evaluate on every kind of data: output, records, resume and errors."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from torso.agents import Classifier, Regressor
from torso.agents.runs.run_directory import RunDirectory
from torso.nets import Predictor, load, read_card, save_model

Run = Callable[..., Any]

EIGHT = {
    "accuracy",
    "f_score",
    "lift",
    "roc_area",
    "average_precision",
    "break_even_point",
    "squared_error",
    "cross_entropy",
}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)


def fitted(run: Run, *arguments: object) -> dict[str, Any]:
    """Fit, check that nothing unexpected is printed, and return the summary."""
    ended = run("fit", *arguments, "--json")
    assert ended.code == 0, ended
    assert len(ended.err.splitlines()) <= 1, ended.err  # the preface
    summary: dict[str, Any] = json.loads(ended.out)
    return summary


def evaluated(run: Run, *arguments: object) -> dict[str, Any]:
    ended = run("evaluate", *arguments, "--json")
    assert (ended.code, ended.err) == (0, "")
    figures: dict[str, Any] = json.loads(ended.out)
    return figures


# -- own data ----------------------------------------------------------------------------------------------------------


def write_csv(path: Path) -> Path:
    """Write two features that separate three classes, and two regression targets that depend on them."""
    rng = np.random.default_rng(0)
    lines = ["width,height,kind,price,weight"]
    for index in range(90):
        width, height = rng.normal(4 * (index % 3), 1), rng.normal(0, 2)
        lines.append(f"{width:.4f},{height:.4f},{'abc'[index % 3]},{3 * width - height:.4f},{100 + height:.4f}")
    path.write_text("\n".join(lines) + "\n")
    return path


def columns(path: Path, *names: str) -> Path:
    """Keep only these columns of the file."""
    header, *rows = [line.split(",") for line in path.read_text().splitlines()]
    kept = [header.index(name) for name in names]
    path.write_text("".join(",".join(row[index] for index in kept) + "\n" for row in (header, *rows)))
    return path


def write_npz(path: Path) -> Path:
    rng = np.random.default_rng(0)
    labels = np.arange(80) % 2
    np.savez(path, X=rng.normal(size=(80, 3)) + 3 * labels[:, np.newaxis], y=labels)
    return path


def write_images(path: Path) -> Path:
    """Write one folder of images for each class: bright above, bright below."""
    rng = np.random.default_rng(0)
    for name, rows in (("above", slice(0, 4)), ("below", slice(4, 8))):
        (path / name).mkdir(parents=True)
        for index in range(20):
            image = rng.integers(0, 60, size=(8, 8)).astype(np.uint8)
            image[rows] += 150
            Image.fromarray(image).save(path / name / f"{index}.png")
    return path


def test_a_table_of_ones_own(run: Run, tmp_path: Path) -> None:
    csv = columns(write_csv(tmp_path / "own.csv"), "width", "kind", "height")
    summary = fitted(run, "--dataset", csv, "--label-column", "kind", "--learning-rate", 0.02)
    assert summary["test_accuracy"] >= 0.8
    assert summary["run"] == "runs/own-mlp-0"
    card = read_card(Path(summary["model"]))
    assert card.labels == ("a", "b", "c")
    assert card.network.input.mean is not None  # standardisation is part of the model
    assert evaluated(run, summary["run"])["test_accuracy"] == summary["test_accuracy"]
    assert evaluated(run, summary["run"], "--dataset", csv)["test_accuracy"] == summary["test_accuracy"]
    assert fitted(run, "--out", summary["run"], "--resume")["test_loss"] == summary["test_loss"]


def test_the_usual_names_of_label_columns_need_no_option(run: Run, tmp_path: Path) -> None:
    csv = columns(write_csv(tmp_path / "own.csv"), "kind", "width")
    csv.write_text(csv.read_text().replace("kind", "species", 1))
    summary = fitted(run, "--dataset", csv, "--net", "softmax", "--max-epochs", 2)
    assert (summary["num_test"], summary["run"]) == (18, "runs/own-softmax-0")
    assert read_card(Path(summary["model"])).labels == ("a", "b", "c")


def test_numbers_of_ones_own(run: Run, tmp_path: Path) -> None:
    csv = columns(write_csv(tmp_path / "own.csv"), "width", "height", "price", "weight")
    summary = fitted(run, "--dataset", csv, "--label-column", "price,weight", "--net", "linear", "--max-epochs", 60)
    assert summary["test_r2"] >= 0.95
    assert read_card(Path(summary["model"])).labels == ("price", "weight")
    assert Regressor.load(summary["run"]).predict(np.zeros((4, 2))).shape == (4, 2)
    figures = evaluated(run, summary["run"])
    assert [target["label"] for target in figures["test_metrics"]["targets"]] == ["price", "weight"]
    assert figures["test_r2"] == summary["test_r2"]
    other = tmp_path / "other.csv"
    other.write_text(csv.read_text())
    assert evaluated(run, summary["run"], "--dataset", other)["test_r2"] == summary["test_r2"]  # the same columns
    assert fitted(run, "--out", summary["run"], "--resume")["test_r2"] == summary["test_r2"]

    whole = tmp_path / "whole.csv"
    whole.write_text("width,price\n" + "".join(f"{index / 7:.3f},{index % 5}\n" for index in range(60)))
    asked = fitted(run, "--dataset", whole, "--task", "regression", "--max-epochs", 1, "--out", "asked")
    assert "test_rmse" in asked  # whole numbers look like labels
    assert "test_accuracy" in fitted(run, "--dataset", whole, "--max-epochs", 1, "--out", "unasked")
    assert fitted(run, "--out", "asked", "--resume")["test_rmse"] == asked["test_rmse"]


def test_arrays_and_images_of_ones_own(run: Run, tmp_path: Path) -> None:
    npz = write_npz(tmp_path / "arrays.npz")
    assert fitted(run, "--dataset", npz, "--net", "logistic")["test_accuracy"] >= 0.9
    folder = write_images(tmp_path / "photos")
    summary = fitted(run, "--dataset", folder, "--net", "cnn", "--hidden", 8, "--max-epochs", 6)
    assert summary["test_accuracy"] >= 0.8
    assert read_card(Path(summary["model"])).labels == ("above", "below")
    predictor = Predictor.load(summary["run"])
    pictures = [(folder / name / "3.png").read_bytes() for name in ("above", "below")]
    assert predictor.classify(predictor.prepare_images(pictures)).labels == [["above"], ["below"]]
    assert evaluated(run, summary["run"])["num_test"] == 8


def test_held_out_images_are_read_as_the_model_takes_them(run: Run, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "photos")
    model = fitted(run, "--dataset", folder, "--net", "cnn", "--hidden", 8, "--max-epochs", 6)["run"]
    expected = evaluated(run, model)

    def changed(name: str, change: Callable[[Image.Image], Image.Image]) -> Path:
        for path in sorted(folder.rglob("*.png")):
            target = tmp_path / name / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            change(Image.open(path)).save(target)
        return tmp_path / name

    coloured = changed("coloured", lambda image: image.convert("RGB"))
    Image.open(folder / "above" / "19.png").convert("RGBA").save(coloured / "above" / "19.png")
    tinted = Image.new("RGB", (8, 8), (90, 10, 10))
    tinted.save(coloured / "below" / "0.png")  # not of the test part, but it makes the folder one of colours
    for held_out in (coloured, changed("larger", lambda image: image.resize((32, 32), Image.Resampling.NEAREST))):
        shutil.copytree(held_out, tmp_path / "parts" / held_out.name / "test")
        for whole in (held_out, tmp_path / "parts" / held_out.name):
            assert evaluated(run, model, "--dataset", whole)["num_test"] == 40
    held_out = tmp_path / "its-test-part"
    for name in ("below", "above"):
        for path in sorted((folder / name).iterdir())[16:]:  # of a class of 20: those that the fit sets aside
            (held_out / "test" / name).mkdir(parents=True, exist_ok=True)
            Image.open(path).convert("RGB").save(held_out / "test" / name / path.name)
    figures = evaluated(run, model, "--dataset", held_out)
    assert figures["num_test"] == expected["num_test"]
    ended = run("inspect", model, "--dataset", coloured, "--out", tmp_path / "drawn")
    assert ended.code == 0, ended

    shutil.copytree(coloured / "below", tmp_path / "held" / "test" / "below")
    shutil.copytree(coloured / "above", tmp_path / "held" / "test" / "fox")
    ended = run("evaluate", model, "--dataset", tmp_path / "held", "--json")
    assert ended.code == 0, ended
    figures = json.loads(ended.out)
    assert (figures["num_test"], figures["num_unknown_labels"]) == (40, 20)
    assert "no images of the classes 'above'" in ended.err
    (tmp_path / "held" / "test" / "below" / "0.png").write_bytes(b"none")
    ended = run("evaluate", model, "--dataset", tmp_path / "held", "--json")
    assert ended.code == 2
    assert "0.png must be a PNG or JPEG" in ended.err


# -- data that comes along ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dataset", "net", "accuracy"),
    [
        ("iris", "softmax", 0.85),
        ("wine", "logistic", 0.9),
        ("circles", "mlp", 0.8),
        ("xor", "mlp", 0.8),
    ],
)
def test_tables_and_toys(run: Run, dataset: str, net: str, accuracy: float) -> None:
    summary = fitted(run, "--dataset", dataset, "--net", net, "--max-epochs", 25)
    assert (summary["dataset"], summary["run"]) == (dataset, f"runs/{dataset}-{net}-0")
    assert summary["test_accuracy"] >= accuracy


def test_a_line_tells_no_xor(run: Run) -> None:
    assert fitted(run, "--dataset", "xor", "--net", "logistic")["test_accuracy"] <= 0.75


def test_zeros_against_ones(run: Run) -> None:
    ended = run("fit", "--dataset", "digits", "--classes", "0,1", "--net", "mlp", "--hidden", 20, "--max-epochs", 4)
    assert ended.code == 0
    assert "254 examples and 36 for validation" in ended.err
    lines = ended.out.splitlines()
    assert lines[0].startswith("digits: test accuracy ")
    assert lines[1].endswith("; 1,321 parameters")
    card = read_card(Path("runs/digits-0-1-mlp-0/best"))
    assert card.labels == (0, 1)
    assert card.provenance["source"] == {"name": "digits", "classes": ["0", "1"]}
    assert type(card.network.head).__name__ == "SigmoidHeadSpec"
    assert evaluated(run, "runs/digits-0-1-mlp-0")["num_test"] == 70
    assert fitted(run, "--out", "runs/digits-0-1-mlp-0", "--resume")["num_parameters"] == 1321
    swapped = fitted(run, "--classes", "7,3", "--net", "logistic", "--max-epochs", 1)
    assert swapped["run"] == "runs/digits-7-3-logistic-0"
    assert read_card(Path(swapped["model"])).labels == (7, 3)


def test_a_regressor_from_fit_to_evaluate(run: Run) -> None:
    ended = run("fit", "--dataset", "diabetes", "--net", "linear", "--max-epochs", 40)
    assert ended.code == 0
    lines = ended.out.splitlines()
    summary = RunDirectory.open(Path("runs/diabetes-linear-0")).read_summary()
    assert summary is not None
    assert summary["test_r2"] >= 0.3
    expected = (
        f"diabetes: test R² {summary['test_r2']:.4f}, root mean squared error {summary['test_rmse']:,.4g} (88 examples)"
    )
    assert lines[0] == expected
    assert f"validation R² {summary['validation_r2']:.4f}; 11 parameters" in lines[1]
    ended = run("evaluate", "runs/diabetes-linear-0")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines()[0] == expected
    assert "progression" in ended.out
    figures = evaluated(run, "runs/diabetes-linear-0")["test_metrics"]
    assert figures["targets"][0].keys() == {"label", "rmse", "mae", "r2"}


def test_evaluate_tells_the_eight_metrics(run: Run) -> None:
    summary = fitted(run, "--net", "softmax", "--max-epochs", 2)
    ended = run("evaluate", summary["run"])
    assert (ended.code, ended.err) == (0, "")
    figures = evaluated(run, summary["run"])
    metrics = figures["test_metrics"]
    assert metrics["eight"].keys() == EIGHT
    assert all(figure >= 0 for figure in metrics["eight"].values())
    for label in ("accuracy", "F-score", "lift", "ROC area", "average precision", "break-even", "squared", "cross-ent"):
        assert label in ended.out
    assert metrics == RunDirectory.open(Path(summary["run"])).read_summary()["test_metrics"]  # type: ignore[index]
    assert metrics["accuracy"] == figures["test_accuracy"] == summary["test_accuracy"]
    assert np.array(metrics["confusion"]).sum() == 353
    assert np.trace(metrics["confusion"]) == 353 - figures["test_errors"]
    assert [each["label"] for each in metrics["classes"]] == list(range(10))


def test_a_perceptron_has_no_probabilities_to_score(run: Run) -> None:
    summary = fitted(run, "--dataset", "iris", "--classes", "setosa,virginica", "--net", "perceptron")
    assert "test_loss" not in summary
    figures = evaluated(run, summary["run"])
    assert figures["test_accuracy"] == 1
    assert figures["test_metrics"]["accuracy"] == 1
    eight = figures["test_metrics"]["eight"]
    assert {name for name, figure in eight.items() if figure is not None} == {"accuracy", "f_score"}
    assert not hasattr(Classifier.load(summary["run"]), "predict_proba")


def test_a_calibrated_fit(run: Run) -> None:
    summary = fitted(run, "--dataset", "breast-cancer", "--net", "logistic", "--calibration", "temperature")
    assert read_card(Path(summary["model"])).calibration is not None
    assert evaluated(run, summary["run"])["test_loss"] == summary["test_loss"]
    picture = Path(summary["run"]) / "reliability.png"
    assert picture.read_bytes().startswith(b"\x89PNG")


# -- settings ----------------------------------------------------------------------------------------------------------


def test_settings_reach_the_fit(run: Run) -> None:
    settings = (
        "--net", "mlp", "--hidden", 12, 7, "--activation", "tanh", "--batch-norm", "True", "--init", "orthogonal",
        "--optimizer", "nesterov", "--momentum", 0.8, "--schedule", "step", "--batch-size", "full", "--l1", 1e-4,
        "--l2", 1e-3, "--label-smoothing", 0.1, "--class-weight", "balanced", "--loss", "one-vs-rest",
        "--max-grad-norm", 1, "--precision", "float32", "--max-epochs", 3, "--patience", "None",
    )  # fmt: skip
    summary = fitted(run, "--dataset", "iris", *settings)
    run_directory = RunDirectory.open(Path(summary["run"]))
    recorded = {
        "hidden": [12, 7], "activation": "tanh", "batch_norm": True, "init": "orthogonal", "optimizer": "nesterov",
        "momentum": 0.8, "schedule": "step", "batch_size": "full", "l1": 1e-4, "l2": 1e-3, "label_smoothing": 0.1,
        "class_weight": "balanced", "loss": "one-vs-rest", "max_grad_norm": 1.0, "patience": None, "max_epochs": 3,
    }  # fmt: skip
    assert recorded.items() <= run_directory.settings.items()
    recipe = run_directory.resolved["recipe"]
    assert (recipe["learning_rate"], recipe["weight_decay"]) == (0.02, 0.0)  # nesterov's own, not adamw's
    torso = read_card(Path(summary["model"])).network.torso
    assert (torso.hidden, torso.activation, torso.batch_norm) == ((12, 7), "tanh", True)  # type: ignore[attr-defined]
    assert fitted(run, "--out", summary["run"], "--resume")["test_loss"] == summary["test_loss"]
    changed = run("fit", "--out", summary["run"], "--resume", "--momentum", 0.7).error
    assert changed.startswith(f"{summary['run']} was begun with other settings: momentum was 0.8, now 0.7")
    changed = run("fit", "--out", summary["run"], "--resume", "--dataset", "wine").error
    assert "dataset was iris, now wine" in changed or 'dataset was "iris", now "wine"' in changed


def test_images_are_moved_turned_scaled_and_bent(run: Run) -> None:
    moves = ("--max-shift-px", 1, "--max-rotation-deg", 10, "--max-scale", 0.1, "--elastic-px", 0.5)
    summary = fitted(run, "--net", "cnn", "--hidden", 8, "--max-epochs", 1, "--classes", "0,1", *moves)
    assert summary["epochs"] == 1
    assert run("fit", "--net", "mlp", *moves).error.startswith(
        "shifts, rotations, scaling and elastic bends are for im"
    )


def test_a_torso_from_another_model(run: Run, models: Any) -> None:
    shutil.copytree(models.digits, "taken")
    ended = run("fit", "--classes", "7,3", "--init-torso", "taken", "--freeze-torso", "--max-epochs", 1)
    assert ended.code == 0, ended
    assert ended.err.startswith("the frozen torso of taken on digits, ")
    out = Path("runs/digits-7-3-from-taken-0")
    own, taken = (load(path).torso.state_dict() for path in (out, "taken"))
    assert all(torch.equal(own[name], tensor) for name, tensor in taken.items())
    settings = RunDirectory.open(out).settings
    assert (settings["init_torso"], settings["freeze_torso"], settings["learning_rate"]) == ("taken", True, 2e-3)
    again = fitted(run, "--out", out, "--resume")
    assert (again["init_torso"], again["net"], again["epochs"]) == ("taken", None, 1)
    network = load("taken")
    with torch.no_grad():
        next(network.torso.parameters()).add_(1)
    save_model("taken", network, kind="classifier", onnx=False)
    refused = run("fit", "--out", out, "--resume").error
    assert refused.startswith(f"{out} was begun with other settings: init_torso_sha256 was ")


@pytest.mark.parametrize("dataset", ["digits", "diabetes"])
def test_finding_a_learning_rate(run: Run, dataset: str) -> None:
    ask = ("fit", "--dataset", dataset, "--find-learning-rate", "--hidden", 16)
    ended = run(*ask)
    assert (ended.code, ended.err) == (0, "")
    rate, picture = ended.out.splitlines()
    assert rate.startswith("learning rate: ")
    assert rate.endswith(" (of adamw)")
    assert 1e-4 < float(rate.split()[2]) < 1
    path = Path(picture.removeprefix("picture: "))
    assert path == Path(f"runs/{dataset}-mlp-0.learning_rate.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert list(Path("runs").iterdir()) == [path]  # nothing was fitted
    ended = run(*ask, "--json", "--out", "here.v1")
    assert ended.code == 0, ended
    found = json.loads(ended.out)
    assert found["learning_rate"] == pytest.approx(float(rate.split()[2]), rel=0.1)
    assert found["picture"] == "here.v1.learning_rate.png"
    ended = run(*ask, "--optimizer", "sgd", "--out", "sgd")
    assert "(of sgd)" in ended.out, ended


# -- what is wrong -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--classes", "0,x"], "classes must be names in digits, got 'x'; digits has '0', '1', "),
        (["--classes", "3"], "classes must hold at least 2 names, got '3'; digits has "),
        (["--dataset", "diabetes", "--classes", "0,1"],
         "classes must be omitted for diabetes, which has numbers to predict and no classes"),
        (["--dataset", "diabetes", "--net", "logistic"], "net 'logistic' labels; for linear regression use --net"),
        (["--dataset", "diabetes", "--loss", "softmax"], "loss: the targets are numbers, and only labels have a use"),
        (["--dataset", "diabetes", "--class-weight", "balanced"], "--class-weight: the targets are numbers"),
        (["--dataset", "digits", "--task", "regression"],
         "task must be 'classification' for 'digits', got 'regression'"),
        (["--dataset", "digits", "--label-column", "a"],
         "--label-column must be omitted for 'digits', which has its labels, got 'a'"),
        (["--dataset", "none.csv"], "none.csv: no such file or folder; pass the path of a FILE.npz, "),
        (["--dataset", "bad.csv"], "bad.csv must have no missing values, got 1 in column 'a'"),
        (["--dataset", "own.csv", "--label-column", "sort"], "own.csv must have the label column 'sort', got "),
        (["--dataset", "one.npz"], "one.npz must have at least 2 classes, got only 0"),
        (["--dataset", "empty"], "empty must have a folder for each class with its images, got no folders"),
        (["--dataset", "iris", "--net", "perceptron"], "loss 'perceptron': Only binary classification is supported"),
        (["--dataset", "wine", "--net", "cnn"], "X must be images [N, H, W], or rows of a square number of pixels"),
        (["--dataset", "iris", "--net", "lenet"], "an image of 2x2 pixels is too small"),
        (["--net", "vgg"], "--net vgg is for images of at least 16x16 pixels, these have 8x8; use --net cnn"),
        (["--net", "softmax", "--hidden", "5"], "net 'softmax' has no hidden layer for hidden"),
        (["--net", "linear", "--batch-norm", "True"], "net 'linear' has no hidden layer for --batch-norm"),
        (["--optimizer", "sgd", "--weight-decay", "0.1"], "--weight-decay is adamw's; with --optimizer sgd use"),
        (["--freeze-torso"], "--freeze-torso keeps a torso as it was elsewhere: name its model in --init-torso"),
        (["--init-torso", "nowhere"], "no model at nowhere: there is no such directory"),
        (["--init-torso", "no", "--net", "cnn", "--hidden", "3"], "--init-torso brings the whole torso: leave out"),
        (["--optimizer", "adamx"], "--optimizer must be one of sgd, momentum, "),
        (["--batch-size", "some"], "--batch-size must be a whole number such as 1000 or 1e3, or full, or none,"),
        (["--l1", "-1"], "l1 must be at least 0 and finite, got -1"),
        (["--loss", "logistic"], "loss 'logistic': Only binary classification is supported"),
        (["--classes", "0,1", "--loss", "logistic", "--label-smoothing", "0.1"],
         "--label-smoothing must be 0 with --loss logistic, got 0.1"),
        (["--classes", "0,1", "--net", "perceptron", "--calibration", "platt"], "a perceptron's step unit gives no p"),
        (["--classes", "0,1", "--net", "perceptron", "--find-learning-rate"], "no learning rate from 1e-06"),
        (["--dataset", "own.csv", "--label-column", "kind", "--calibration", "platt"],
         "readout must be at least 10 rows to calibrate on, got 9"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line_and_nothing_is_written(
    run: Run, tmp_path: Path, arguments: list[str], message: str
) -> None:
    columns(write_csv(tmp_path / "own.csv"), "width", "kind")
    (tmp_path / "bad.csv").write_text("a,label\n1,x\n,y\n")
    np.savez(tmp_path / "one.npz", X=np.eye(30), y=np.zeros(30, int))
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.iterdir())
    error = run("fit", *arguments).error
    assert error.startswith(message), error
    assert sorted(tmp_path.iterdir()) == before


def test_what_evaluate_refuses(run: Run, tmp_path: Path) -> None:
    numbers = fitted(run, "--dataset", "diabetes", "--net", "linear", "--max-epochs", 1)["run"]
    labels = fitted(run, "--dataset", "iris", "--net", "softmax", "--max-epochs", 1)["run"]
    for arguments, message in (
        ((numbers, "--dataset", "iris"), "the model is a regressor, iris is data for a classifier"),
        ((labels, "--dataset", "diabetes"), "the model is a classifier, diabetes is data for a regressor"),
        ((labels, "--dataset", "wine"), "the model knows the labels ('setosa', 'versicolor', 'virginica'), wine has"),
        (
            (numbers, "--episodes", 3),
            f"--episodes must be omitted: {numbers} is a regressor, to which it does not apply",
        ),
        ((labels, "--dataset", "irises.csv"), "irises.csv: no such file or folder"),
    ):
        error = run("evaluate", *arguments).error
        assert error.startswith(message), error
    X = np.random.default_rng(0).normal(size=(40, 2))
    Classifier(max_epochs=1, random_state=0).fit(X, X[:, 0] > 0).save(tmp_path / "own")
    error = run("evaluate", "own").error
    assert error == "own does not record the data set it was fitted to; name one with --dataset"


def test_a_model_that_names_its_data_set_alone_is_scored_on_it(run: Run, models: Any) -> None:
    """Models saved before there were --classes and --label-column record no more."""
    figures = evaluated(run, models.digits)
    assert (figures["dataset"], figures["num_test"]) == ("digits", 353)
