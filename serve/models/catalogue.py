"""Scan a model repository and select versions by policy. Nothing is loaded here, and nothing written.

A repository is a folder of ``MODEL/VERSION/`` folders, each a model or run directory. Versions are whole numbers from
1 on, without leading zeros. A version folder counts once it has a ``model.json``: that is written last, so a folder
without one is still being copied, and waits. Folders may be links; hidden ones and those of other names are ignored.

Nothing here needs torch: a supervisor, which only manages the repository, stays small.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torso.errors import ConfigError, ServerError
from torso.serve.config import ServeConfig
from torso.serve.models.control import VersionSource

VERSION = "1"  # of a directory that is configured directly
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
NUMBER = re.compile(r"[1-9][0-9]{0,17}")
CARD = "model.json"
STAMPED = (CARD, "weights.safetensors", "model.onnx")  # the files that are read of a model directory
WITHIN = (".", "best", "model")  # where a model or run directory has them, in torso.nets' order of search
TAKEN = "a model that is configured directly has this name"


@dataclass(frozen=True, kw_only=True)
class SelectionPolicy:
    """Version policy: serve a model's ``latest`` so many versions, or those ``named``, or, with neither, all."""

    latest: int | None = None
    named: frozenset[str] | None = None

    @classmethod
    def parse(cls, text: str) -> SelectionPolicy:
        """Parse ``latest``, ``latest:N``, ``all``, or versions such as ``1,3``; ConfigError for any other text."""
        if text == "all":
            return cls()
        word, colon, count = text.partition(":")
        if word == "latest" and (not colon or NUMBER.fullmatch(count)):
            return cls(latest=int(count) if colon else 1)
        names = [name.strip() for name in text.split(",")]
        if all(NUMBER.fullmatch(name) for name in names):
            return cls(named=frozenset(names))
        raise ConfigError(f"version_policy must be latest, latest:N, all, or numbers such as 1,3, got {text!r}")

    def select(self, sources: Iterable[VersionSource]) -> list[VersionSource]:
        """Select from a model's versions; the result is oldest first."""
        ordered = sorted(sources, key=lambda source: int(source.version))
        if self.named is not None:
            return [source for source in ordered if source.version in self.named]
        return ordered if self.latest is None else ordered[-self.latest :]


@dataclass(frozen=True)
class Listing:
    """Result of a repository scan.

    ``models`` are the versions by model, oldest first; one without a stamp has no model.json that can be read, and
    cannot be loaded. ``unreadable`` are models whose folders cannot be listed, and ``ignored`` all other paths within
    the repository that are no models; both map to the reason.
    """

    models: Mapping[str, tuple[VersionSource, ...]] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)
    ignored: Mapping[str, str] = field(default_factory=dict)


class Catalogue:
    """Catalogue of the models that a configuration names, directly (``direct``) or as a repository (``folder``).

    Raises ServerError for a bad name or one that is used twice, ConfigError for a policy that cannot be parsed.
    """

    def __init__(self, config: ServeConfig) -> None:
        self.folder = config.repository
        self.policy = SelectionPolicy.parse(config.version_policy)
        self.direct = parse_models(config.models)

    def direct_sources(self) -> list[VersionSource]:
        """List the models that are configured directly, with their current stamps."""
        return [
            VersionSource(name=name, version=VERSION, directory=directory, stamp=stamp(directory))
            for name, directory in self.direct.items()
        ]

    def scan(self) -> Listing:
        """Scan the repository; without one, nothing is found. ServerError where the folder cannot be listed."""
        if self.folder is None:
            return Listing()
        models: dict[str, tuple[VersionSource, ...]] = {}
        unreadable: dict[str, str] = {}
        ignored: dict[str, str] = {}
        try:
            paths = sorted(self.folder.iterdir())
        except OSError as error:
            raise ServerError(f"repository {self.folder} cannot be listed: {error.strerror or error}") from error
        for path in paths:
            name = path.name
            try:
                reason = self._ignore_reason(path)
                children = () if reason else sorted(path.iterdir())
                sources = tuple(_versions(name, children, ignored))
            except FileNotFoundError:  # removed since it was listed
                continue
            except OSError as error:
                unreadable[name] = f"its folder cannot be read: {error.strerror or error}"
                continue
            if sources:
                models[name] = tuple(sorted(sources, key=lambda source: int(source.version)))
            else:
                ignored[name] = reason or _no_model_reason(path)
        return Listing(models, unreadable, ignored)

    def _ignore_reason(self, path: Path) -> str:
        """Return why a path in the repository is no model's folder; empty where it may be one."""
        if path.name.startswith("."):
            return "it is hidden"
        if not path.is_dir():
            return "it is no folder"
        if not NAME.fullmatch(path.name):
            return "a model's name must have letters, digits, '.', '_' and '-', first a letter or digit"
        return TAKEN if path.name in self.direct else ""


def _versions(name: str, children: Iterable[Path], ignored: dict[str, str]) -> Iterator[VersionSource]:
    for child in children:
        if not NUMBER.fullmatch(child.name):
            if not child.is_dir():  # a README, or another file beside the versions
                continue
            ignored[f"{name}/{child.name}"] = "a version must be a whole number from 1 on, without leading zeros"
        elif not child.is_dir():
            ignored[f"{name}/{child.name}"] = "it is no folder, or a broken link"
        else:
            yield VersionSource(name=name, version=child.name, directory=child, stamp=stamp(child))


def _no_model_reason(path: Path) -> str:
    if stamp(path):
        return (
            f"it is a model or run directory, not a folder of versions: move it to {path.name}/1, or serve it directly"
        )
    return "it has no version folders (1, 2, ...)"


def stamp(directory: Path) -> str:
    """Return a text that changes when the model in a directory does; empty where there is none, or none to be read.

    It is made of the inodes, sizes and times of the files that are read, so that a copy in progress has another stamp
    at each scan, and a link that points elsewhere has one at once.
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
    """Parse ``DIR`` and ``NAME=DIR`` into directories by name; ServerError for a bad name, or one used twice."""
    directories: dict[str, Path] = {}
    for argument in arguments:
        name, equals, rest = argument.partition("=")
        if not equals or Path(argument).exists() or not NAME.fullmatch(name):
            name, rest = Path(argument).resolve().name, argument
        if not NAME.fullmatch(name):
            raise ServerError(
                f"model name {name!r} must have letters, digits, '.', '_' and '-', first a letter or digit; "
                f"choose one with NAME={rest}"
            )
        if name in directories:
            raise ServerError(f"two models are named {name!r}: {directories[name]} and {rest}; choose with NAME=DIR")
        directories[name] = Path(rest)
    return directories
