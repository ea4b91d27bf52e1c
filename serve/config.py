"""Configuration of a server: every setting of ``torso serve``."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torso.errors import ConfigError

BackendChoice = Literal["auto", "onnx", "torch", "cuda"]
VersionPolicy = str  # "latest", "latest:N", "all", or versions such as "1,3"
ModelControl = Literal["none", "poll", "explicit"]
LogFormat = Literal["text", "json"]
MAX_FORWARD_MIB = 1024

_POSITIVE = (
    *("threads", "workers", "max_batch_rows", "max_queue_rows", "max_message_mib", "max_metadata_kib"),
    *("max_request_pixels", "max_concurrent_streams", "max_connections", "max_calls", "max_episodes"),
    *("max_episodes_mib", "max_forward_mib", "max_in_flight_mib"),
)
_POSITIVE_SECONDS = ("poll_s", "load_s", "receive_s", "stream_idle_s", "keepalive_s")
_SECONDS = ("drain_s", "finish_s", "max_connection_age_s")


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Settings of a server: models, address, batching, limits, lifecycle, security, logs."""

    models: tuple[str, ...] = ()
    """Model or run directories. A model's name is its directory's name; NAME=DIR chooses another."""
    repository: Path | None = None
    """A model repository: a folder whose MODEL/VERSION/ are model or run directories; versions are whole numbers."""
    version_policy: VersionPolicy = "latest"
    """Versions of each model in the repository to serve: latest, latest:N, all, or numbers such as 1,3."""
    model_control: ModelControl = "none"
    """Reloading of the repository's models: never (none), every poll_s (poll), on an admin's request (explicit)."""
    load_models: tuple[str, ...] = ()
    """With model_control explicit: the models of the repository to load at the start."""
    poll_s: float = 5.0
    """With model_control poll: seconds between two scans of the repository."""
    load_s: float = 300.0
    """The most seconds that loading one version of a model may take; then it is given up, as one that cannot be
    loaded."""
    import_modules: tuple[str, ...] = ()
    """Python modules to import first, such as those that register torsos of your own."""
    host: str = "127.0.0.1"
    """The address to listen on: an IP address, a host name, or unix:PATH."""
    port: int = 8500
    """The TCP port; 0 picks a free one."""
    port_file: Path | None = None
    """A file that holds the port while the server is ready: written when it is, removed when it ends."""
    ops_host: str = "127.0.0.1"
    """The address of /livez, /readyz and /metrics, which need no authentication."""
    ops_port: int | None = None
    """The TCP port of /livez, /readyz and /metrics; 0 picks a free one; unset: they are not served."""
    ops_port_file: Path | None = None
    """A file that holds the ops port while the server is ready, as port_file does the port."""
    workers: int = 1
    """Processes that share the port; more than 1 adds a supervisor."""
    backend: BackendChoice = "auto"
    """Backend: ONNX Runtime where its answers equal torch's, else torch (auto), or one of onnx, torch, cuda."""
    threads: int = 1
    """Threads that one forward may use."""
    cache_dir: Path | None = None
    """Cache folder for ONNX files that a model directory lacks; unset: the user's cache folder."""
    max_batch_rows: int = 64
    """The most rows of one forward; larger requests are computed in pieces of this size."""
    max_forward_mib: int = MAX_FORWARD_MIB
    """The most memory of one forward, in MiB: its rows and what the network computes from them, without its weights. A
    batch has fewer rows than max_batch_rows where these would take more; a model of which one row does is not
    loaded."""
    max_delay_us: int = 0
    """Microseconds that a batch that is not full waits for more requests; 0 adds none."""
    max_queue_rows: int = 4096
    """The most rows in one model's queue; while others wait, half of it is the most of one caller, and others find room
    beyond it. Requests beyond it are rejected with a time to retry after, and so are those that the queue leaves no
    time for before their deadline."""
    max_message_mib: int = 16
    """The largest request, in MiB, also once it is inflated. A compressed one of more than 1 MiB may inflate to 100
    times its own size."""
    max_in_flight_mib: int = 32
    """The most MiB of requests that are being received or answered, all callers' together; further ones are not read
    until there is room. One caller holds no more than it leaves free. Never less than twice max_message_mib."""
    receive_s: float = 60.0
    """The most seconds until a request is received whole."""
    max_request_pixels: int = 67_108_864
    """The most pixels of all image files of a request together, as their headers say; the default is four images of
    4096 x 4096. One image may have 16,777,216."""
    max_metadata_kib: int = 16
    """The most headers of a request, in KiB."""
    max_concurrent_streams: int = 1024
    """The most calls at once on one connection."""
    max_connections: int = 4096
    """The most connections at once, of each worker; further ones are closed. Beyond three quarters of it connections
    without calls are closed, those first that never made one that was allowed (on Linux)."""
    max_calls: int = 1024
    """The most calls in progress of one caller: of a token, else of an address; callers on this machine without a
    token have no such limit."""
    max_connection_age_s: float = 0.0
    """Seconds after which a connection is closed once its calls have ended, so that clients rebalance; 0: never."""
    keepalive_s: float = 60.0
    """Seconds without traffic after which a connection gets a keepalive ping; it has 20 s to answer, or this many
    where they are fewer."""
    max_episodes: int = 256
    """The most episodes that one ActStream may hold."""
    max_episodes_mib: int = 64
    """The most MiB of observations and states that the episodes of all streams hold together."""
    stream_idle_s: float = 600.0
    """Seconds without a request after which a stream ends; one whose client does not read ends after twice that."""
    skip_broken: bool = False
    """Serve the other models when one is missing or damaged, instead of not starting."""
    drain_s: float = 5.0
    """On SIGTERM: seconds of draining, in which health is NOT_SERVING and requests are still answered."""
    finish_s: float = 30.0
    """At the end, and on Ctrl-C: the most seconds that requests in flight may take to finish."""
    token_file: Path | None = None
    """Tokens for authentication: lines of `name sha256 role expires` (torso.serve.server.tokens). SIGHUP reloads it.
    Its owner alone may have the permission to write it."""
    tls_cert: Path | None = None
    """The server's certificate chain, PEM; goes with tls_key. SIGHUP reloads both."""
    tls_key: Path | None = None
    """The certificate's private key, PEM, which its owner alone may write."""
    tls_client_ca: Path | None = None
    """Certificates, PEM, one of which must have signed every client's own: mutual TLS. Such clients may predict; to
    administer they need a token."""
    allow_plaintext: bool = False
    """Listen beyond this machine without TLS."""
    allow_anonymous: bool = False
    """Listen beyond this machine without tokens or client certificates. Callers may predict, but not administer."""
    log_format: LogFormat = "text"
    """Log lines for people (text) or machines (json)."""
    log_requests: bool = False
    """Log a line for every request."""
    otlp_endpoint: str = ""
    """Send OpenTelemetry traces to this OTLP/HTTP URL, such as http://localhost:4318 (extra otel)."""

    def __post_init__(self) -> None:
        if not self.models and self.repository is None:
            raise ConfigError(
                "models must hold at least one model or run directory, got none; name one, or a repository"
            )
        for name in ("port", "ops_port"):
            port = getattr(self, name)
            if port is not None and not 0 <= port <= 65535:
                raise ConfigError(f"{name} must lie in [0, 65535], got {port}")
        for name in _POSITIVE:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.max_message_mib > 2047:
            raise ConfigError(f"max_message_mib must be at most 2047, got {self.max_message_mib}")
        if self.max_delay_us < 0:
            raise ConfigError(f"max_delay_us must be 0 or more microseconds, got {self.max_delay_us}")
        for name in _POSITIVE_SECONDS:
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be more than 0 seconds, got {getattr(self, name)}")
        for name in _SECONDS:
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} must be 0 or more seconds, got {getattr(self, name)}")
        self._check_choices()
        self._check_combinations()

    def _check_choices(self) -> None:
        choices = {
            "backend": ("auto", "onnx", "torch", "cuda"),
            "model_control": ("none", "poll", "explicit"),
            "log_format": ("text", "json"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                expected = f"{', '.join(allowed[:-1])} or {allowed[-1]}"
                raise ConfigError(f"{name} must be {expected}, got {getattr(self, name)!r}")

    def _check_combinations(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigError("tls_cert and tls_key must go together, got one; give both or neither")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ConfigError(
                "tls_client_ca must go with tls_cert and tls_key, got neither; clients' certificates are sent over TLS"
            )
        if self.repository is None:
            for name, default in (("version_policy", "latest"), ("model_control", "none"), ("load_models", ())):
                if getattr(self, name) != default:
                    raise ConfigError(f"{name} must go with a repository, got none; name one")
        if self.load_models and self.model_control != "explicit":
            raise ConfigError(f"load_models must go with model_control explicit, got {self.model_control}")
        if self.workers > 1 and self.host.startswith("unix:"):
            raise ConfigError(f"workers must be 1 on a Unix socket, which processes cannot share, got {self.workers}")
        if self.ops_port_file is not None and self.ops_port is None:
            raise ConfigError("ops_port_file must go with an ops_port, got none")


def is_local(host: str) -> bool:
    """Check whether only this machine can reach an address: loopback, or a Unix socket (``unix:PATH``)."""
    if host.startswith("unix:") or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
