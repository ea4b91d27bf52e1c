"""Run the code of docs/onnx.md, with and without a calibration."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from torso.nets import Predictor, save_model
from torso.nets.specs.calibration import TemperatureScaling

DOCUMENT = (Path(__file__).parents[3] / "docs" / "onnx.md").read_text(encoding="utf-8")
CODE = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)


@pytest.mark.parametrize("temperature", [None, 3.0])
def test_the_document_gives_the_predictors_answers(
    tmp_path: Path,
    make_classifier: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    temperature: float | None,
) -> None:
    monkeypatch.chdir(tmp_path)
    calibration = None if temperature is None else TemperatureScaling(num_classes=3, temperature=temperature)
    labels = ("one", "two", "three")
    save_model("digits", make_classifier(), kind="classifier", labels=labels, calibration=calibration)
    scans = np.random.default_rng(0).integers(17, size=(5, 8, 8), dtype=np.uint8)
    np.save("scans.npy", scans)
    predictor = Predictor.load("digits")
    expected = predictor.answer(scans)
    first, second = CODE
    namespace: dict[str, Any] = {}
    if temperature is None:
        first, found = re.subn(r"(?m)^.*\bprobabilities\b.*\n", "", first)
        assert found == 2
        first += second
    exec(compile(first, "onnx.md", "exec"), namespace)
    np.testing.assert_allclose(namespace["probabilities"], expected, rtol=1e-4, atol=1e-6)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "{'obs': 'raw inputs, uint8 [batch, 8, 8]; the graph scales them'}"
    if temperature is not None:
        assert lines[1] == str([row[0] for row in predictor.classify(scans).labels])
