"""``torso fit``: fit a classifier or a regressor to a data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from torso.agents.runs.run_directory import RunDirectory
from torso.agents.supervised.config import DEFAULT_NET, ClassifierConfig, RegressorConfig, as_regression
from torso.agents.supervised.fit_progress import FitProgress
from torso.agents.supervised.fit_runs import fit_run, spec_of
from torso.agents.supervised.lr_finder import plot_range_test, range_test_of
from torso.agents.supervised.recipes import RECIPES, fit_preset
from torso.cli.arguments.options import HIDDEN, Sections
from torso.cli.parsing import option_value
from torso.cli.runs import config_of_run, default_out, run_to_resume, run_until_stopped
from torso.cli.terminal.output import print_result
from torso.envs import Splits, dataset_names, load_dataset
from torso.insight.metrics.scoring import score_text
from torso.insight.metrics.text_tables import formatted


@dataclass(frozen=True, kw_only=True)
class FitSettings(ClassifierConfig):
    """Settings of a fit, without those that apply to `torso.agents.Classifier` only."""

    class_weight: Literal["balanced"] | None = None
    """Weights of examples by class; balanced: every class weighs the same in the loss, however rare it is; None: every
    example weighs the same."""
    validation_fraction: float = field(default=0.1, metadata=HIDDEN)
    """Hidden: data sets have a validation split."""
    random_state: int | None = field(default=None, metadata=HIDDEN)
    """Hidden: the seed is --seed."""
    verbose: int = field(default=0, metadata=HIDDEN)
    """Hidden: progress is always displayed."""


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """Fit a classifier or a regressor into a run directory, and score its best epoch once on the test data.

    With --resume, settings that are not given are those that the run was started with. Ctrl-C saves; a resumed fit
    gives the same bits as one that was never stopped.
    """

    sections: ClassVar[Sections] = {
        "basics": ("dataset", "net", "max_epochs", "patience", "seed", "out", "resume", "json"),
        "data": ("classes", "label_column", "header", "task", "data_dir", "layout", "class_weight"),
        "network": (
            *("hidden", "activation", "dropout", "layer_norm", "layer_norm_kind", "batch_norm", "head"),
            *("init", "init_torso", "freeze_torso"),
        ),
        "loss": ("loss", "label_smoothing", "l1", "l2", "calibration"),
        "optimiser": (
            *("optimizer", "learning_rate", "schedule", "batch_size", "momentum"),
            *("weight_decay", "max_grad_norm", "find_learning_rate"),
        ),
        "augmentation of training images": ("max_shift_px", "max_rotation_deg", "max_scale", "elastic_px"),
        "device": ("device", "precision", "memory_format", "num_threads"),
    }
    """Headings of the help, and the options below each."""

    dataset: str = "digits"
    """The data set: digits, mnist, fashion-mnist, iris, wine, breast-cancer, diabetes, xor, circles, moons, spirals; or
    your own: a .npz or .csv file, or a folder with one folder of images for each class."""
    classes: str | None = None
    """Learn only these labels, in this order, such as 0,1; None: all."""
    label_column: str | None = None
    """For a .csv file: the column to predict; several, with commas, are regression targets; None: the one called
    label, class, target or species, else the last."""
    header: Literal["auto", "yes", "no"] = "auto"
    """For a .csv file: whether its first line holds column names; without them they are column 1, column 2, ...
    auto: it does where it has text above numbers."""
    task: Literal["classification", "regression"] | None = None
    """For your own data: whether to predict labels or numbers. None: inferred from the data."""
    data_dir: Path | None = None
    """A folder that holds the data set's files; None: $TORSO_DATA/DATASET or the user's cache."""
    seed: int = 0
    """Seed of everything random: the same seed gives the same bits."""
    out: Path | None = None
    """The run directory; None: runs/DATASET-NET-SEED."""
    resume: bool = False
    """Continue the run in the run directory; with --dataset, begin it if there is none yet."""
    find_learning_rate: bool = False
    """Run a learning-rate range test instead of a fit: plot the loss by rate, and suggest a rate (Smith 2017)."""
    json: bool = False
    """Print the summary as one JSON object."""
    config: FitSettings = field(default_factory=FitSettings)
    """Settings of the network and its training."""

    @property
    def source(self) -> dict[str, Any]:
        """Arguments of `load_dataset`, without the folder."""
        columns = None if self.label_column is None else self.label_column.split(",")
        arguments = {
            "name": self.dataset,
            "classes": None if self.classes is None else self.classes.split(","),
            "label_column": columns[0] if columns is not None and len(columns) == 1 else columns,
            "task": self.task,
            "header": None if self.header == "auto" else self.header,
        }
        return {name: value for name, value in arguments.items() if value is not None}

    @property
    def run_path(self) -> Path:
        """The run directory."""
        classes = "" if self.classes is None else "-" + self.classes.replace(",", "-")
        net = self.config.net_name or f"from-{_short_name(str(self.config.init_torso))}"
        return self.out or default_out(_short_name(self.dataset) + classes, net, self.seed)


def presets(arguments: Sequence[str]) -> FitOptions:
    """Return the default options: the settings of the resumed run, or those of the net and the data set."""
    dataset = option_value(arguments, "--dataset") or "digits"
    init_torso = option_value(arguments, "--init-torso")
    net = option_value(arguments, "--net") or DEFAULT_NET
    if init_torso is not None:  # which brings the net: of the recipe only the training settings remain
        settings = {**RECIPES[DEFAULT_NET].to_json(), "init_torso": init_torso}
    else:
        settings = fit_preset(net, dataset) if net in RECIPES else {}
    if option_value(arguments, "--optimizer") is not None:  # each optimizer has its own default rate and decay
        settings = {name: value for name, value in settings.items() if name not in ("learning_rate", "weight_decay")}
    if any(option_value(arguments, name) is not None for name in ("--loss", "--head")):  # some do no label smoothing
        settings = {name: value for name, value in settings.items() if name != "label_smoothing"}
    seed = option_value(arguments, "--seed")
    defaults = FitOptions(
        dataset=dataset,
        classes=option_value(arguments, "--classes"),
        seed=int(seed) if seed is not None and seed.isdecimal() else 0,
        out=None if option_value(arguments, "--out") is None else Path(str(option_value(arguments, "--out"))),
        config=FitSettings(**settings),
    )
    run = run_to_resume(arguments, "fit", defaults.run_path, "--dataset")
    if run is None:
        return FitOptions(config=defaults.config)
    source = run.settings.get("source", {"name": run.settings["dataset"]})
    label_column = source.get("label_column")
    return FitOptions(
        dataset=source["name"],
        classes=None if source.get("classes") is None else ",".join(source["classes"]),
        label_column=",".join(label_column) if isinstance(label_column, list) else label_column,
        task=source.get("task"),
        header=source.get("header", "auto"),
        seed=run.config["seed"],
        config=config_of_run(run, FitSettings),
    )


def run(options: FitOptions) -> int:
    """Fit, and print the summary; or run a learning-rate range test."""
    data, out = load_dataset(data_dir=options.data_dir, **options.source), options.run_path
    config: ClassifierConfig | RegressorConfig = options.config
    if data.train.task == "regression":
        config = as_regression(options.config)
    if options.find_learning_rate:
        return _find_learning_rate(options, data, config)
    max_epochs = config.recipe().max_epochs
    net = config.net_name or f"the{' frozen' * config.freeze_torso} torso of {config.init_torso}"
    notes = _describe_data(data)
    preface = (
        f"{net} on {data.train.name}, {len(data.train):,} examples and {len(data.validation):,} for "
        f"validation, at most {max_epochs:,} epochs, seed {options.seed}: {out}"
    )
    if not options.json:  # where they are on stdout
        preface = "\n".join([preface, *notes, f"inputs: {spec_of(data.train, config).input.reading}"])

    def work(stop: Callable[[], bool]) -> str | None:
        with FitProgress(max_epochs, preface) as progress:
            fitted = fit_run(
                data,
                config,
                seed=options.seed,
                out=out,
                source=options.source,
                resume=options.resume,
                on_event=progress.on_event,
                stop=stop,
            )
        if fitted.summary is None:
            return f"epoch {fitted.epochs:,} of {max_epochs:,}"
        figures = {**fitted.summary, **({"notes": notes} if notes else {})}
        _print_summary(figures, fitted.run_directory, as_json=options.json)
        return None

    return run_until_stopped("fit", out, work)


def _describe_data(data: Splits) -> list[str]:
    """Describe a user's own data, a line a fact."""
    train = data.train
    if train.name in dataset_names():
        return []
    repeated = data.repeated_rows()
    lines = []
    if train.label_columns is not None:
        rows, columns = f"{repeated.rows:,} rows", f"{train.inputs.shape[1]:,} feature columns"
        what = "to predict" if train.task == "regression" else f"as label, of {len(train.label_names):,} classes"
        lines.append(f"{train.name}: {rows}, {columns}, {', '.join(map(repr, train.label_columns))} {what}")
    lines += train.notes
    if repeated.repeated:
        count = f"{repeated.repeated:,} of {repeated.rows:,} rows"
        lines.append(f"{count} repeat the inputs of another; copies stay on one side of the split")
    if repeated.across:
        lines.append(f"{repeated.across:,} rows equal one in a part that the data set's makers set aside")
    return lines


