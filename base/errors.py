"""Exception hierarchy: every error that torso raises on purpose.

The tree::

    TorsoError
    ├── ConfigError (ValueError)        a setting, or a combination of settings, that cannot work
    │   └── SpecError                   a network that cannot be built as described
    ├── InputError (ValueError)         an observation, feature row or image that does not fit the model
    ├── MissingExtraError (ImportError)  a package that only an extra of torso installs
    ├── EnvError                        an environment that is unknown or that torso cannot use
    ├── DatasetError                    a data set that is unknown, missing or damaged
    ├── ModelError                      a model directory
    │   ├── ModelNotFoundError          not there, or a file of it is missing
    │   ├── ModelDamagedError           truncated, altered, or not what model.json says
    │   └── ModelFormatError            written by a newer torso
    ├── RunError                        a run directory that cannot be used as requested
    │   └── CheckpointError             a checkpoint that is missing or damaged
    ├── StorageError (OSError)          a file that could not be written; what was there before is intact
    ├── ServerError                     a server that cannot start
    └── ServiceError                    an error status that the prediction service returned
        ├── InvalidRequestError         INVALID_ARGUMENT
        ├── UnknownModelError           NOT_FOUND
        ├── WrongKindError              FAILED_PRECONDITION
        ├── OverloadedError             RESOURCE_EXHAUSTED
        ├── DeadlineError               DEADLINE_EXCEEDED
        ├── UnavailableError            UNAVAILABLE
        ├── UnauthenticatedError        UNAUTHENTICATED
        ├── ForbiddenError              PERMISSION_DENIED
        └── InternalServiceError        INTERNAL, and any status not named above
"""

from __future__ import annotations


class TorsoError(Exception):
    """Base class of every error that torso raises on purpose."""


class ConfigError(TorsoError, ValueError):
    """A setting is out of its range, unknown, or cannot be combined with another."""


class SpecError(ConfigError):
    """A network cannot be built as its specification describes it."""


class InputError(TorsoError, ValueError):
    """An input does not fit the model.

    Attributes name the offending ``field``, what was ``expected`` and what it ``got``; servers report all three.
    """

    def __init__(self, field: str, *, expected: str, got: str) -> None:
        super().__init__(f"{field} must be {expected}, got {got}")
        self.field = field
        self.expected = expected
        self.got = got

    @property
    def came(self) -> str:
        """Alias of ``got``: its name before 0.2."""
        return self.got


class MissingExtraError(TorsoError, ImportError):
    """Something needs packages that one of torso's extras installs.

    what: what needs them, such as ``"LunarLander-v3"``. extra: the extra's name, such as ``"box2d"``.
    """

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs the extra {extra!r}: pip install 'torso[{extra}]'")
        self.what = what
        self.extra = extra


class EnvError(TorsoError):
    """An environment is unknown, or torso cannot learn in it."""


class DatasetError(TorsoError):
    """A data set is unknown, missing or damaged."""


class ModelError(TorsoError):
    """A model directory cannot be used."""


class ModelNotFoundError(ModelError):
    """No model is in the given place, or one of its files is missing."""


class ModelDamagedError(ModelError):
    """A model's files are truncated, altered, or do not belong together."""


class ModelFormatError(ModelError):
    """A model was written in a format newer than this version of torso reads."""


class RunError(TorsoError):
    """A run directory cannot be used as requested."""


class CheckpointError(RunError):
    """A checkpoint is missing or damaged."""


class StorageError(TorsoError, OSError):
    """A file could not be written; an older file in its place is intact."""


class ServerError(TorsoError):
    """A server cannot start: its port is taken, its bind is refused, its models are broken."""


class ServiceError(TorsoError):
    """The prediction service returned an error status.

    ``status`` is the gRPC status' name; ``violations`` lists ``(field, description)`` pairs where the service named
    any; ``retry_after_s`` is the service's advice, where it gave one.
    """

    def __init__(
        self,
        message: str,
        *,
        status: str = "UNKNOWN",
        violations: tuple[tuple[str, str], ...] = (),
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.violations = violations
        self.retry_after_s = retry_after_s


class InvalidRequestError(ServiceError):
    """INVALID_ARGUMENT: the request itself is wrong."""


class UnknownModelError(ServiceError):
    """NOT_FOUND: no such model or version."""


class WrongKindError(ServiceError):
    """FAILED_PRECONDITION: the model exists and is of a kind that cannot do this."""


class OverloadedError(ServiceError):
    """RESOURCE_EXHAUSTED: the queue is full."""


class DeadlineError(ServiceError):
    """DEADLINE_EXCEEDED: no response in time."""


class UnavailableError(ServiceError):
    """UNAVAILABLE: the server cannot be reached, or it is draining."""


class UnauthenticatedError(ServiceError):
    """UNAUTHENTICATED: no token, or not a valid one."""


class ForbiddenError(ServiceError):
    """PERMISSION_DENIED: the token's role is too low."""


class InternalServiceError(ServiceError):
    """INTERNAL, or a status that torso does not use: the server's fault."""
