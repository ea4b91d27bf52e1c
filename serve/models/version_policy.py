"""Which versions of a model are to serve: those that the policy wants, as far as they can be loaded."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torso.errors import ModelNotFoundError, ServerError, TorsoError
from torso.serve.models.catalogue import Policy
from torso.serve.models.control import Replica, VersionSource
from torso.serve.observability.metrics import ModelKey

logger = logging.getLogger(__name__)

RETRY_S = 60.0  # after which a version that could not be loaded is tried again, though its files are the same

Versions = dict[str, VersionSource]  # of one model, oldest first


class NotLoadedError(ServerError):
    """A version of a model cannot be loaded, or, with no source, the model. ``reason`` is for callers' eyes."""

    def __init__(self, name: str, source: VersionSource | None, error: Exception) -> None:
        where = f"model {name!r}" if source is None else f"model {name!r} ({source.directory})"
        super().__init__(f"{where}: {error}")
        self.reason = str(error) if source is None else public_reason(source, error)
        self.__cause__ = error

    def log(self, then: str) -> None:
        """Tell the log, and what happens then; where the fault is ours, how it came about."""
        ours = not isinstance(self.__cause__, TorsoError | OSError)
        logger.error("%s; %s", self, then, exc_info=self.__cause__ if ours else None)


def public_reason(source: VersionSource, error: Exception) -> str:
    """Say why a version cannot be loaded, without this machine's paths."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if not isinstance(error, TorsoError):
        return f"{type(error).__name__}; the server's log says more"
    text = str(error).replace(str(source.directory), f"{source.name}/{source.version}")
    return re.sub(r"(?<![\w.])/[^\s'\":;,]*/", ".../", text)


@dataclass(frozen=True)
class Fault:
    """Why a version could not be loaded, and from when on, on the loop's clock, it may be tried again as it is."""

    source: VersionSource
    reason: str
    retry_at: float


class Chooser:
    """Finds out what can be loaded by preparing it, and remembers what cannot.

    ``loading`` is what is being prepared now, ``faults`` what could not be loaded as it last lay there.
    """

    def __init__(self, replica: Replica) -> None:
        self.loading: set[VersionSource] = set()
        self.faults: Mapping[ModelKey, Fault] = {}
        self._replica = replica

    def forget(self, there: set[VersionSource]) -> None:
        """Forget the faults of what no longer lies there as it did."""
        self.faults = {key: fault for key, fault in self.faults.items() if fault.source in there}

    async def insist(self, there: Sequence[VersionSource], policy: Policy) -> Versions:
        """Prepare all that the policy takes of a model's versions, and return it; nobody has switched yet.

        NotLoadedError where one cannot be loaded, or there is none; nothing is prepared then.
        """
        chosen = policy.choose([source for source in there if source.stamp] or there)
        if not chosen:
            numbers = ", ".join(source.version for source in there)
            error = ModelNotFoundError(f"the version policy takes none of its versions, {numbers}")
            raise NotLoadedError(there[0].name, None, error)
        prepared: Versions = {}
        for source in chosen:
            failure = await self._prepare(source)
            if failure is not None:
                for other in prepared.values():
                    await self._replica.discard(other)
                raise failure
            prepared[source.version] = source
        return prepared

    async def settle(
        self,
        there: Sequence[VersionSource],
        policy: Policy,
        serving: Mapping[str, VersionSource],
        *,
        unpublished: bool = False,
    ) -> Versions:
        """Prepare what is new of what the policy takes, and return what is to serve; nobody has switched yet.

        What cannot be loaded gives way to what serves under that version, or else the policy takes another. Without
        ``unpublished``, a version that has no model.json is not tried.
        """
        prepared: set[VersionSource] = set()
        while True:
            chosen = policy.choose(self._candidates(there, serving, unpublished=unpublished))
            fresh = [source for source in chosen if source not in prepared and source != serving.get(source.version)]
            if not fresh:
                break
            source = fresh[-1]
            known = self.faults.get((source.name, source.version))
            failure = await self._prepare(source)
            if failure is None:
                prepared.add(source)
            elif known is None or known.reason != failure.reason:
                failure.log("what serves goes on" if serving else "it is skipped")
        if not chosen and policy.choose(there):
            return dict(serving)  # nothing that lies there can take its place yet
        return {source.version: source for source in chosen}

    def _candidates(
        self, there: Sequence[VersionSource], serving: Mapping[str, VersionSource], *, unpublished: bool
    ) -> Sequence[VersionSource]:
        now = asyncio.get_running_loop().time()
        candidates = []
        for source in there:
            fault = self.faults.get((source.name, source.version))
            if (source.stamp or unpublished) and (fault is None or now >= fault.retry_at):
                candidates.append(source)
            elif source.version in serving:
                candidates.append(serving[source.version])
        return candidates

    async def _prepare(self, source: VersionSource) -> NotLoadedError | None:
        """Prepare a version, or keep why that cannot be."""
        key = (source.name, source.version)
        self.loading.add(source)
        try:
            await self._replica.prepare(source)
        except Exception as error:  # noqa: BLE001 - whatever it was, the others go on
            failure = NotLoadedError(source.name, source, error)
            fault = Fault(source, failure.reason, asyncio.get_running_loop().time() + RETRY_S)
            self.faults = {**self.faults, key: fault}
            return failure
        finally:
            self.loading.discard(source)
        self.faults = {known: fault for known, fault in self.faults.items() if known != key}
        return None
