"""Server reflection that also describes ``inference.*`` (the Open Inference Protocol V2).

The process' default descriptor pool must not hold that package: tritonclient registers it there, under a file of its
own. So reflection reads from a private pool.
"""

from __future__ import annotations

from collections.abc import Iterable

import grpc.aio
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import Default, DescriptorPool
from google.rpc import error_details_pb2, status_pb2
from grpc_reflection.v1alpha import reflection

from torso.proto import oip_pb2
from torso.serve.wire.oip_tensors import OIP_SERVICE

OUR_PACKAGE = oip_pb2.DESCRIPTOR.package
WIRE_PACKAGE, _, _ = OIP_SERVICE.rpartition(".")


def enable_reflection(server: grpc.aio.Server, services: Iterable[str]) -> None:
    """Enable reflection on a server for these services, and for reflection itself."""
    services = (*services, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(services, server, pool=descriptor_pool(services))


def descriptor_pool(services: Iterable[str]) -> DescriptorPool:
    """Build a descriptor pool of services and of the details of errors.

    The Open Inference Protocol has its name on the wire.
    """
    pool = DescriptorPool()
    added: set[str] = set()
    for details in (status_pb2, error_details_pb2):  # of errors, in trailing metadata, so no service refers to them
        _add_file(pool, details.DESCRIPTOR, added)
    for service in services:
        if service == OIP_SERVICE:
            pool.Add(_wire_descriptor(oip_pb2.DESCRIPTOR))
        else:
            _add_file(pool, Default().FindServiceByName(service).file, added)
    return pool


def _add_file(pool: DescriptorPool, file: FileDescriptor, added: set[str]) -> None:
    if file.name in added:
        return
    added.add(file.name)
    for dependency in file.dependencies:
        _add_file(pool, dependency, added)
    pool.AddSerializedFile(file.serialized_pb)


def _wire_descriptor(file: FileDescriptor) -> FileDescriptorProto:
    """Copy the descriptor of a file without imports, its package named as on the wire."""
    copy = FileDescriptorProto.FromString(file.serialized_pb)
    copy.name = f"{WIRE_PACKAGE}.proto"
    copy.package = WIRE_PACKAGE
    for message in copy.message_type:
        _rename(message)
    for service in copy.service:
        for method in service.method:
            method.input_type = _renamed(method.input_type)
            method.output_type = _renamed(method.output_type)
    return copy


def _rename(message: DescriptorProto) -> None:
    for field in message.field:
        if field.type_name:
            field.type_name = _renamed(field.type_name)
    for nested in message.nested_type:
        _rename(nested)


def _renamed(name: str) -> str:
    return f".{WIRE_PACKAGE}{name.removeprefix(f'.{OUR_PACKAGE}')}"
