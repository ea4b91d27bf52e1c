"""Repository of one process' models: prepare, switch, lookup, closing once nothing refers to them."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from torso.errors import (
    ModelDamagedError,
    ModelError,
    ModelNotFoundError,
    ServerError,
    TorsoError,
    UnavailableError,
    UnknownModelError,
    WrongKindError,
)
from torso.serve import ServeConfig
from torso.serve.inference.batcher import Batcher
from torso.serve.models.control import VersionSource
from torso.serve.models.repository import Repository
from torso.serve.models.served_model import ServedModel
from torso.serve.observability.metrics import Metrics

Publish = Callable[[Path, float], Path]


@pytest.fixture
def source(publish: Publish, tmp_path: Path) -> Callable[..., VersionSource]:
    """``source(version, name)`` publishes a policy that answers its version."""

    def make(version: int, name: str = "m", answer: float | None = None) -> VersionSource:
        directory = publish(tmp_path / name / str(version), version if answer is None else answer)
        return VersionSource(name=name, version=str(version), directory=directory)

    return make


def repository(**settings: Any) -> Repository:
    return Repository(ServeConfig(models=("m",), backend="torch", **settings), Metrics())


async def answer(model: ServedModel) -> float:
    with model.batcher.admit(1, "observations") as admission:
        readout = await model.batcher.submit(np.zeros((1, 4), dtype=np.float32), admission)
    return float(readout[0, 0])


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def test_what_is_prepared_serves_once_it_is_switched_to(source: Callable[..., VersionSource]) -> None:
    async def scenario() -> None:
        models, one, two, other = repository(), source(1), source(2), source(7, "n")
        await models.prepare(one)
        with pytest.raises(UnavailableError, match="'m' is loading") as caught:
            models.get("m")
        assert caught.value.retry_after_s is not None
        await models.switch([one])
        assert await answer(models.get("m")) == 1
        await models.prepare(two)
        await models.prepare(other)
        assert models.get("m").version == "1"
        with pytest.raises(UnavailableError, match="'n' is loading"):
            models.get("n")
        await models.switch([two, other])
        assert await answer(models.get("m")) == 2
        assert await answer(models.get("n")) == 7
        with pytest.raises(UnknownModelError, match="unknown version '1' of model 'm': it has '2'"):
            models.get("m", "1")
        models.close()

    asyncio.run(scenario())


def test_versions_serve_side_by_side_and_the_newest_is_what_is_meant(source: Callable[..., VersionSource]) -> None:
    async def scenario() -> None:
        models, versions = repository(), [source(number) for number in (10, 9, 2)]
        for version in versions:
            await models.prepare(version)
        await models.switch(versions)
        assert models.get("m").version == "10"
        assert [await answer(models.get("m", version)) for version in ("2", "9", "10")] == [2, 9, 10]
        assert [model.version for model in models.served] == ["2", "9", "10"]
        assert {name: model.version for name, model in models.models.items()} == {"m": "10"}
        with pytest.raises(UnknownModelError, match="it has '2' and '9' and '10'"):
            models.get("m", "3")
        await models.switch(versions[1:])
        assert models.get("m").version == "9"
        models.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("name", ["", "../m", "/etc/passwd", "m/1", "m\0", "x" * 10_000, "m\N{SNOWMAN}", "..", "M"])
def test_any_name_may_be_asked_for(source: Callable[..., VersionSource], name: str) -> None:
    async def scenario() -> None:
        models, one = repository(), source(1)
        with pytest.raises(UnavailableError, match="is loading"):  # nobody knows yet which names there will be
            models.get(name)
        await models.prepare(one)
        await models.switch([one])
        with pytest.raises(UnknownModelError, match=r"served are m$") as caught:
            models.get(name)
        assert len(str(caught.value)) < 600
        with pytest.raises(UnknownModelError, match="unknown version") as caught:
            models.get("m", name or "..")
        assert len(str(caught.value)) < 600
        models.close()

    asyncio.run(scenario())


def test_models_have_kinds(models: Any) -> None:
    async def scenario() -> None:
        digits = VersionSource(name="digits", version="1", directory=models.digits)
        served = repository()
        await served.prepare(digits)
        await served.switch([digits])
        assert served.get("digits").require("classifier") is served.get("digits", "1")
        with pytest.raises(WrongKindError, match="'digits' is a classifier, not a policy; use Classify"):
            served.get("digits").require("policy")
        served.close()

    asyncio.run(scenario())


def missing(directory: Path) -> None:
    shutil.rmtree(directory)


def truncated(directory: Path) -> None:
    weights = directory / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])


def newer(directory: Path) -> None:
    card = json.loads((directory / "model.json").read_text())
    (directory / "model.json").write_text(json.dumps({**card, "format_version": 99}))


@pytest.mark.parametrize(
    ("breaks", "error", "message"),
    [
        (missing, ModelNotFoundError, "no such directory"),
        (truncated, ModelDamagedError, "weights.safetensors is truncated or altered"),
        (newer, ModelError, "format 99"),
    ],
)
def test_what_cannot_be_loaded_changes_nothing(
    source: Callable[..., VersionSource], breaks: Callable[[Path], None], error: type[TorsoError], message: str
) -> None:
    async def scenario() -> None:
        models, one, two = repository(), source(1), source(2)
        await models.prepare(one)
        await models.switch([one])
        breaks(two.directory)
        with pytest.raises(error, match=message):
            await models.prepare(two)
        assert models.states == {"m": True}
        with pytest.raises(UnknownModelError, match="unknown version '2'"):
            models.get("m", "2")
        assert await answer(models.get("m")) == 1
        models.close()

    asyncio.run(scenario())


def test_what_serves_lives_without_its_files(source: Callable[..., VersionSource]) -> None:
    async def scenario() -> None:
        models, one = repository(), source(1)
        await models.prepare(one)
        await models.switch([one])
        shutil.rmtree(one.directory)
        assert await answer(models.get("m")) == 1
        models.close()

    asyncio.run(scenario())


def test_a_version_is_replaced_by_itself_anew(source: Callable[..., VersionSource], publish: Publish) -> None:
    async def scenario() -> None:
        models, one = repository(), source(1)
        await models.prepare(one)
        await models.switch([one])
        publish(one.directory, 5)
        await models.prepare(one)
        assert await answer(models.get("m")) == 1
        await models.switch([one])
        assert await answer(models.get("m")) == 5
        await models.switch([one])  # nothing was prepared: it goes on
        assert await answer(models.get("m")) == 5
        models.close()

    asyncio.run(scenario())


def test_what_is_discarded_is_not_switched_to(source: Callable[..., VersionSource], publish: Publish) -> None:
    async def scenario() -> None:
        models, one = repository(), source(1)
        await models.prepare(one)
        await models.switch([one])
        publish(one.directory, 5)
        await models.prepare(one)
        await models.discard(one)
        await models.discard(one)  # again: nothing happens
        await models.switch([one])
        assert await answer(models.get("m")) == 1
        models.close()

    asyncio.run(scenario())


def test_what_should_serve_and_is_not_here_is_unavailable(source: Callable[..., VersionSource]) -> None:
    async def scenario() -> None:
        models, one, two = repository(), source(1), source(2)
        await models.prepare(one)
        await models.switch([one, two])
        assert models.get("m").version == "1"
        with pytest.raises(UnavailableError, match="'m' could not be loaded here"):
            models.get("m", "2")
        await models.switch([two])
        with pytest.raises(UnavailableError, match="'m' could not be loaded here"):
            models.get("m")
        assert models.states == {"m": False}
        await models.switch([])
        with pytest.raises(UnknownModelError):
            models.get("m")
        models.close()

    asyncio.run(scenario())


def test_states_are_told_as_they_change(source: Callable[..., VersionSource]) -> None:
    async def scenario() -> None:
        told: list[Mapping[str, bool]] = []
        models, one, other = repository(), source(1), source(1, "n")
        models.on_change = told.append
        assert models.states == {"m": False}
        await models.prepare(one)
        await models.switch([one])
        await models.prepare(other)
        await models.switch([one, other])
        await models.switch([other])
        assert told == [
            {"m": True},
            {"m": True, "n": False},
            {"m": True, "n": True},
            {"m": False, "n": True},
        ]
        models.close()

    asyncio.run(scenario())


def test_an_old_model_is_closed_once_nobody_holds_it(source: Callable[..., VersionSource], monkeypatch: Any) -> None:
    closed = []

    async def scenario() -> None:
        models, one, two = repository(), source(1), source(2)
        await models.prepare(one)
        await models.switch([one])
        held = models.get("m")
        batcher, close = held.batcher, held.batcher.close
        monkeypatch.setattr(batcher, "close", lambda: (closed.append("1"), close()), raising=False)
        await models.prepare(two)
        await models.switch([two])
        for _ in range(10):
            await asyncio.sleep(0)
        assert await answer(held) == 1  # a request, or a stream, that has it may go on for as long as it likes
        assert not closed
        admission = batcher.admit(1, "observations")
        del held
        for _ in range(10):
            await asyncio.sleep(0)
        assert not closed  # a request is still on its way through it
        with admission:
            pass
        await until(lambda: bool(closed))
        with pytest.raises(UnavailableError):
            batcher.admit(1, "observations")
        assert await answer(models.get("m")) == 2
        models.close()

    asyncio.run(scenario())


def test_closing_closes_all(source: Callable[..., VersionSource]) -> None:
    async def scenario() -> None:
        models, one, two, three = repository(), source(1), source(2), source(3)
        held = []
        for version in (one, two):
            await models.prepare(version)
            await models.switch([version])
            held.append(models.get("m"))
        await models.prepare(three)
        held.append(models._prepared["m", "3"])
        models.close()
        for model in held:
            with pytest.raises(UnavailableError):
                model.batcher.admit(1, "observations")
        with pytest.raises(ServerError, match="shutting down"):
            await models.prepare(one)
        models.close()  # again: nothing happens

    asyncio.run(scenario())


def test_a_load_that_nobody_waits_for_any_more_is_closed(
    source: Callable[..., VersionSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    go, closed, close = threading.Event(), [], Batcher.close
    monkeypatch.setattr(Batcher, "close", lambda batcher: (close(batcher), closed.append(batcher)))

    def slow(_name: str, backend: Any) -> Any:
        assert go.wait(30)
        return backend

    async def scenario() -> None:
        models, one = Repository(ServeConfig(models=("m",), backend="torch"), Metrics(), slow), source(1)
        loading = asyncio.create_task(models.prepare(one))
        await asyncio.sleep(0)
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading
        go.set()
        await until(lambda: len(closed) == 1)
        await models.switch([one])
        with pytest.raises(UnavailableError, match="could not be loaded here"):
            models.get("m")
        models.close()

    asyncio.run(scenario())


def test_a_run_directory_serves_its_best_model(publish: Publish, tmp_path: Path) -> None:
    async def scenario() -> None:
        publish(tmp_path / "run" / "model", 1)
        publish(tmp_path / "run" / "best", 2)
        models, run = repository(), VersionSource(name="run", version="1", directory=tmp_path / "run")
        await models.prepare(run)
        await models.switch([run])
        assert models.get("run").directory == tmp_path / "run" / "best"
        assert await answer(models.get("run")) == 2
        models.close()

    asyncio.run(scenario())
