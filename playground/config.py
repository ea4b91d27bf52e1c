"""Configuration of the playground."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torso.errors import ConfigError
from torso.serve.config import is_local

_MODELS = Path(__file__).with_name("models")
DIGITS = _MODELS / "digits"
"""The classifier of handwritten digits that comes with torso (28x28 gray images, trained on MNIST)."""
POLICIES = (_MODELS / "cartpole", _MODELS / "forager")
"""The policies that come with torso (QR-DQN)."""


@dataclass(frozen=True, kw_only=True)
class PlaygroundConfig:
    """Settings of the playground: models, where predictions come from, where the page is."""

    models: tuple[str, ...] = ()
    """Model or run directories: image classifiers to draw for, policies to play. A model's name is its directory's
    name; NAME=DIR chooses another. Without classifiers: the one of handwritten digits that comes with torso; without
    policies: CartPole's and Forager's."""
    address: str | None = None
    """HOST:PORT or unix:PATH of a torso server that gives the predictions; what is inside a network is shown where its
    directory is among the models. None: a server is started for the models."""
    token_file: Path | None = None
    """With address: a file that holds the token for authentication."""
    tls: bool = False
    """With address: use TLS, and trust the system's certificates."""
    tls_ca: Path | None = None
    """With address: use TLS, and trust the certificates in this PEM file."""
    tls_cert: Path | None = None
    """With address: the client certificate, PEM, for a server that requires one; goes with tls_key."""
    tls_key: Path | None = None
    """With address: the client certificate's private key, PEM."""
    runs: Path = Path("runs/playground")
    """The folder of the runs and models that are made in the page, below which they are all written; it is made when
    something is trained."""
    host: str = "127.0.0.1"
    """The address that the page is served on: an IP address or a host name."""
    port: int = 0
    """The TCP port of the page; 0 picks a free one."""
    allow_plaintext: bool = False
    """Serve the page beyond this machine, without TLS: whoever reads the network reads the session's token."""

    def __post_init__(self) -> None:
        if not 0 <= self.port < 1 << 16:
            raise ConfigError(f"port must be from 0 to 65535, got {self.port}")
        if not is_local(self.host) and not self.allow_plaintext:
            raise ConfigError(
                f"host must be of this machine, such as 127.0.0.1, got {self.host}: the page has no TLS; tunnel to it "
                "through SSH, or add --allow-plaintext"
            )
        if self.address is None:
            given = [name for name in ("token_file", "tls", "tls_ca", "tls_cert", "tls_key") if getattr(self, name)]
            if given:
                names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
                raise ConfigError(f"{names} must go with --address, got none; add --address")
