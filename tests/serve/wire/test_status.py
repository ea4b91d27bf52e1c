from __future__ import annotations

import logging

import grpc
import pytest
from google.rpc import status_pb2

from torso import errors
from torso.serve.wire.status import CLASSES, DETAILS_KEY, WireStatus, from_wire, to_wire


class Failure:
    """A failed call, as grpc hands it to a client."""

    def __init__(self, status: WireStatus) -> None:
        self._status = status

    def code(self) -> grpc.StatusCode:
        return self._status.code

    def details(self) -> str:
        return self._status.message

    def trailing_metadata(self) -> object:
        return self._status.trailing_metadata


def test_an_input_error_names_the_field_what_was_expected_and_what_came() -> None:
    status = to_wire(errors.InputError("tensor.shape", expected="[batch, 4]", got="[5]"), "classify")
    assert status.code is grpc.StatusCode.INVALID_ARGUMENT
    back = from_wire(Failure(status), "here")
    assert type(back) is errors.InvalidRequestError
    assert back.status == "INVALID_ARGUMENT"
    assert back.violations == (("tensor.shape", "must be [batch, 4], got [5]"),)
    assert str(back) == "tensor.shape must be [batch, 4], got [5]"


@pytest.mark.parametrize(("code", "error_class"), CLASSES.items(), ids=lambda value: getattr(value, "name", None))
def test_every_service_error_survives_the_wire(code: grpc.StatusCode, error_class: type[errors.ServiceError]) -> None:
    error = error_class("what happened", violations=(("a", "b"),), retry_after_s=0.25)
    status = to_wire(error, "act")
    assert status.code is code
    back = from_wire(Failure(status), "here")
    assert (type(back), str(back), back.status) == (error_class, "what happened", code.name)
    assert (back.violations, back.retry_after_s) == ((("a", "b"),), 0.25)


def test_every_service_error_of_the_tree_has_a_status() -> None:
    assert set(CLASSES.values()) == set(errors.ServiceError.__subclasses__())


def test_a_bug_is_an_id_on_the_wire_and_a_traceback_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        status = to_wire(KeyError("secret"), "classify")
    assert status.code is grpc.StatusCode.INTERNAL
    assert "secret" not in str(status)
    [record] = caplog.records
    assert status.message.rpartition(" ")[2] in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[0] is KeyError


def test_a_long_message_fits_into_headers() -> None:
    status = to_wire(errors.InputError("f" * 10_000, expected="e" * 10_000, got="ü" * 10_000), "classify")
    assert sum(len(value) for _, value in status.trailing_metadata) + len(status.message.encode()) < 8192


@pytest.mark.parametrize(
    ("status", "error_class", "text"),
    [
        (
            WireStatus(grpc.StatusCode.UNAVAILABLE, "refused", ()),
            errors.UnavailableError,
            "no answer from here: refused",
        ),
        (WireStatus(grpc.StatusCode.UNIMPLEMENTED, "?", ()), errors.InternalServiceError, "?"),
        (WireStatus(grpc.StatusCode.CANCELLED, "", ()), errors.UnavailableError, "CANCELLED"),
        (WireStatus(grpc.StatusCode.NOT_FOUND, "x", ((DETAILS_KEY, b"\xff"),)), errors.UnknownModelError, "x"),
    ],
)
def test_a_status_of_another_server_is_understood(
    status: WireStatus, error_class: type[errors.ServiceError], text: str
) -> None:
    error = from_wire(Failure(status), "here")
    assert (type(error), str(error), error.status) == (error_class, text, status.code.name)


def test_an_unreadable_detail_is_passed_over() -> None:
    rich = status_pb2.Status(code=3)
    rich.details.add(type_url="type.googleapis.com/google.rpc.BadRequest", value=b"\xff")
    rich.details.add(type_url="type.googleapis.com/nobody.Knows", value=b"")
    metadata = ((DETAILS_KEY, rich.SerializeToString()),)
    error = from_wire(Failure(WireStatus(grpc.StatusCode.INVALID_ARGUMENT, "x", metadata)), "here")
    assert error.violations == ()
