"""Classification metrics against numbers worked by hand and definitions counted example by example."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torso.errors import InputError
from torso.insight.metrics.classification import classification_metrics

# Two classes; the second's probability, from high to low. Positives are at places 1, 2, 4 and 7 of 8.
SCORES = np.array([0.95, 0.9, 0.8, 0.7, 0.4, 0.3, 0.2, 0.1])
TRUTH = np.array([1, 1, 0, 1, 0, 0, 1, 0])
BINARY = np.stack([1 - SCORES, SCORES], axis=1)

THREE = np.array(
    [[0.7, 0.2, 0.1], [0.5, 0.3, 0.2], [0.3, 0.6, 0.1], [0.2, 0.5, 0.3], [0.1, 0.2, 0.7], [0.4, 0.35, 0.25]]
)
THREE_TRUTH = np.array([0, 1, 1, 2, 2, 0])  # said: 0, 0, 1, 1, 2, 0


def test_the_eight_of_two_classes_by_hand() -> None:
    eight = classification_metrics(BINARY, TRUTH).eight
    errors = np.array([0.05, 0.1, 0.8, 0.3, 0.4, 0.3, 0.8, 0.1])  # distance of the score from the truth
    expected = {
        "accuracy": 6 / 8,  # wrong at places 3 and 7
        "f_score": 3 / 4,  # precision 3/4, recall 3/4
        "lift": 2.0,  # of the top 2, both are positive: half of all positives in a quarter
        "roc_area": 12 / 16,  # of 16 pairs, those of place 3 against 4 and 7, and of 5 and 6 against 7, are wrong
        "average_precision": (1 + 1 + 3 / 4 + 4 / 7) / 4,
        "break_even_point": 3 / 4,  # of the top 4, 3 are positive
        "squared_error": math.sqrt((errors**2).mean()),
        "cross_entropy": float(-np.log(1 - errors).mean()),
    }
    assert list(eight) == list(expected)
    assert eight == pytest.approx(expected, rel=1e-12)


def test_classes_and_confusion_by_hand() -> None:
    metrics = classification_metrics(THREE, THREE_TRUTH, label_names=["ant", "bee", "cat"])
    assert metrics.num_examples == 6
    assert metrics.accuracy == pytest.approx(4 / 6)
    assert metrics.confusion == ((2, 0, 0), (1, 1, 0), (0, 1, 1))  # rows are the truth
    assert metrics.top_k_error == pytest.approx({1: 2 / 6, 2: 0.0})
    assert metrics.cross_entropy == pytest.approx(-np.mean(np.log([0.7, 0.3, 0.6, 0.3, 0.7, 0.4])))
    assert [each.label for each in metrics.classes] == ["ant", "bee", "cat"]
    assert [(each.support, each.predicted) for each in metrics.classes] == [(2, 3), (2, 2), (2, 1)]
    assert [each.precision for each in metrics.classes] == pytest.approx([2 / 3, 1 / 2, 1.0])
    assert [each.recall for each in metrics.classes] == pytest.approx([1.0, 1 / 2, 1 / 2])
    assert [each.f_score for each in metrics.classes] == pytest.approx([4 / 5, 1 / 2, 2 / 3])
    assert metrics.eight["f_score"] == pytest.approx((4 / 5 + 1 / 2 + 2 / 3) / 3)


def test_the_eight_of_more_classes_are_means_over_one_against_the_rest() -> None:
    whole = classification_metrics(THREE, THREE_TRUTH)
    alone = [
        classification_metrics(np.stack([1 - THREE[:, k], THREE[:, k]], axis=1), k == THREE_TRUTH).eight
        for k in range(3)
    ]
    for name in ("lift", "roc_area", "average_precision", "break_even_point", "squared_error"):
        assert whole.eight[name] == pytest.approx(np.mean([each[name] for each in alone])), name
    assert whole.eight["accuracy"] == whole.accuracy
    assert whole.eight["cross_entropy"] == whole.cross_entropy


def by_counting(scores: np.ndarray, positive: np.ndarray) -> dict[str, float]:
    """Ranked metrics of one class, example by example and pair by pair; scores have no ties."""
    order = np.argsort(-scores)
    ranked = positive[order]
    total = ranked.sum()
    higher = [float(s > t) for s in scores[positive] for t in scores[~positive]]
    return {
        "lift": ranked[: len(ranked) // 4].sum() / total / 0.25,
        "roc_area": float(np.mean(higher)),
        "average_precision": float(np.mean([ranked[: k + 1].mean() for k in range(len(ranked)) if ranked[k]])),
        "break_even_point": ranked[:total].sum() / total,
    }


@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_ranked_metrics_equal_counting(seed: int, quarters: int) -> None:
    rng = np.random.default_rng(seed)
    size = 4 * quarters
    scores = rng.permutation(size) / size * 0.9 + 0.01
    truth = np.r_[0, 1, rng.integers(2, size=size - 2)]
    eight = classification_metrics(np.stack([1 - scores, scores], axis=1), truth).eight
    expected = by_counting(scores, truth.astype(bool))
    assert {name: eight[name] for name in expected} == pytest.approx(expected, rel=1e-9)


def test_equal_scores_share_their_places() -> None:
    scores = np.array([0.9, 0.5, 0.5, 0.5, 0.5, 0.2, 0.2, 0.2])
    truth = np.array([0, 1, 0, 0, 1, 0, 0, 0])
    eight = classification_metrics(np.stack([1 - scores, scores], axis=1), truth).eight
    assert eight["lift"] == pytest.approx(0.5 / 2 / 0.25)  # the top 2: place 1, and one of the four, half positive
    assert eight["break_even_point"] == pytest.approx(0.5 / 2)
    shuffled = np.random.default_rng(0).permutation(8)
    again = classification_metrics(np.stack([1 - scores, scores], axis=1)[shuffled], truth[shuffled]).eight
    assert again == pytest.approx(eight)


def test_constant_scores_tell_nothing() -> None:
    eight = classification_metrics(np.full((8, 2), 0.5), TRUTH).eight
    assert eight["roc_area"] == eight["break_even_point"] == 0.5
    assert eight["lift"] == 1.0


def test_lift_of_a_share_that_cuts_an_example() -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])  # a quarter is one example and a half
    eight = classification_metrics(np.stack([1 - scores, scores], axis=1), np.array([1, 1, 0, 0, 0, 1])).eight
    assert eight["lift"] == pytest.approx(1.5 / 3 / 0.25)


# -- top-k -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("num_classes", "most"), [(2, 1), (3, 2), (5, 4), (6, 5), (10, 5)])
def test_top_k_goes_up_to_5_but_never_to_all_classes(num_classes: int, most: int) -> None:
    shares = np.full((4, num_classes), 1 / num_classes)
    errors = classification_metrics(shares, np.zeros(4, dtype=int)).top_k_error
    assert list(errors) == list(range(1, most + 1))


def test_equal_probabilities_rank_by_index() -> None:
    shares = np.full((4, 4), 0.25)
    metrics = classification_metrics(shares, np.array([0, 1, 2, 3]))
    assert metrics.top_k_error == {1: 0.75, 2: 0.5, 3: 0.25}
    assert metrics.accuracy == 0.25


@given(st.integers(0, 2**32 - 1))
def test_top_1_error_is_what_accuracy_leaves(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shares = rng.integers(1, 4, size=(12, 5)).astype(float)
    metrics = classification_metrics(shares / shares.sum(axis=1, keepdims=True), rng.integers(5, size=12))
    assert metrics.top_k_error[1] == pytest.approx(1 - metrics.accuracy)
    errors = list(metrics.top_k_error.values())
    assert errors == sorted(errors, reverse=True)


# -- missing figures ---------------------------------------------------------------------------------------------------


def test_a_class_without_examples_has_no_figures_and_no_say() -> None:
    shares = np.insert(THREE, 1, 0.0, axis=1)  # a fourth class that nothing is ever labelled with
    truth = np.array([0, 2, 2, 3, 3, 0])
    absent = classification_metrics(shares, truth)
    present = classification_metrics(THREE, THREE_TRUTH)
    assert absent.classes[1].support == 0
    figures = [
        value for name, value in vars(absent.classes[1]).items() if name not in ("label", "support", "predicted")
    ]
    assert figures == [None] * 8
    assert absent.eight == pytest.approx(present.eight)


def test_a_class_that_is_named_in_vain_still_has_none() -> None:
    metrics = classification_metrics(None, [0, 0, 1], predicted=[0, 2, 1], label_names=["a", "b", "c"])
    assert (metrics.classes[2].predicted, metrics.classes[2].precision) == (1, None)
    assert metrics.classes[0].recall == 0.5


def test_a_class_that_is_never_named_has_precision_0() -> None:
    metrics = classification_metrics(None, [0, 0, 1], predicted=[0, 0, 0])
    assert (metrics.classes[1].precision, metrics.classes[1].recall, metrics.classes[1].f_score) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("only", [0, 1])
def test_one_class_alone_has_no_roc_area(only: int) -> None:
    metrics = classification_metrics(BINARY, np.full(8, only))
    assert [each.roc_area for each in metrics.classes] == [None, None]
    assert metrics.eight["roc_area"] is None
    assert (metrics.eight["lift"] is None) == (only == 0)  # the second class is the positive one
    assert metrics.eight["squared_error"] == pytest.approx(math.sqrt(((SCORES - only) ** 2).mean()))
    json.dumps(metrics.to_json(), allow_nan=False)


def test_without_probabilities_the_labels_speak() -> None:
    labelled = THREE.argmax(axis=1)
    bare = classification_metrics(None, THREE_TRUTH, predicted=labelled)
    whole = classification_metrics(THREE, THREE_TRUTH)
    assert (bare.accuracy, bare.confusion) == (whole.accuracy, whole.confusion)
    assert bare.top_k_error == {1: pytest.approx(2 / 6)}
    assert bare.cross_entropy is None
    known = {name for name, value in bare.eight.items() if value is not None}
    assert known == {"accuracy", "f_score"}
    assert [each.f_score for each in bare.classes] == [each.f_score for each in whole.classes]


def test_what_a_classifier_said_may_differ_from_its_most_probable_class() -> None:
    metrics = classification_metrics(BINARY, TRUTH, predicted=TRUTH)
    assert metrics.accuracy == metrics.eight["f_score"] == 1.0
    assert metrics.eight["lift"] == 2.0


def test_a_wrong_certainty_has_a_finite_cross_entropy() -> None:
    metrics = classification_metrics(np.array([[1.0, 0.0], [0.0, 1.0]]), [0, 0])
    assert metrics.cross_entropy == pytest.approx(-math.log(np.finfo(np.float64).eps) / 2)


def test_float32_is_as_good_as_float64() -> None:
    shares = np.random.default_rng(0).dirichlet(np.ones(10), size=200)
    truth = np.arange(200) % 10
    narrow, wide = (classification_metrics(each, truth).eight for each in (shares.astype(np.float32), shares))
    assert narrow == pytest.approx(wide, rel=1e-5)


# -- output formats ----------------------------------------------------------------------------------------------------


def test_json_holds_every_figure() -> None:
    metrics = classification_metrics(THREE, THREE_TRUTH, label_names=["ant", "bee", "cat"])
    data = json.loads(json.dumps(metrics.to_json(), allow_nan=False))
    assert data == metrics.to_json()
    assert set(data) == {"num_examples", "accuracy", "top_k_error", "cross_entropy", "eight", "classes", "confusion"}
    assert data["classes"][1]["label"] == "bee"
    assert data["top_k_error"] == {"1": pytest.approx(2 / 6), "2": 0.0}
    assert data["confusion"] == [[2, 0, 0], [1, 1, 0], [0, 1, 1]]


def test_text_is_a_table() -> None:
    text = classification_metrics(THREE, THREE_TRUTH, label_names=["ant", "bee", "cat"]).text()
    lines = text.splitlines()
    assert lines[0] == "6 examples, 2 labelled wrong (33.33%)"
    assert lines[1] == "top-k error   1: 33.33%, 2: 0.00%"
    assert "accuracy              0.6667" in lines
    assert "class  examples  precision  recall  F-score  ROC area  average precision" in lines
    assert "bee           2     0.5000  0.5000   0.5000    0.7500             0.7500" in lines
    assert lines[-4:] == [
        "true \\ labelled  ant  bee  cat",
        "ant                2    0    0",
        "bee                1    1    0",
        "cat                0    1    1",
    ]


def test_text_says_what_is_not_known_and_leaves_out_what_is_too_wide() -> None:
    assert "cross-entropy (nats)       -" in classification_metrics(None, [0, 1], predicted=[0, 1]).text()
    wide = classification_metrics(None, np.arange(40), predicted=np.arange(40))
    assert max(map(len, wide.text().splitlines())) < 100


# -- refused inputs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"probabilities": None}, "probabilities, predicted must be given, at least one of the two, got neither"),
        ({"labels": []}, "labels must be whole numbers"),
        ({"labels": TRUTH.astype(float)}, "labels must be whole numbers"),
        ({"labels": TRUTH[:, None]}, "labels must be whole numbers"),
        ({"labels": TRUTH - 1}, "labels must be classes from 0, got -1"),
        ({"labels": TRUTH + 1}, "labels must be classes below 2, got 2"),
        ({"labels": TRUTH[:3]}, r"probabilities must be floats \[3, K\]"),
        ({"probabilities": SCORES}, "probabilities must be floats"),
        ({"probabilities": SCORES[:, None]}, "K >= 2"),
        ({"probabilities": np.ones((8, 2))}, "sum to 1 in each row, got rows that sum to 2"),
        ({"probabilities": np.array([[1.5, -0.5]] * 8)}, "shares of at least 0"),
        ({"probabilities": np.full((8, 2), np.nan)}, "shares of at least 0"),
        ({"predicted": TRUTH[:4]}, "predicted must be 8 classes, one per example, got 4"),
        ({"predicted": TRUTH * 2}, "predicted must be classes below 2, got 2"),
        ({"label_names": ["a"]}, "label_names must be 2 names, got 1"),
    ],
)
def test_what_does_not_fit_is_refused(given: dict[str, Any], says: str) -> None:
    arguments = {"probabilities": BINARY, "labels": TRUTH, **given}
    with pytest.raises(InputError, match=says):
        classification_metrics(arguments.pop("probabilities"), arguments.pop("labels"), **arguments)
