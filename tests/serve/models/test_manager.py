"""Model manager: models at the start, loading and unloading on demand. Real files, real loads."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from managed import Served, started, truncate, until

from torso.errors import ServerError, UnavailableError, UnknownModelError, WrongKindError

Publish = Callable[[Path, float], Path]


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


# -- the start --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "answers"),
    [
        ("latest", {("a", "10"): 10, ("b", "1"): 1}),
        ("latest:2", {("a", "9"): 9, ("a", "10"): 10, ("b", "1"): 1}),
        ("all", {("a", "2"): 2, ("a", "9"): 9, ("a", "10"): 10, ("b", "1"): 1}),
        ("1,2", {("a", "2"): 2, ("b", "1"): 1}),
    ],
)
def test_the_policy_says_which_versions_serve(
    folder: Path, settings: Any, publish: Publish, policy: str, answers: dict[tuple[str, str], float]
) -> None:
    for number in (2, 9, 10):
        publish(folder / "a" / str(number), number)
    publish(folder / "b" / "1", 1)

    async def scenario() -> None:
        async with started(settings(version_policy=policy)) as served:
            assert await served.answers() == answers
            states = await served.states()
            assert list(states) == [("a", "2"), ("a", "9"), ("a", "10"), ("b", "1")]
            for key, state in states.items():
                assert state == (
                    ("READY", "") if key in answers else ("UNAVAILABLE", "the version policy does not select it")
                )
            with pytest.raises(WrongKindError, match=r"model_control must be explicit .*, got none"):
                await served.manager.load("a")
            with pytest.raises(WrongKindError, match="model_control must be explicit"):
                await served.manager.unload("a")

    run(scenario)


def test_models_that_are_given_directly_serve_beside_a_repository(
    folder: Path, poll: Any, publish: Publish, tmp_path: Path
) -> None:
    publish(folder / "a" / "3", 3)
    direct = publish(tmp_path / "direct", 1)

    async def scenario() -> None:
        async with started(poll(direct, version_policy="3")) as served:
            assert await served.answers() == {("a", "3"): 3, ("direct", "1"): 1}
            shutil.rmtree(direct)
            await served.manager.reconcile()
            assert await served.answers() == {("a", "3"): 3, ("direct", "1"): 1}
            assert (await served.states())["direct", "1"] == ("READY", "it has no model.json")

    run(scenario)


def test_a_name_that_is_given_twice_is_refused(folder: Path, settings: Any, publish: Publish, tmp_path: Path) -> None:
    publish(folder / "a" / "1", 1)
    direct = publish(tmp_path / "a", 1)
    with pytest.raises(ServerError, match=r"two models are named 'a': .*a and one of .*repository"):
        run(lambda: started(settings(direct)).__aenter__())


def vanish(directory: Path) -> None:
    shutil.rmtree(directory)


def newer(directory: Path) -> None:
    card = json.loads((directory / "model.json").read_text())
    (directory / "model.json").write_text(json.dumps({**card, "format_version": 99}))


@pytest.mark.parametrize(
    ("breaks", "message"),
    [
        (vanish, "no model at .*broken: there is no such directory"),
        (truncate, "weights.safetensors is truncated or altered"),
        (newer, "format 99"),
    ],
)
def test_a_broken_model_is_named_or_skipped(
    folder: Path,
    settings: Any,
    publish: Publish,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    breaks: Callable[[Path], None],
    message: str,
) -> None:
    broken, good = publish(tmp_path / "broken", 1), publish(tmp_path / "good", 2)
    breaks(broken)
    with pytest.raises(ServerError, match=rf"^model 'broken' \(.*broken\): .*{message}"):
        run(lambda: started(settings(broken, good, repository=None)).__aenter__())

    async def scenario() -> None:
        async with started(settings(broken, good, repository=None, skip_broken=True)) as served:
            assert list(served.models.models) == ["good"]
            assert served.models.states == {"broken": False, "good": True}
            with pytest.raises(UnknownModelError, match="unknown model 'broken': served are good"):
                served.models.get("broken")
            state, reason = (await served.states())["broken", "1"]
            assert state == "UNAVAILABLE"
            assert str(tmp_path) not in reason

    caplog.clear()
    run(scenario)
    assert [record.levelname for record in caplog.records if "'broken'" in record.getMessage()] == ["ERROR", "ERROR"]
    with pytest.raises(ServerError, match="none of the 1 models could be loaded"):
        run(lambda: started(settings(broken, repository=None, skip_broken=True)).__aenter__())


def test_a_broken_version_at_the_start(
    folder: Path, settings: Any, publish: Publish, caplog: pytest.LogCaptureFixture
) -> None:
    publish(folder / "a" / "1", 1)
    truncate(publish(folder / "a" / "2", 2))
    with pytest.raises(ServerError, match=r"model 'a' \(.*a/2\): .* is truncated or altered"):
        run(lambda: started(settings()).__aenter__())

    async def scenario() -> None:
        async with started(settings(skip_broken=True)) as served:
            assert await served.answers() == {("a", "1"): 1}  # as it would be, had the second come while it served
            state, reason = (await served.states())["a", "2"]
            assert state == "UNAVAILABLE"
            assert reason.startswith("a/2/weights.safetensors is truncated or altered")

    run(scenario)


def test_a_version_that_is_still_being_copied_keeps_nobody_waiting(
    folder: Path, explicit: Any, publish: Publish
) -> None:
    publish(folder / "a" / "1", 1)
    (publish(folder / "a" / "2", 2) / "model.json").unlink()

    async def scenario() -> None:
        async with started(explicit(load_models=("a",))) as served:
            assert await served.answers() == {("a", "1"): 1}
            await served.manager.load("a")
            assert await served.answers() == {("a", "1"): 1}
            assert (await served.states())["a", "2"] == ("UNAVAILABLE", "it has no model.json")

    run(scenario)


def test_a_repository_without_models_is_told_of(folder: Path, settings: Any, publish: Publish, poll: Any) -> None:
    with pytest.raises(ServerError, match=r"repository .* must hold folders MODEL/VERSION, got none"):
        run(lambda: started(settings()).__aenter__())
    publish(folder / "a", 1)
    with pytest.raises(ServerError, match=r"got a: it is a model or run directory, .*: move it to a/1, or serve it"):
        run(lambda: started(settings()).__aenter__())
    (folder / "a").rename(folder.parent / "a")
    publish(folder / "b" / "2", 2)
    with pytest.raises(ServerError, match="model 'b': the version policy selects none of its versions, 2"):
        run(lambda: started(settings(version_policy="1,3")).__aenter__())
    (folder / "b" / "2" / "model.json").unlink()
    with pytest.raises(ServerError, match=r"model 'b' \(.*b/2\): no model in .*b/2: model.json must be in it"):
        run(lambda: started(settings()).__aenter__())
    shutil.rmtree(folder)
    with pytest.raises(ServerError, match=r"repository .* cannot be listed: No such file or directory"):
        run(lambda: started(poll()).__aenter__())


def test_models_are_loading_until_all_are_loaded(folder: Path, settings: Any, publish: Publish) -> None:
    publish(folder / "a" / "1", 1)
    publish(folder / "b" / "1", 1)
    go = {"a": threading.Event(), "b": threading.Event()}

    def slow(name: str, backend: Any) -> Any:
        assert go[name].wait(30)
        return backend

    async def scenario() -> None:
        served = Served(settings(), slow)
        starting = asyncio.create_task(served.manager.start())
        go["a"].set()
        try:
            await until(lambda: asyncio.sleep(0, "b" in served.models.names))  # the second is being loaded
            for name in ("a", "b"):
                with pytest.raises(UnavailableError, match="is loading"):
                    served.models.get(name)
            assert await served.states() == {("a", "1"): ("LOADING", ""), ("b", "1"): ("LOADING", "")}
        finally:
            go["b"].set()
        await starting
        assert await served.answers() == {("a", "1"): 1, ("b", "1"): 1}
        assert await served.states() == {("a", "1"): ("READY", ""), ("b", "1"): ("READY", "")}
        served.models.close()

    run(scenario)


# -- on demand --------------------------------------------------------------------------------------------------------


def test_models_are_loaded_and_unloaded_on_demand(folder: Path, explicit: Any, publish: Publish) -> None:
    for name, number in (("a", 1), ("a", 2), ("b", 1)):
        publish(folder / name / str(number), number)

    async def scenario() -> None:
        async with started(explicit(load_models=("b",))) as served:
            assert await served.answers() == {("b", "1"): 1}
            assert (await served.states())["a", "2"] == ("UNAVAILABLE", "it is not loaded")
            await served.manager.load("a")
            assert await served.answers() == {("a", "2"): 2, ("b", "1"): 1}
            publish(folder / "a" / "3", 3)
            assert (await served.states())["a", "3"] == ("UNAVAILABLE", "the version policy does not select it")
            assert await served.answers() == {("a", "2"): 2, ("b", "1"): 1}
            await served.manager.load("a")
            assert await served.answers() == {("a", "3"): 3, ("b", "1"): 1}
            await served.manager.unload("a")
            await served.manager.unload("a")  # again: nothing happens
            assert await served.answers() == {("b", "1"): 1}
            assert served.models.states == {"a": False, "b": True}
            shutil.rmtree(folder / "b")
            assert await served.answers() == {("b", "1"): 1}
            await served.manager.unload("b")
            assert await served.answers() == {}
            await served.manager.load("a")
            assert await served.answers() == {("a", "3"): 3}

    run(scenario)


def test_loading_on_demand_is_loading_anew(folder: Path, explicit: Any, publish: Publish) -> None:
    publish(folder / "a" / "1", 1)

    async def scenario() -> None:
        async with started(explicit(load_models=("a",))) as served:
            first = served.models.get("a")
            await served.manager.load("a")
            assert served.models.get("a") is not first
            assert await served.answers() == {("a", "1"): 1}

    run(scenario)


def test_what_cannot_be_loaded_on_demand_says_why(folder: Path, explicit: Any, publish: Publish) -> None:
    publish(folder / "a" / "1", 1)
    publish(folder / "b" / "1", 1)

    async def scenario() -> None:
        async with started(explicit(load_models=("a",), version_policy="all")) as served:
            old = served.models.get("a")
            publish(folder / "a" / "2", 2)
            truncate(publish(folder / "a" / "3", 3))
            with pytest.raises(
                WrongKindError, match=r"'a' cannot be loaded, the versions that served before still do: a/3/w.*trun"
            ) as e:
                await served.manager.load("a")
            assert str(folder) not in str(e.value)
            assert served.models.get("a") is old
            assert [model.version for model in served.models.served] == ["1"]  # not the half of it
            assert not served.models._prepared
            truncate(folder / "b" / "1")
            with pytest.raises(WrongKindError, match=r"b/1/weights\.safetensors is truncated"):
                await served.manager.load("b")
            assert (await served.states())["b", "1"][0] == "UNAVAILABLE"
            shutil.rmtree(folder)
            with pytest.raises(UnavailableError, match="the repository cannot be listed"):
                await served.manager.load("a")
            assert served.models.get("a") is old
            assert (await served.states())["a", "1"][0] == "READY"

    run(scenario)


@pytest.mark.parametrize(
    "name", ["", "..", "../outside", "a/1", "/", "a/../../outside", "x" * 10_000, "\N{SNOWMAN}", "a\0", ".hidden"]
)
def test_names_cannot_reach_outside_the_repository(
    folder: Path, explicit: Any, publish: Publish, tmp_path: Path, name: str
) -> None:
    publish(folder / "a" / "1", 1)
    publish(folder / ".hidden" / "1", 1)
    publish(tmp_path / "outside" / "1", 1)

    async def scenario() -> None:
        async with started(explicit()) as served:
            for change in (served.manager.load, served.manager.unload):
                with pytest.raises(UnknownModelError, match="unknown model") as caught:
                    await change(name)
                assert len(str(caught.value)) < 700
            assert await served.answers() == {}

    run(scenario)


def test_a_model_that_is_to_be_loaded_at_first_must_be_there(folder: Path, explicit: Any, publish: Publish) -> None:
    publish(folder / "a" / "1", 1)
    with pytest.raises(ServerError, match="unknown model 'nope': the repository has none of that name"):
        run(lambda: started(explicit(load_models=("a", "nope"))).__aenter__())

    async def scenario() -> None:
        async with started(explicit(load_models=("a", "nope"), skip_broken=True)) as served:
            assert await served.answers() == {("a", "1"): 1}

    run(scenario)


def test_a_load_is_made_as_a_whole_though_its_caller_goes_away(folder: Path, explicit: Any, publish: Publish) -> None:
    publish(folder / "a" / "1", 1)
    go, entered, loads = threading.Event(), threading.Event(), []

    def slow(name: str, backend: Any) -> Any:
        entered.set()
        assert go.wait(30)
        loads.append(name)
        return backend

    async def scenario() -> None:
        async with started(explicit(), slow) as served:
            loading = asyncio.create_task(served.manager.load("a"))
            assert await asyncio.to_thread(entered.wait, 30)
            assert (await served.states())["a", "1"] == ("LOADING", "")
            with pytest.raises(UnavailableError, match="'a' is loading"):
                served.models.get("a")
            loading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await loading
            again = asyncio.create_task(served.manager.load("a"))  # waits for its turn
            unloading = asyncio.create_task(served.manager.unload("a"))
            await asyncio.sleep(0)
            again.cancel()
            go.set()
            await unloading
            assert loads == ["a", "a"]  # both were made
            assert await served.answers() == {}

    run(scenario)
