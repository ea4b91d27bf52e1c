"""Polling: models follow their repository through every kind of change. Real files, real loads."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from managed import started, tree, truncate, until

from torso.errors import ServerError, UnknownModelError
from torso.serve.models import version_policy as chooser

Publish = Callable[[Path, float], Path]


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


def test_new_versions_are_followed_however_they_are_published(
    folder: Path, poll: Any, publish: Publish, tmp_path: Path
) -> None:
    publish(folder / "a" / "1", 1)

    async def scenario() -> None:
        async with started(poll()) as served:
            publish(folder / "a" / "2", 2)
            await served.manager.reconcile()
            assert await served.answers() == {("a", "2"): 2}
            publish(tmp_path / "staged", 3).rename(folder / "a" / "3")
            await served.manager.reconcile()
            assert await served.answers() == {("a", "3"): 3}
            publish(tmp_path / "store" / "x", 4)
            (folder / "a" / "4").symlink_to(tmp_path / "store" / "x")
            await served.manager.reconcile()
            assert await served.answers() == {("a", "4"): 4}
            publish(tmp_path / "store" / "y", 5)
            (folder / "a" / ".4").symlink_to(tmp_path / "store" / "y")
            (folder / "a" / ".4").rename(folder / "a" / "4")  # the link, to another content
            await served.manager.reconcile()
            assert await served.answers() == {("a", "4"): 5}
            publish(folder / "a" / "4", 6)  # in place, as a training would
            await served.manager.reconcile()
            assert await served.answers() == {("a", "4"): 6}
            publish(folder / "b" / "1", 7)
            await served.manager.reconcile()
            assert await served.answers() == {("a", "4"): 6, ("b", "1"): 7}

    run(scenario)


def test_what_has_not_changed_is_not_loaded_again(folder: Path, poll: Any, publish: Publish) -> None:
    publish(folder / "a" / "1", 1)
    truncate(publish(folder / "b" / "1", 1))
    publish(folder / "c" / "1", 1)
    loads: list[str] = []

    def count(name: str, backend: Any) -> Any:
        loads.append(name)
        return backend

    async def scenario() -> None:
        async with started(poll(skip_broken=True), count) as served:
            model = served.models.get("a")
            publish(folder / "c" / "2", 2)
            for _ in range(3):
                await served.manager.reconcile()
            assert loads == ["a", "c", "c"]
            assert served.models.get("a") is model

    run(scenario)


def test_versions_that_are_taken_away_are_rolled_back(folder: Path, poll: Any, publish: Publish) -> None:
    for number in (1, 2, 3):
        publish(folder / "a" / str(number), number)
    publish(folder / "b" / "1", 1)

    async def scenario() -> None:
        async with started(poll(version_policy="latest:2")) as served:
            shutil.rmtree(folder / "a" / "3")
            await served.manager.reconcile()
            assert await served.answers() == {("a", "1"): 1, ("a", "2"): 2, ("b", "1"): 1}
            shutil.rmtree(folder / "a")
            await served.manager.reconcile()
            assert await served.answers() == {("b", "1"): 1}
            assert served.models.states == {"a": False, "b": True}
            with pytest.raises(UnknownModelError, match="unknown model 'a'"):
                served.models.get("a")
            publish(folder / "a" / "2", 5)
            await served.manager.reconcile()
            assert await served.answers() == {("a", "2"): 5, ("b", "1"): 1}

    run(scenario)


def test_versions_that_the_policy_does_not_name_take_no_place(folder: Path, poll: Any, publish: Publish) -> None:
    for number in (1, 2):
        publish(folder / "a" / str(number), number)

    async def scenario() -> None:
        async with started(poll(version_policy="1,3")) as served:
            assert await served.answers() == {("a", "1"): 1}
            (folder / "a" / "1").rename(folder / "a" / "4")
            await served.manager.reconcile()
            assert await served.answers() == {}
            (folder / "a" / "4").rename(folder / "a" / "3")
            await served.manager.reconcile()
            assert await served.answers() == {("a", "3"): 1}

    run(scenario)


def test_a_broken_new_version_leaves_the_old_one_serving_and_says_why(
    folder: Path, poll: Any, publish: Publish, caplog: pytest.LogCaptureFixture
) -> None:
    publish(folder / "a" / "1", 1)

    async def scenario() -> None:
        async with started(poll()) as served:
            old = served.models.get("a")
            truncate(publish(folder / "a" / "2", 2))
            caplog.clear()
            await served.manager.reconcile()
            await served.manager.reconcile()
            assert served.models.get("a") is old
            assert served.models.states == {"a": True}
            [record] = [record for record in caplog.records if record.levelno >= logging.WARNING]  # once
            assert f"model 'a' ({folder}/a/2): {folder}/a/2/weights.safetensors is truncated" in record.getMessage()
            assert record.getMessage().endswith("; the versions that serve go on")
            states = await served.states()
            assert states["a", "1"] == ("READY", "")
            assert states["a", "2"][0] == "UNAVAILABLE"
            assert states["a", "2"][1].startswith("a/2/weights.safetensors is truncated or altered")
            shutil.rmtree(folder / "a" / "1")  # it was the last good one
            await served.manager.reconcile()
            assert served.models.get("a") is old
            assert (await served.states())["a", "1"] == ("READY", "its files are gone")
            publish(folder / "a" / "2", 3)  # mended
            await served.manager.reconcile()
            assert await served.answers() == {("a", "2"): 3}
            assert await served.states() == {("a", "2"): ("READY", "")}

    run(scenario)


def test_a_broken_version_does_not_keep_others_from_serving(folder: Path, poll: Any, publish: Publish) -> None:
    for number in (1, 2):
        publish(folder / "a" / str(number), number)

    async def scenario() -> None:
        async with started(poll(version_policy="latest:2")) as served:
            truncate(publish(folder / "a" / "3", 3))
            publish(folder / "a" / "4", 4)
            await served.manager.reconcile()
            assert await served.answers() == {("a", "2"): 2, ("a", "4"): 4}

    run(scenario)


def test_new_content_that_is_broken_leaves_the_old_content_serving(folder: Path, poll: Any, publish: Publish) -> None:
    for number in (1, 2):
        publish(folder / "a" / str(number), number)

    async def scenario() -> None:
        async with started(poll(version_policy="all")) as served:
            truncate(folder / "a" / "1")
            await served.manager.reconcile()
            assert await served.answers() == {("a", "1"): 1, ("a", "2"): 2}
            state, reason = (await served.states())["a", "1"]
            assert state == "READY"
            assert "truncated" in reason
            (folder / "a" / "2" / "model.json").unlink()
            await served.manager.reconcile()
            assert await served.answers() == {("a", "1"): 1, ("a", "2"): 2}
            assert (await served.states())["a", "2"] == ("READY", "it has no model.json")
            publish(folder / "a" / "1", 7)
            await served.manager.reconcile()
            assert await served.answers() == {("a", "1"): 7, ("a", "2"): 2}

    run(scenario)


def test_a_copy_in_progress_waits_until_it_is_whole(
    folder: Path, poll: Any, publish: Publish, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publish(folder / "a" / "1", 1)
    staged = publish(tmp_path / "staged", 2)

    async def scenario() -> None:
        async with started(poll()) as served:
            caplog.clear()
            (folder / "a" / "2").mkdir()
            (folder / "b" / "1").mkdir(parents=True)
            await served.manager.reconcile()
            shutil.copy(staged / "weights.safetensors", folder / "a" / "2")
            await served.manager.reconcile()
            assert not caplog.records  # model.json is what makes a version one
            assert await served.answers() == {("a", "1"): 1}
            assert (await served.states())["a", "2"] == ("UNAVAILABLE", "it has no model.json")
            shutil.rmtree(folder / "a" / "1")  # too early, and no harm
            await served.manager.reconcile()
            assert await served.answers() == {("a", "1"): 1}
            shutil.copy(staged / "model.json", folder / "a" / "2")
            await served.manager.reconcile()
            assert await served.answers() == {("a", "2"): 2}
            # in the other order, as cp may take it
            (folder / "a" / "3").mkdir()
            shutil.copy(staged / "model.json", folder / "a" / "3")
            await served.manager.reconcile()
            assert await served.answers() == {("a", "2"): 2}
            shutil.copy(staged / "weights.safetensors", folder / "a" / "3")
            await served.manager.reconcile()
            assert await served.answers() == {("a", "3"): 2}

    run(scenario)


def test_a_fault_that_is_not_the_files_passes(
    folder: Path, poll: Any, publish: Publish, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    publish(folder / "a" / "1", 1)
    fault: list[OSError] = []

    def refuse(_name: str, backend: Any) -> Any:
        for error in fault:
            raise error
        return backend

    async def scenario() -> None:
        async with started(poll(), refuse) as served:

            async def look_later(seconds: float) -> None:
                now = asyncio.get_running_loop().time()
                with monkeypatch.context() as later:
                    later.setattr(asyncio.get_running_loop(), "time", lambda: now + seconds)
                    await served.manager.reconcile()

            caplog.clear()
            fault.append(OSError(12, "Cannot allocate memory"))
            publish(folder / "a" / "2", 2)
            await served.manager.reconcile()
            await look_later(chooser.RETRY_S)
            assert (await served.states())["a", "2"] == ("UNAVAILABLE", "Cannot allocate memory")
            assert len(caplog.records) == 1  # it is told of once
            fault.clear()
            await served.manager.reconcile()
            assert await served.answers() == {("a", "1"): 1}  # not yet
            await look_later(2 * chooser.RETRY_S)
            assert await served.answers() == {("a", "2"): 2}
            assert await served.states() == {
                ("a", "1"): ("UNAVAILABLE", "the version policy does not select it"),
                ("a", "2"): ("READY", ""),
            }

    run(scenario)


def test_our_own_faults_do_not_end_the_old_one_either(
    folder: Path, poll: Any, publish: Publish, caplog: pytest.LogCaptureFixture
) -> None:
    publish(folder / "a" / "1", 1)
    loads: list[str] = []

    def fail(name: str, backend: Any) -> Any:
        loads.append(name)
        if len(loads) > 1:
            raise ZeroDivisionError("a secret")
        return backend

    async def scenario() -> None:
        async with started(poll(), fail) as served:
            publish(folder / "a" / "2", 2)
            await served.manager.reconcile()
            assert await served.answers() == {("a", "1"): 1}
            assert (await served.states())["a", "2"] == ("UNAVAILABLE", "ZeroDivisionError; the server's log says more")
            assert any(record.exc_info for record in caplog.records)

    run(scenario)


def test_a_repository_that_cannot_be_seen_ends_nothing(
    folder: Path, poll: Any, publish: Publish, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    publish(folder / "a" / "1", 1)
    iterdir = Path.iterdir

    def refusing(path: Path) -> Any:
        if path.name == "a":
            raise OSError(116, "Stale file handle")
        return iterdir(path)

    async def scenario() -> None:
        async with started(poll(poll_s=0.01)) as served:
            folder.rename(folder.with_name("unmounted"))
            with pytest.raises(ServerError, match="cannot be listed"):
                await served.manager.reconcile()
            await until(lambda: asyncio.sleep(0, "is not followed" in caplog.text))
            assert await served.answers() == {("a", "1"): 1}
            folder.with_name("unmounted").rename(folder)
            monkeypatch.setattr(Path, "iterdir", refusing)
            await served.manager.reconcile()
            assert await served.answers() == {("a", "1"): 1}
            assert (await served.states())["a", "1"] == ("READY", "its folder cannot be read: Stale file handle")
            monkeypatch.undo()
            await served.manager.reconcile()
            assert await served.states() == {("a", "1"): ("READY", "")}

    run(scenario)


def test_polling_looks_by_itself(folder: Path, poll: Any, publish: Publish, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with started(poll(poll_s=0.01)) as served:  # an empty repository is what a first model may come to
            assert served.models.states == {}
            publish(tmp_path / "staged", 1)
            (folder / "a").mkdir()
            (tmp_path / "staged").rename(folder / "a" / "1")
            await until(lambda: asyncio.sleep(0, served.models.states == {"a": True}))
            publish(folder / "a" / "2", 2)
            await until(lambda: asyncio.sleep(0, [model.version for model in served.models.served] == ["2"]))
            shutil.rmtree(folder / "a")
            await until(lambda: asyncio.sleep(0, served.models.states == {"a": False}))
            await served.manager.close()
            publish(folder / "a" / "1", 1)
            assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]

    run(scenario)


def test_nothing_is_written_into_the_repository(folder: Path, poll: Any, publish: Publish, tmp_path: Path) -> None:
    publish(folder / "a" / "1", 1)
    truncate(publish(folder / "b" / "1", 1))
    publish(folder / "a" / "2", 2)
    for path in folder.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    folder.chmod(0o555)
    before = tree(folder)

    async def scenario() -> None:
        cache = tmp_path / "cache"
        async with started(poll(version_policy="all", skip_broken=True, backend="auto", cache_dir=cache)) as served:
            await served.manager.reconcile()
            assert await served.answers() == {("a", "1"): 1, ("a", "2"): 2}

    try:
        run(scenario)
        assert tree(folder) == before
    finally:
        for path in (folder, *folder.rglob("*")):
            if path.is_dir():
                path.chmod(0o755)
