"""Hot swap under load on a real server: no request fails, and none is answered by the wrong version.

Every version of these models answers its own number, so an answer says which model computed it.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import json_format
from managed import truncate, until

from torso.errors import UnknownModelError
from torso.proto import oip_pb2
from torso.serve import AsyncClient, ServeConfig, Server, create_server
from torso.serve.workers.supervisor import Supervisor

Publish = Callable[[Path, float], Path]

OBSERVATION = np.zeros((1, 4), dtype=np.float32)
CLIENTS = 6


@pytest.fixture
def serving(folder: Path) -> Callable[..., ServeConfig]:
    def make(**others: Any) -> ServeConfig:
        return ServeConfig(
            **{
                **{"repository": folder, "port": 0, "backend": "torch", "drain_s": 0.0, "finish_s": 10.0},
                **{"model_control": "poll", "poll_s": 0.01},
                **others,
            }
        )

    return make


class Asking:
    """Clients that send requests without pause, and record which version answered."""

    def __init__(self, address: str) -> None:
        self.answered: Counter[str] = Counter()  # by version
        self.stopped = False
        self._address = address

    async def ask(self) -> None:
        async with AsyncClient(self._address) as client:
            while not self.stopped:
                result = await client.act("m", OBSERVATION)
                assert result.values[0, 0] == float(result.version), result
                self.answered[result.version] += 1

    async def play(self) -> None:
        """Send requests through one stream, which goes from version to version."""
        async with AsyncClient(self._address) as client, client.act_stream("m") as stream:
            step = await stream.act(OBSERVATION[0], start=True)
            while not self.stopped:
                assert step.values[0] == float(step.version), step
                self.answered[step.version] += 1
                step = await stream.act(OBSERVATION[0])

    async def answers_of(self, version: str) -> None:
        """Return once a version has answered; what fails meanwhile fails the test."""
        while not self.answered[version]:
            for task in self._tasks:
                if task.done():
                    task.result()
            await asyncio.sleep(0.001)

    async def __aenter__(self) -> Asking:
        self._tasks = [asyncio.create_task(ask()) for ask in (*[self.ask] * CLIENTS, self.play)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stopped = True
        await asyncio.gather(*self._tasks)


async def states(server: Server) -> dict[str, tuple[str, str]]:
    return {line.version: (line.state, line.reason) for line in await server.control.index() if line.name == "m"}


@pytest.mark.parametrize(
    ("swaps", "settings"),
    [
        (20, {}),
        (10, {"max_delay_us": 2000}),
        (3, {"backend": "auto"}),
    ],  # auto exports each version
)
def test_versions_are_swapped_under_load(
    folder: Path, serving: Any, publish: Publish, tmp_path: Path, swaps: int, settings: dict[str, Any]
) -> None:
    publish(folder / "m" / "1", 1)

    async def scenario() -> None:
        config = serving(cache_dir=tmp_path / "cache", **settings)
        async with await create_server(config) as server, Asking(server.address) as asking:
            await asking.answers_of("1")
            for number in range(2, 2 + swaps):
                publish(tmp_path / "staged", number).rename(folder / "m" / str(number))
                await asking.answers_of(str(number))
                if number % 3 == 0:
                    shutil.rmtree(folder / "m" / str(number))  # and back again
                    asking.answered.clear()
                    await asking.answers_of(str(number - 1))

    asyncio.run(scenario())


def test_old_versions_are_let_go_under_load(folder: Path, serving: Any, publish: Publish) -> None:
    publish(folder / "m" / "1", 1)

    async def scenario() -> None:
        async with await create_server(serving()) as server, Asking(server.address) as asking:
            await asking.answers_of("1")
            for number in range(2, 12):
                publish(folder / "m" / str(number), number)
                await asking.answers_of(str(number))
            await until(lambda: asyncio.sleep(0, not server.repository._retired))

    asyncio.run(scenario())


def test_several_workers_swap_as_one(folder: Path, serving: Any, publish: Publish) -> None:
    publish(folder / "m" / "1", 1)

    async def scenario() -> None:
        supervisor = Supervisor(serving(workers=2, model_control="explicit", load_models=("m",)))
        try:
            await supervisor.start()
            await supervisor.load()
            async with Asking(supervisor.address) as asking, v2(supervisor.address) as call:
                await asking.answers_of("1")
                for number in (2, 3):
                    publish(folder / "m" / str(number), number)
                    await call("RepositoryModelLoad", model_name="m")
                    for _ in range(8):  # connections, so that each worker has some
                        async with AsyncClient(supervisor.address) as client:
                            assert (await client.act("m", OBSERVATION)).version == str(number)
                truncate(publish(folder / "m" / "4", 4))
                with pytest.raises(grpc.aio.AioRpcError, match=r"m/4/weights\.safetensors is truncated"):
                    await call("RepositoryModelLoad", model_name="m")
                asking.answered.clear()
                await asking.answers_of("3")
        finally:
            await supervisor.stop()

    asyncio.run(scenario())


def test_broken_versions_never_serve_and_never_hurt(
    folder: Path, serving: Any, publish: Publish, tmp_path: Path
) -> None:
    publish(folder / "m" / "1", 1)

    async def scenario() -> None:
        async with await create_server(serving()) as server, Asking(server.address) as asking:
            truncate(publish(tmp_path / "staged", 2))
            (tmp_path / "staged").rename(folder / "m" / "2")
            await until(lambda: has_reason(server, "2"))
            state, reason = (await states(server))["2"]
            assert (state, reason.startswith("m/2/weights.safetensors is truncated")) == ("UNAVAILABLE", True)
            assert str(tmp_path) not in reason
            asking.answered.clear()
            await asking.answers_of("1")
            publish(folder / "m" / "2", 2)
            await asking.answers_of("2")
            assert (await states(server))["2"] == ("READY", "")

    asyncio.run(scenario())


async def has_reason(server: Server, version: str) -> bool:
    return (await states(server)).get(version, ("", ""))[1] not in ("", "it has no model.json")


def empty(directory: Path) -> None:
    for path in directory.iterdir():
        path.unlink()


def garble(directory: Path) -> None:
    (directory / "model.json").write_text("{")


def replace_by_a_file(directory: Path) -> None:
    directory.rename(directory.with_name("old"))
    directory.write_text("")


def link_to_nowhere(directory: Path) -> None:
    directory.rename(directory.with_name("old"))
    directory.symlink_to(directory.with_name("nowhere"))


@pytest.mark.parametrize("break_it", [empty, truncate, garble])
@pytest.mark.parametrize("control", ["none", "poll", "explicit"])
def test_what_serves_lives_on_when_its_directory_breaks(
    folder: Path, serving: Any, publish: Publish, break_it: Callable[[Path], None], control: str
) -> None:
    publish(folder / "m" / "1", 1)
    first = {"load_models": ("m",)} if control == "explicit" else {}

    async def scenario() -> None:
        config = serving(model_control=control, **first)
        async with await create_server(config) as server, Asking(server.address) as asking:
            await asking.answers_of("1")
            break_it(folder / "m" / "1")
            if control == "poll":
                await until(lambda: is_told(server))
            asking.answered.clear()
            await asking.answers_of("1")
            async with AsyncClient(server.address) as client:
                assert await client.healthy("m")

    asyncio.run(scenario())


async def is_told(server: Server) -> bool:
    return (await states(server))["1"][1] != ""


@pytest.mark.parametrize("take_away", [shutil.rmtree, replace_by_a_file, link_to_nowhere])
def test_a_model_that_is_taken_away_is_unknown(
    folder: Path, serving: Any, publish: Publish, take_away: Callable[[Path], None]
) -> None:
    publish(folder / "m" / "1", 1)
    publish(folder / "n" / "1", 1)

    async def scenario() -> None:
        async with await create_server(serving()) as server, AsyncClient(server.address) as client:
            assert await client.healthy("m")
            take_away(folder / "m" / "1")
            await until(lambda: asyncio.sleep(0, not server.repository.states["m"]))
            with pytest.raises(UnknownModelError, match="unknown model 'm': served are n"):
                await client.act("m", OBSERVATION)
            await until(lambda: unhealthy(client))
            assert await client.healthy()
            assert (await client.act("n", OBSERVATION)).version == "1"

    asyncio.run(scenario())


async def unhealthy(client: AsyncClient) -> bool:
    return not await client.healthy("m")


@contextlib.asynccontextmanager
async def v2(address: str) -> AsyncIterator[Callable[..., Any]]:
    """Call V2's methods by name."""
    async with grpc.aio.insecure_channel(address) as channel:

        async def call(method: str, **fields: Any) -> Any:
            request, response = (getattr(oip_pb2, f"{method}{kind}") for kind in ("Request", "Response"))
            ask = channel.unary_unary(
                f"/inference.GRPCInferenceService/{method}",
                request_serializer=request.SerializeToString,
                response_deserializer=response.FromString,
            )
            return json_format.MessageToDict(await ask(request(**fields)), preserving_proto_field_name=True)

        yield call


