"""Server reflection, v1 and v1alpha, that also describes ``inference.*`` (the Open Inference Protocol V2).

The process' default descriptor pool must not hold that package: tritonclient registers it there, under a file of its
own. So reflection reads from a private pool. Reflection's v1 has the messages of v1alpha in another package, and is
answered by the same code; grpcio-reflection has only v1alpha.
"""

from __future__ import annotations

from collections.abc import Iterable

import grpc
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import Default, DescriptorPool
from google.rpc import error_details_pb2, status_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from torso.proto import oip_pb2
from torso.serve.services.method_table import MethodTable
from torso.serve.wire.oip_tensors import OIP_SERVICE

REFLECTION_V1 = "grpc.reflection.v1.ServerReflection"
RENAMED = {  # services that have other names on the wire than in Python -> (their file, its name on the wire)
    OIP_SERVICE: (oip_pb2.DESCRIPTOR, "inference.proto"),
    REFLECTION_V1: (reflection_pb2.DESCRIPTOR, "grpc/reflection/v1/reflection.proto"),
}


def enable_reflection(table: MethodTable, services: Iterable[str]) -> None:
    """Enable reflection for these services, and for reflection itself."""
    names = (reflection.SERVICE_NAME, REFLECTION_V1)
    services = (*services, *names)
    servicer = reflection.aio.ReflectionServicer(services, pool=descriptor_pool(services))
    method = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    for name in names:
        table.add_registered_method_handlers(name, {"ServerReflectionInfo": method})


def descriptor_pool(services: Iterable[str]) -> DescriptorPool:
    """Build a descriptor pool of services, under their names on the wire, and of the details of errors."""
    pool = DescriptorPool()
    added: set[str] = set()
    for details in (status_pb2, error_details_pb2):  # of errors, in trailing metadata, so no service refers to them
        _add_file(pool, details.DESCRIPTOR, added)
    for service in services:
        if service in RENAMED:
            file, name = RENAMED[service]
            pool.Add(_renamed_file(file, name, package=service.rpartition(".")[0]))
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


def _renamed_file(file: FileDescriptor, name: str, package: str) -> FileDescriptorProto:
    """Copy the descriptor of a file without imports, with another name and package."""
    copy = FileDescriptorProto.FromString(file.serialized_pb)
    copy.name, copy.package = name, package

    def renamed(type_name: str) -> str:
        return f".{package}{type_name.removeprefix(f'.{file.package}')}"

    def rename(message: DescriptorProto) -> None:
        for field in message.field:
            if field.type_name:
                field.type_name = renamed(field.type_name)
        for nested in message.nested_type:
            rename(nested)

    for message in copy.message_type:
        rename(message)
    for service in copy.service:
        for method in service.method:
            method.input_type, method.output_type = renamed(method.input_type), renamed(method.output_type)
    return copy
