"""Local and remote models behind one interface, for classify, act and play.

A remote model is called through the thin client, which imports neither torch nor any other library that computes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from torso.arrays import Array
from torso.cli.arguments.options import Sections
from torso.errors import ConfigError

if TYPE_CHECKING:
    from torso.nets import Predictor
    from torso.serve import ActStream, Client
    from torso.space_spec import Interface


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Options that select a model, local or served."""

    sections: ClassVar[Sections] = {
        "a served model": ("address", "timeout_s", "wait_s", "token_file", "tls", "tls_ca", "tls_cert", "tls_key"),
    }
    """Headings of the help, and the options below each."""

    model: str
    """A model or run directory; with --address, the name of a served model."""
    address: str | None = None
    """HOST:PORT or unix:PATH of a torso server; None: the model is loaded in this process."""
    token_file: Path | None = None
    """With --address: a file that holds the token for authentication."""
    tls: bool = False
    """With --address: use TLS, and trust the system's certificates."""
    tls_ca: Path | None = None
    """With --address: use TLS, and trust the certificates in this PEM file."""
    tls_cert: Path | None = None
    """With --address: the client certificate, PEM, for a server that requires one; goes with --tls-key."""
    tls_key: Path | None = None
    """With --address: the client certificate's private key, PEM."""
    timeout_s: float = 30.0
    """With --address: timeout of a call, in seconds."""
    wait_s: float = 0.0
    """With --address: most seconds to wait for a server that is not ready yet."""


RankedLabels = list[list[tuple[str, float]]]
"""For each input its labels of highest probability, as text, with their probabilities, best first."""


class AnyModel(Protocol):
    """Interface of local and remote models."""

    def label(self, inputs: Array, top_k: int) -> RankedLabels:
        """Classify arrays."""

    def label_images(self, images: Sequence[bytes], top_k: int) -> RankedLabels:
        """Classify PNG and JPEG files, given as their bytes."""

    def act(self, observations: Any) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Choose the best action of each observation, [B]; also the value of each action, [B, A].

        observations: an array, or the parts of the env's own, as `Predictor.prepare` takes them.
        """

    def provenance(self, kind: str) -> Mapping[str, Any]:
        """Return the provenance of the model; ConfigError where it is not of this kind."""

    def feature_names(self) -> tuple[str, ...] | None:
        """Return the names of the input's columns, in order; None where the model knows none."""

    def interface(self) -> Interface | None:
        """Return what the policy observes and chooses from."""

    def stream_frames(self) -> ActStream | None:
        """Return a stream that takes Atari's raw frames; None for local models, and for models that take none."""


@contextmanager
def open_model(options: ModelOptions) -> Iterator[AnyModel]:
    """Load the model, or connect to the server that serves it."""
    if options.address is None:
        remote_only = [
            name for name in ("token_file", "tls", "tls_ca", "tls_cert", "tls_key") if getattr(options, name)
        ]
        if remote_only:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in remote_only)
            raise ConfigError(
                f"{names} must go with --address, got none: a local model has no connection; add --address"
            )
        from torso.nets import Predictor

        yield LocalModel(Predictor.load(options.model))
    else:
        from torso.serve.client.sync_client import Client

        with Client(
            options.address,
            None if options.token_file is None else read_token(options.token_file),
            timeout_s=options.timeout_s,
            tls=options.tls,
            tls_ca=options.tls_ca,
            tls_cert=options.tls_cert,
            tls_key=options.tls_key,
        ) as client:
            if options.wait_s:
                client.wait_ready(options.wait_s)
            yield RemoteModel(client, options.model)


