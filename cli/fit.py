"""``torso fit``: a classifier, to a data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from torso.agents.classification import ClassifierConfig
from torso.agents.fit_runs import fit_run
from torso.agents.rundir import RunDirectory
from torso.cli.output import result
from torso.cli.parsing import Flag, given
from torso.cli.progress import FitProgress
from torso.cli.runs import begun, default_out, settings_of, until_stopped
from torso.envs import load_dataset


@dataclass(frozen=True, kw_only=True)
class FitSettings(ClassifierConfig):
    """A classifier's settings, without those that only `torso.agents.Classifier` has a use for."""

    validation_fraction: tyro.conf.Suppress[float] = 0.1
    random_state: tyro.conf.Suppress[int | None] = None
    verbose: tyro.conf.Suppress[int] = 0


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """Fit a classifier into a run directory, and score its best epoch once on the test data.

    With --resume, settings that are not given are those that the run was begun with. Ctrl-C saves; a resumed fit gives
    the same bits as one that was never stopped.
    """

    dataset: str = "digits"
    """digits (8 x 8 scans, comes with torso) or mnist (downloaded once)."""
    data_dir: tyro.conf.DisallowNone[Path | None] = None
    """A folder that holds the data set's files; None: $TORSO_DATA/DATASET or the user's cache."""
    seed: int = 0
    """What everything random follows from."""
    out: tyro.conf.DisallowNone[Path | None] = None
    """The run directory; None: runs/DATASET-NET-SEED."""
    resume: Flag = False
    """Go on with the run in the run directory; begin it where there is none yet."""
    json: Flag = False
    """Print the summary as one JSON object."""
    config: Annotated[FitSettings, tyro.conf.arg(name="")] = field(default_factory=FitSettings)

    @property
    def run_path(self) -> Path:
        """The run directory."""
        return self.out or default_out(self.dataset, self.config.net, self.seed)


def presets(arguments: Sequence[str]) -> FitOptions:
    """What holds where no argument says else: the resumed run's own settings, or the defaults."""
    defaults = FitOptions()
    named = (given(arguments, "--dataset"), given(arguments, "--net"), given(arguments, "--seed"))
    known = (defaults.dataset, defaults.config.net, defaults.seed)
    out = given(arguments, "--out") or default_out(
        *(name or default for name, default in zip(named, known, strict=True))
    )
    run = begun(arguments, "fit", Path(out))
    if run is None:
        return defaults
    return FitOptions(dataset=run.settings["dataset"], seed=run.config["seed"], config=settings_of(run, FitSettings))


def run(options: FitOptions) -> int:
    """Fit, and print the summary."""
    data, config, out = load_dataset(options.dataset, options.data_dir), options.config, options.run_path
    preface = (
        f"{config.net} on {options.dataset}, {len(data.train):,} examples and {len(data.validation):,} to choose the "
        f"epoch by, at most {config.max_epochs:,} epochs, seed {options.seed}: {out}"
    )

    def work(stop: Callable[[], bool]) -> str | None:
        with FitProgress(config.max_epochs, preface) as progress:
            fitted = fit_run(
                data,
                config,
                seed=options.seed,
                out=out,
                resume=options.resume,
                on_event=progress.on_event,
                stop=stop,
            )
        if fitted.summary is None:
            return f"epoch {fitted.epochs:,} of {config.max_epochs:,}"
        _tell_summary(fitted.summary, fitted.run_directory, as_json=options.json)
        return None

    return until_stopped("fit", out, work)


def _tell_summary(summary: dict[str, Any], run: RunDirectory, *, as_json: bool) -> None:
    validation = summary["validation_accuracy"]
    text = (
        f"{summary['dataset']}: test accuracy {summary['test_accuracy']:.2%} "
        f"({summary['test_errors']} errors in {summary['num_test']:,})\n"
        f"best epoch {summary['best_epoch']} of {summary['epochs']}"
        f"{'' if validation is None else f', validation accuracy {validation:.2%}'}; "
        f"{summary['num_parameters']:,} parameters\n"
        f"model: {run.best}\ncurve: {run.learning_curve}"
    )
    result({**summary, "run": str(run.path), "model": str(run.best)}, text, as_json=as_json)
