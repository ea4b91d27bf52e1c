"""Validate what callers give clients: settings (ConfigError) and the arguments of operations (InputError).

Each error names the argument, what it must be and what it got. What a request can carry is for the server to judge: a
``top_k`` of 0, a model that is not served, an observation of another shape.
"""

from __future__ import annotations

import ipaddress
import math
import os
import re
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from torso.errors import ConfigError, InputError
from torso.plain import shown
from torso.serve.config import ServeConfig

FOREVER_S = 1e8  # about three years: longer timeouts are none, for gRPC takes very long ones for ones that have passed
_PORT = ServeConfig.port
_FORMS = "HOST:PORT, [IPV6]:PORT or unix:PATH"

# -- settings ----------------------------------------------------------------------------------------------------------


def check_address(address: str) -> str:
    """Check a server's address, and return it: ``HOST:PORT``, ``[IPV6]:PORT`` or a target of gRPC's.

    gRPC itself would take port 443 where none is given. Targets are ``unix:PATH``, ``dns:``, ``ipv4:`` and ``ipv6:``
    with hosts and ports, and gRPC's other schemes, which are not looked into. Raises ConfigError.
    """
    if not isinstance(address, str):
        raise ConfigError(f"address must be text, {_FORMS}, got {shown(address)}")
    scheme, _, rest = address.partition(":")
    if scheme in ("unix", "unix-abstract", "vsock", "xds"):
        if not rest.strip("/") or (scheme == "unix" and rest.startswith("//") and not rest.startswith("///")):
            raise _address_error(address, "a socket's path follows unix:, as in unix:/run/torso.sock")
        return address
    if scheme == "dns":
        _check_host_and_port(address, re.sub("^//[^/]*/", "", rest))
    elif scheme in ("ipv4", "ipv6"):
        for target in rest.split(","):
            _check_host_and_port(address, target)
    else:
        _check_host_and_port(address, address)
    return address


def _check_host_and_port(address: str, target: str) -> None:
    if "://" in target:
        raise _address_error(address, f"leave out {shown(target.partition('://')[0] + '://')}; TLS is the client's tls")
    if "/" in target:
        raise _address_error(address, f"unix:{target} is a socket in the file system; a host has no path")
    bare = target[1:-1] if target.startswith("[") and target.endswith("]") else target
    if _is_ipv6(bare):
        raise _address_error(address, f"an IPv6 address is in brackets, and its port follows, as in [{bare}]:{_PORT}")
    host, colon, port = target.rpartition(":")
    if not colon:
        prefix = address.removesuffix(target)
        advice = f"torso serve listens on port {_PORT} unless told otherwise: {prefix}{target or 'localhost'}:{_PORT}"
        raise _address_error(address, advice)
    if not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 2**16:
        raise _address_error(address, f"a port is a number from 1 to 65535, not {shown(port)}")
    name = host[1:-1] if host.startswith("[") and host.endswith("]") and _is_ipv6(host[1:-1]) else host
    if not name or re.search(r"[\s\[\]]", name) or (":" in name and name == host):
        raise _address_error(address, f"a host is a name or an IP address, not {shown(host)}")


def _is_ipv6(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).version == 6
    except ValueError:
        return False


def _address_error(address: str, advice: str) -> ConfigError:
    return ConfigError(f"address must be {_FORMS}, got {shown(address)}; {advice}")


def check_token(token: str | None) -> str | None:
    """Check a token, and return it: text that a header can carry. The error does not show it. Raises ConfigError."""
    if token is None:
        return None
    expected = "token must be text of printable ASCII characters, without white space around it"
    if not isinstance(token, str):
        raise ConfigError(f"{expected}, got {type(token).__name__}")
    if not token:
        raise ConfigError(f"{expected}, got none; leave it out, or None, where the server has no tokens")
    if token != token.strip():
        raise ConfigError(f"{expected}, got some, such as the end of a file's line; use .strip()")
    if not (token.isascii() and token.isprintable()):
        raise ConfigError(f"{expected}, got other characters among its {len(token)}")
    return str(token)


def check_path(name: str, path: object) -> None:
    """Check that a setting is a file's path, or None. Raises ConfigError."""
    if path is not None and (not isinstance(path, (str, os.PathLike)) or not os.fspath(path)):
        raise ConfigError(f"{name} must be a path, got {shown(path)}")