def _find_learning_rate(options: FitOptions, data: Splits, config: ClassifierConfig | RegressorConfig) -> int:
    found = range_test_of(data, config, seed=options.seed)
    path = options.run_path
    picture = plot_range_test(found, path.with_name(f"{path.name}.learning_rate.png"))
    figures = {"learning_rate": found.suggestion, "picture": str(picture)}
    text = f"learning rate: {found.suggestion:.2g} (of {config.recipe().optimizer})\npicture: {picture}"
    print_result(figures, text, as_json=options.json)
    return 0


def _print_summary(summary: dict[str, Any], run: RunDirectory, *, as_json: bool) -> None:
    name, spec = ("accuracy", ".2%") if "test_accuracy" in summary else ("R²", ".4f")
    found = summary["validation_accuracy" if "test_accuracy" in summary else "validation_r2"]
    validation = "" if summary["validation_loss"] is None else f", validation {name} {formatted(found, spec)}"
    model = run.best if run.best.is_dir() else run.model
    text = (
        f"{summary['dataset']}: {score_text(summary)}\n"
        f"best epoch {summary['best_epoch']} of {summary['epochs']}{validation}; "
        f"{summary['num_parameters']:,} parameters\n"
        f"model: {model}\ncurve: {run.learning_curve}"
    )
    print_result({**summary, "run": str(run.path), "model": str(model)}, text, as_json=as_json)


def _short_name(dataset: str) -> str:
    """Return a data set's name for use in a directory's name."""
    return Path(dataset).stem or "data"
