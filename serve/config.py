"""What a server is told: every setting of ``torso serve``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torso.errors import ConfigError

BackendChoice = Literal["auto", "onnx", "torch"]


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Which models to serve, where, how, and to whom."""

    models: tuple[str, ...]
    """Model or run directories. A model's name is its directory's name; NAME=DIR chooses another."""
    host: str = "127.0.0.1"
    """The address to listen on: an IP address, a host name, or unix:PATH."""
    port: int = 8500
    """The TCP port; 0 picks a free one."""
    port_file: Path | None = None
    """A file that holds the port while the server is ready: written when it is, removed when it ends."""
    backend: BackendChoice = "auto"
    """What computes: ONNX Runtime where its answers equal torch's (auto), or one of the two."""
    threads: int = 1
    """Threads that one forward may use."""
    max_batch_rows: int = 64
    """The most rows of one forward; larger requests are computed in pieces of this size."""
    max_queue_rows: int = 4096
    """The most rows that wait for one model; beyond it, requests are told to come back later."""
    max_message_mib: int = 64
    """The largest request, in MiB."""
    skip_broken: bool = False
    """Serve the other models when one is missing or damaged, instead of not starting."""
    drain_s: float = 10.0
    """On SIGTERM or Ctrl-C: the most seconds that requests in flight may take to finish."""
    token_file: Path | None = None
    """Who may ask: lines of `name sha256 role expires` (see torso.serve.auth)."""
    tls_cert: Path | None = None
    """The server's certificate chain, PEM; goes with tls_key."""
    tls_key: Path | None = None
    """The certificate's private key, PEM."""
    allow_plaintext: bool = False
    """Listen beyond this machine without TLS."""
    allow_anonymous: bool = False
    """Listen beyond this machine without tokens."""

    def __post_init__(self) -> None:
        if not self.models:
            raise ConfigError("models: expected at least one model or run directory, got none")
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port: expected 0 to 65535, got {self.port}")
        for name in ("threads", "max_batch_rows", "max_queue_rows", "max_message_mib"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if self.max_message_mib > 2047:
            raise ConfigError(f"max_message_mib: expected at most 2047, got {self.max_message_mib}")
        if not self.drain_s >= 0:
            raise ConfigError(f"drain_s: expected 0 or more seconds, got {self.drain_s}")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigError("tls_cert and tls_key go together: expected both or neither, got one")
        if self.backend not in ("auto", "onnx", "torch"):
            raise ConfigError(f"backend: expected auto, onnx or torch, got {self.backend!r}")