def check_flag(name: str, value: object) -> bool:
    """Check that a setting is True or False, and return it. Raises ConfigError."""
    if not isinstance(value, (bool, np.bool_)):
        raise ConfigError(f"{name} must be True or False, got {shown(value)}")
    return bool(value)


def check_count(name: str, value: int) -> int:
    """Check a number of which there must be at least 1, and return it. Raises ConfigError."""
    if not is_integer(value):
        raise ConfigError(f"{name} must be a whole number, got {shown(value)}")
    if value < 1:
        raise ConfigError(f"{name} must be at least 1, got {value}")
    return int(value)


def check_timeout(timeout_s: float) -> float:
    """Check a timeout, and return it: infinity where it is too long to matter. Raises ConfigError."""
    if not is_number(timeout_s):
        raise ConfigError(f"timeout_s must be a number of seconds, got {shown(timeout_s)}")
    if not timeout_s > 0:
        raise ConfigError(f"timeout_s must be more than 0 seconds, got {timeout_s}")
    return float(timeout_s) if timeout_s <= FOREVER_S else math.inf


# -- arguments of operations -------------------------------------------------------------------------------------------


def check_text(name: str, value: str) -> str:
    """Check a model's name or a version, and return it. Raises InputError."""
    if not isinstance(value, str):
        hint = f"text such as '{value}'" if is_integer(value) else "text"
        raise InputError(name, expected=hint, got=shown(value))
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InputError(name, expected="text that UTF-8 can encode", got=shown(value)) from None
    return str(value)


def check_top_k(value: int) -> int:
    """Check that a request can carry ``top_k``, and return it. Raises InputError."""
    if not is_integer(value):
        raise InputError("top_k", expected="a whole number", got=shown(value))
    if not -(2**31) <= value < 2**31:
        raise InputError("top_k", expected="a 32-bit number", got=str(value))
    return int(value)


def check_uint64(name: str, value: int) -> int:
    """Check an episode's number or a seed, and return it. Raises InputError."""
    if not is_integer(value) or not 0 <= value < 2**64:
        raise InputError(name, expected="a number from 0 to 2**64 - 1", got=shown(value))
    return int(value)


def check_start(value: bool) -> bool:
    """Check whether an episode starts, and return it. Raises InputError."""
    if not isinstance(value, (bool, np.bool_)):
        raise InputError("start", expected="True or False", got=shown(value))
    return bool(value)


def check_epsilon(value: float) -> float:
    """Check that a request can carry a probability, and return it. Raises InputError."""
    if not is_number(value):
        raise InputError("epsilon", expected="a number in [0, 1]", got=shown(value))
    return float(value)


def check_images(images: Sequence[bytes]) -> list[bytes]:
    """Check the contents of image files, and return them. Raises InputError."""
    if isinstance(images, (bytes, bytearray, memoryview)):
        raise InputError("images", expected="a list of files' bytes", got="one file's bytes")
    if not isinstance(images, (list, tuple)):
        raise InputError("images", expected="a list of files' bytes", got=shown(images))
    for index, image in enumerate(images):
        if not isinstance(image, (bytes, bytearray, memoryview)):
            raise InputError(f"images[{index}]", expected="a PNG or JPEG file's bytes", got=shown(image))
    return [bytes(image) for image in images]


def to_state_arrays(state: Sequence[ArrayLike]) -> list[NDArray[Any]]:
    """Check a recurrent model's state, and return its arrays. Raises InputError."""
    if not isinstance(state, (list, tuple, np.ndarray)) or (isinstance(state, np.ndarray) and state.ndim == 0):
        raise InputError("state", expected="a result's state, a tuple of arrays, or empty", got=shown(state))
    return [to_array(part, f"state[{index}]") for index, part in enumerate(state)]


def to_array(values: ArrayLike, field: str, expected: str = "an array of one shape") -> NDArray[Any]:
    """Convert values to an array. Raises InputError."""
    try:
        return np.asarray(values)
    except ValueError as error:
        raise InputError(field, expected=expected, got=f"a ragged one ({error})") from error
    except (TypeError, RuntimeError) as error:  # such as a tensor of another device
        raise InputError(field, expected="an array", got=f"{type(values).__name__} ({error})") from error


def is_integer(value: object) -> bool:
    """Whether a value is a whole number of Python's or NumPy's; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Whether a value is a number of Python's or NumPy's; True and False are none."""
    return isinstance(value, Real) and not isinstance(value, bool)