def test_admins_load_and_unload_under_load(folder: Path, serving: Any, publish: Publish) -> None:
    publish(folder / "m" / "1", 1)
    publish(folder / "n" / "1", 1)

    async def scenario() -> None:
        config = serving(model_control="explicit", load_models=("m",))
        async with (
            await create_server(config) as server,
            Asking(server.address) as asking,
            v2(server.address) as call,
            AsyncClient(server.address) as client,
        ):
            for number in range(2, 6):
                publish(folder / "m" / str(number), number)
                await call("RepositoryModelLoad", model_name="m")
                assert (await client.act("m", OBSERVATION)).version == str(number)  # when it returns, it serves
                asking.answered.clear()
                await asking.answers_of(str(number))
            await call("RepositoryModelLoad", model_name="n")
            assert (await client.act("n", OBSERVATION)).version == "1"
            await call("RepositoryModelUnload", model_name="n")
            with pytest.raises(UnknownModelError):
                await client.act("n", OBSERVATION)
            lines = (await call("RepositoryIndex"))["models"]
            assert [(line["name"], line["version"], line["state"]) for line in lines] == [
                *(("m", str(number), "UNAVAILABLE") for number in range(1, 5)),
                ("m", "5", "READY"),
                ("n", "1", "UNAVAILABLE"),
            ]
            truncate(publish(folder / "m" / "6", 6))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call("RepositoryModelLoad", model_name="m")
            assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert "m/6/weights.safetensors is truncated" in caught.value.details()
            assert str(folder) not in caught.value.details()
            asking.answered.clear()
            await asking.answers_of("5")
            for name in ("../m", "", "m/1", "x" * 10_000, "\N{SNOWMAN}"):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call("RepositoryModelLoad", model_name=name)
                assert caught.value.code() is grpc.StatusCode.NOT_FOUND

    asyncio.run(scenario())
