"""Selection of the versions of a model that serve: those of the version policy, as far as they can be loaded."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torso.errors import ModelNotFoundError, ServerError, TorsoError
from torso.serve.models.catalogue import SelectionPolicy
from torso.serve.models.control import Replica, VersionSource
from torso.serve.observability.metrics import ModelKey

logger = logging.getLogger(__name__)

RETRY_S = 60.0  # after which a version that could not be loaded is tried again, though its files are the same

Versions = dict[str, VersionSource]  # of one model, oldest first


class NotLoadedError(ServerError):
    """Error of a version, or, without a source, a model, that cannot be loaded. ``reason`` may be shown to callers."""

    def __init__(self, name: str, source: VersionSource | None, error: Exception) -> None:
        where = f"model {name!r}" if source is None else f"model {name!r} ({source.directory})"
        super().__init__(f"{where}: {error}")
        self.reason = str(error) if source is None else public_reason(source, error)
        self.__cause__ = error

    def log(self, then: str) -> None:
        """Log the error and its consequence ``then``, with a traceback where the error is unexpected."""
        unexpected = not isinstance(self.__cause__, TorsoError | OSError)
        logger.error("%s; %s", self, then, exc_info=self.__cause__ if unexpected else None)


def public_reason(source: VersionSource, error: Exception) -> str:
    """Return why a version cannot be loaded, without this machine's paths."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if not isinstance(error, TorsoError):
        return f"{type(error).__name__}; the server's log says more"
    text = str(error).replace(str(source.directory), f"{source.name}/{source.version}")
    return re.sub(r"(?<![\w.])/[^\s'\":;,]*/", ".../", text)


@dataclass(frozen=True)
class Fault:
    """Failed load of a version: the reason, and when, on the loop's clock, the same files may be tried again."""

    source: VersionSource
    reason: str
    retry_at: float


class VersionSelector:
    """Select the versions that serve by preparing them on the replica, and remember those that cannot be loaded.

    ``loading`` are the versions that are being prepared, ``faults`` those whose current files could not be loaded.
    """

    def __init__(self, replica: Replica) -> None:
        self.loading: set[VersionSource] = set()
        self.faults: Mapping[ModelKey, Fault] = {}
        self._replica = replica

    def forget(self, available: set[VersionSource]) -> None:
        """Drop the faults of versions whose files have changed or are gone."""
        self.faults = {key: fault for key, fault in self.faults.items() if fault.source in available}

    async def prepare_all(self, available: Sequence[VersionSource], policy: SelectionPolicy) -> Versions:
        """Prepare all of a model's versions that the policy selects, or none; return them, not yet switched to.

        NotLoadedError where one cannot be loaded, or the policy selects none; nothing is prepared then.
        """
        selected = policy.select([source for source in available if source.stamp] or available)
        if not selected:
            numbers = ", ".join(source.version for source in available)
            error = ModelNotFoundError(f"the version policy selects none of its versions, {numbers}")
            raise NotLoadedError(available[0].name, None, error)
        prepared: Versions = {}
        for source in selected:
            failure = await self._prepare(source)
            if failure is not None:
                for other in prepared.values():
                    await self._replica.discard(other)
                raise failure
            prepared[source.version] = source
        return prepared

    async def prepare_loadable(
        self,
        available: Sequence[VersionSource],
        policy: SelectionPolicy,
        serving: Mapping[str, VersionSource],
        *,
        unpublished: bool = False,
    ) -> Versions:
        """Prepare new versions that the policy selects, skipping those that cannot be loaded; return what is to serve.

        Nothing is switched to yet. Where a version cannot be loaded, its older content goes on serving; where there is
        none, the policy selects another version. Without ``unpublished``, a version without a model.json is not tried.
        """
        prepared: set[VersionSource] = set()
        while True:
            selected = policy.select(self._candidates(available, serving, unpublished=unpublished))
            fresh = [source for source in selected if source not in prepared and source != serving.get(source.version)]
            if not fresh:
                break
            source = fresh[-1]
            known = self.faults.get((source.name, source.version))
            failure = await self._prepare(source)
            if failure is None:
                prepared.add(source)
            elif known is None or known.reason != failure.reason:
                failure.log("the versions that serve go on" if serving else "it is skipped")
        if not selected and policy.select(available):
            return dict(serving)  # nothing on disk can replace it yet
        return {source.version: source for source in selected}

    def _candidates(
        self, available: Sequence[VersionSource], serving: Mapping[str, VersionSource], *, unpublished: bool
    ) -> Sequence[VersionSource]:
        now = asyncio.get_running_loop().time()
        candidates = []
        for source in available:
            fault = self.faults.get((source.name, source.version))
            if (source.stamp or unpublished) and (fault is None or now >= fault.retry_at):
                candidates.append(source)
            elif source.version in serving:
                candidates.append(serving[source.version])
        return candidates

    async def _prepare(self, source: VersionSource) -> NotLoadedError | None:
        """Prepare a version; where that fails, record and return the failure."""
        key = (source.name, source.version)
        self.loading.add(source)
        try:
            await self._replica.prepare(source)
        except Exception as error:  # noqa: BLE001 - any failure of one version leaves the others serving
            failure = NotLoadedError(source.name, source, error)
            fault = Fault(source, failure.reason, asyncio.get_running_loop().time() + RETRY_S)
            self.faults = {**self.faults, key: fault}
            return failure
        finally:
            self.loading.discard(source)
        self.faults = {known: fault for known, fault in self.faults.items() if known != key}
        return None