class LocalModel:
    """Model that is loaded in this process."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    def label(self, inputs: Array, top_k: int) -> RankedLabels:
        """See `AnyModel.label`."""
        self._require_kind("classifier")
        return self._ranked_labels(self._predictor.prepare(inputs), top_k)

    def label_images(self, images: Sequence[bytes], top_k: int) -> RankedLabels:
        """See `AnyModel.label_images`."""
        self._require_kind("classifier")
        return self._ranked_labels(self._predictor.prepare_images(images), top_k)

    def act(self, observations: Any) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """See `AnyModel.act`."""
        self._require_kind("policy")
        values = self._predictor.run(self._predictor.prepare(observations, field="observations"))
        return self._predictor.greedy(values), values

    def provenance(self, kind: str) -> Mapping[str, Any]:
        """See `AnyModel.provenance`."""
        self._require_kind(kind)
        return self._predictor.card.provenance

    def feature_names(self) -> tuple[str, ...] | None:
        """See `AnyModel.feature_names`."""
        return self._predictor.card.feature_names

    def interface(self) -> Interface | None:
        """See `AnyModel.interface`."""
        return self._predictor.interface

    def stream_frames(self) -> None:
        """See `AnyModel.stream_frames`."""

    def _ranked_labels(self, prepared: Array, top_k: int) -> RankedLabels:
        predictor = self._predictor
        indices, probabilities = predictor.top_k(predictor.probabilities(predictor.run(prepared)), top_k)
        labels = [[str(predictor.labels[index]) for index in row] for row in indices]
        return _pair(labels, probabilities)

    def _require_kind(self, kind: str) -> None:
        _require_kind(self._predictor.kind, kind)


class RemoteModel:
    """Model that a server serves, called over gRPC."""

    def __init__(self, client: Client, name: str) -> None:
        self._client, self._name = client, name

    def label(self, inputs: Array, top_k: int) -> RankedLabels:
        """See `AnyModel.label`."""
        answer = self._client.classify(self._name, inputs, top_k)
        return _pair(answer.labels, answer.probabilities)

    def label_images(self, images: Sequence[bytes], top_k: int) -> RankedLabels:
        """See `AnyModel.label_images`."""
        answer = self._client.classify_images(self._name, images, top_k)
        return _pair(answer.labels, answer.probabilities)

    def act(self, observations: Any) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """See `AnyModel.act`."""
        answer = self._client.act(self._name, observations)
        return answer.actions, answer.values

    def provenance(self, kind: str) -> Mapping[str, Any]:
        """See `AnyModel.provenance`."""
        info = self._client.get_model(self._name)
        _require_kind(info.kind, kind)
        return info.provenance_data

    def feature_names(self) -> tuple[str, ...] | None:
        """See `AnyModel.feature_names`."""
        return self._client.get_model(self._name).feature_names

    def interface(self) -> Interface | None:
        """See `AnyModel.interface`."""
        return self._client.get_model(self._name).interface

    def stream_frames(self) -> ActStream | None:
        """See `AnyModel.stream_frames`."""
        takes_frames = self._client.get_model(self._name).takes_frames
        return self._client.act_stream(self._name) if takes_frames else None


_USES = {
    "classifier": "use it with torso classify",
    "policy": "use it with torso act or torso play",
    "regressor": "use it with torso evaluate, Predictor.regress, or a server's V2 ModelInfer",
}


def read_npy(path: Path) -> Array:
    """Read the array in a .npy file, without unpickling."""
    try:
        array: Array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ConfigError(f"{path} cannot be read as a .npy file: {error_text(error)}") from error
    return array


def _require_kind(kind: str, required: str) -> None:
    if kind != required:
        use = _USES.get(kind, "this torso is too old for it")
        raise ConfigError(f"--model must be a {required}, got a {kind}; {use}")


def _pair(labels: Sequence[Sequence[str]], probabilities: NDArray[np.float32]) -> RankedLabels:
    return [list(zip(names, row.tolist(), strict=True)) for names, row in zip(labels, probabilities, strict=True)]


def read_token(path: Path) -> str:
    """Read the token in a file; ConfigError where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--token-file {path} cannot be read: {error_text(error)}") from error


def error_text(error: Exception) -> str:
    """Return the reason why a file could not be read, without the file's name."""
    return str(getattr(error, "strerror", None) or error)
