"""The classifier of handwritten digits that comes with torso, made anew: fitted to MNIST, scored, put in its place.

    python benchmarks/playground_digits.py [--out playground/models/digits]

Small enough for the wheel (its weights and the ONNX file: 0.94 MB), and fitted to images that are shifted, turned,
scaled and bent, since what hands draw on a screen varies more than MNIST. One thread and one seed: the same machine
makes the same bits. Chosen on the validation images; MNIST's test images score it once.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from report import Report

ROOT = Path(__file__).parents[1]
FIT = (
    "fit --dataset mnist --net cnn --hidden 64 --max-epochs 12 --patience 12 --max-shift-px 1.5 --max-rotation-deg 12 "
    "--max-scale 0.15 --elastic-px 1.0 --calibration temperature --seed 0 --num-threads 1"
)


def torso(*words: str) -> str:
    """Run a command of torso, and return what it prints."""
    done = subprocess.run([sys.executable, "-m", "torso", *words], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def main() -> None:
    """Fit, score, copy the model to its place, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "playground" / "models" / "digits")
    options = parser.parse_args()
    report = Report("playground_digits")
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "digits"
        fitted = json.loads(torso(*shlex.split(FIT), "--out", str(run), "--json"))
        best = run / "best"
        scored = json.loads(torso("evaluate", str(best), "--dataset", "mnist", "--json"))
        size = sum(path.stat().st_size for path in best.iterdir())
        report.data.update(fit=fitted, evaluate=scored, bytes=size)
        shutil.rmtree(options.out, ignore_errors=True)
        shutil.copytree(best, options.out)
    report.say(f"`torso {FIT}`\n")
    rows = [
        [f"{fitted['num_parameters']:,}", f"{size:,}", f"{scored['test_accuracy']:.2%}", f"{scored['test_loss']:.4f}"]
    ]
    report.table(["parameters", "bytes of the model", "test accuracy", "test cross-entropy"], rows)
    report.write()


if __name__ == "__main__":
    main()
