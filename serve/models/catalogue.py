"""Which models there are, and which of their versions a policy wants. Nothing is loaded here, and nothing written.

A repository is a folder of ``MODEL/VERSION/`` folders, each a model or run directory. Versions are whole numbers from
1 on, without leading zeros. ``model.json`` is what makes a version one: it is written last, so a folder that has none
is still being copied, and waits. Folders may be links; hidden ones and those of other names are passed over.

Nothing here needs torch: whoever only looks after a repository stays small.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torso.errors import ConfigError, ServerError
from torso.serve.config import ServeConfig
from torso.serve.models.control import VersionSource

VERSION = "1"  # of a directory that is served directly
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
NUMBER = re.compile(r"[1-9][0-9]{0,17}")
CARD = "model.json"
STAMPED = (CARD, "weights.safetensors", "model.onnx")  # what is read of a model directory
WITHIN = (".", "best", "model")  # where a model directory or a run directory has it, in the order of torso.nets
TAKEN = "a model that is given directly has this name"


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Which of a model's versions are served: the ``latest`` so many, or those ``named``, or, with neither, all."""

    latest: int | None = None
    named: frozenset[str] | None = None

    @classmethod
    def parse(cls, text: str) -> Policy:
        """Read ``latest``, ``latest:N``, ``all``, or versions such as ``1,3``; ConfigError where it is none."""
        if text == "all":
            return cls()
        word, colon, count = text.partition(":")
        if word == "latest" and (not colon or NUMBER.fullmatch(count)):
            return cls(latest=int(count) if colon else 1)
        names = [name.strip() for name in text.split(",")]
        if all(NUMBER.fullmatch(name) for name in names):
            return cls(named=frozenset(names))
        raise ConfigError(f"version_policy: expected latest, latest:N, all, or numbers such as 1,3, got {text!r}")

    def choose(self, sources: Iterable[VersionSource]) -> list[VersionSource]:
        """Choose among a model's versions; the result is oldest first."""
        ordered = sorted(sources, key=lambda source: int(source.version))
        if self.named is not None:
            return [source for source in ordered if source.version in self.named]
        return ordered if self.latest is None else ordered[-self.latest :]


@dataclass(frozen=True)
class Listing:
    """What a look at a repository found.

    ``models`` are the versions by model, oldest first; one without a stamp has no model.json that can be read, and
    cannot be loaded. ``unreadable`` are models whose folders cannot be looked into, and ``ignored`` what is passed
    over, by path within the repository; both with the reason.
    """

    models: Mapping[str, tuple[VersionSource, ...]] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)
    ignored: Mapping[str, str] = field(default_factory=dict)


class Catalogue:
    """The models that a configuration names, directly (``given``) or as a repository (``folder``).

    Raises ServerError for a bad name or one given twice, ConfigError for a policy that is none.
    """

    def __init__(self, config: ServeConfig) -> None:
        self.folder = config.repository
        self.policy = Policy.parse(config.version_policy)
        self.given = parse_models(config.models)

    def given_sources(self) -> list[VersionSource]:
        """The models that are given directly, as they are now."""
        return [
            VersionSource(name=name, version=VERSION, directory=directory, stamp=stamp(directory))
            for name, directory in self.given.items()
        ]

    def scan(self) -> Listing:
        """Look at the repository; without one, nothing is found. ServerError where the folder cannot be listed."""
        if self.folder is None:
            return Listing()
        models: dict[str, tuple[VersionSource, ...]] = {}
        unreadable: dict[str, str] = {}
        ignored: dict[str, str] = {}
        try:
            paths = sorted(self.folder.iterdir())
        except OSError as error:
            raise ServerError(f"repository {self.folder}: cannot be listed: {error.strerror or error}") from error
        for path in paths:
            name = path.name
            try:
                why = self._passed_over(path)
                children = () if why else sorted(path.iterdir())
                sources = tuple(_versions(name, children, ignored))
            except FileNotFoundError:  # gone since it was listed
                continue
            except OSError as error:
                unreadable[name] = f"its folder cannot be read: {error.strerror or error}"
                continue
            if sources:
                models[name] = tuple(sorted(sources, key=lambda source: int(source.version)))
            else:
                ignored[name] = why or _why_no_model(path)
        return Listing(models, unreadable, ignored)

    def _passed_over(self, path: Path) -> str:
        """Say why something in the repository is no model's folder; nothing where it may be one."""
        if path.name.startswith("."):
            return "it is hidden"
        if not path.is_dir():
            return "it is no folder"
        if not NAME.fullmatch(path.name):
            return "a model's name has letters, digits, '.', '_' and '-', first a letter or digit"
        return TAKEN if path.name in self.given else ""


def _versions(name: str, children: Iterable[Path], ignored: dict[str, str]) -> Iterator[VersionSource]:
    for child in children:
        if not NUMBER.fullmatch(child.name):
            if not child.is_dir():  # a README, or what else lies beside the versions
                continue
            ignored[f"{name}/{child.name}"] = "a version is a whole number from 1 on, without leading zeros"
        elif not child.is_dir():
            ignored[f"{name}/{child.name}"] = "it is no folder, or a link to nowhere"
        else:
            yield VersionSource(name=name, version=child.name, directory=child, stamp=stamp(child))


def _why_no_model(path: Path) -> str:
    if stamp(path):
        return (
            f"it is a model or run directory, not a folder of versions: move it to {path.name}/1, or serve it directly"
        )
    return "it has no version folders (1, 2, ...)"


def stamp(directory: Path) -> str:
    """Return what changes when the model in a directory does; empty where there is none, or it cannot be looked at.

    It is made of the inodes, sizes and times of the files that are read, so that a copy in progress has another stamp
    at each look, and a link that points elsewhere has one at once.
    """
    for within in WITHIN:
        candidate = directory / within
        try:
            if not (candidate / CARD).is_file():
                continue
            return " ".join([within, *(_file_stamp(candidate / name) for name in STAMPED)])
        except OSError:
            return ""
    return ""


def _file_stamp(path: Path) -> str:
    try:
        status = path.stat()
    except FileNotFoundError:
        return "-"
    return f"{status.st_ino}:{status.st_size}:{status.st_mtime_ns}"


def parse_models(arguments: Iterable[str]) -> dict[str, Path]:
    """Read ``DIR`` and ``NAME=DIR`` into directories by name; ServerError on a bad name, or one given twice."""
    directories: dict[str, Path] = {}
    for argument in arguments:
        name, equals, rest = argument.partition("=")
        if not equals or Path(argument).exists() or not NAME.fullmatch(name):
            name, rest = Path(argument).resolve().name, argument
        if not NAME.fullmatch(name):
            raise ServerError(
                f"model name {name!r}: expected letters, digits, '.', '_' and '-', first a letter or digit; "
                f"choose one with NAME={rest}"
            )
        if name in directories:
            raise ServerError(f"two models are named {name!r}: {directories[name]} and {rest}; choose with NAME=DIR")
        directories[name] = Path(rest)
    return directories
