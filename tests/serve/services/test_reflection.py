"""Server reflection, and server and stock client in one process."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import grpc
import pytest
from google.protobuf import json_format, symbol_database
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tritonclient.grpc import model_config_pb2, service_pb2

from torso.proto import oip_pb2 as pb
from torso.proto import prediction_pb2
from torso.proto.prediction_pb2_grpc import PredictionServiceStub
from torso.serve.services.reflection import descriptor_pool
from torso.serve.wire.oip_tensors import OIP_SERVICE

BOTH = """
{imports}
import asyncio, sys
import numpy as np

async def main():
    config = ServeConfig(models=(sys.argv[1],), port=0, backend="torch")
    async with await create_server(config) as server, triton.InferenceServerClient(server.address) as client:
        rows = triton.InferInput("observations", [1, 4], "FP32")
        rows.set_data_from_numpy(np.zeros((1, 4), dtype=np.float32))
        print((await client.infer("cartpole", [rows])).as_numpy("actions").shape)

asyncio.run(main())
"""
IMPORTS = ["import tritonclient.grpc.aio as triton", "from torso.serve import ServeConfig, create_server"]


@pytest.mark.parametrize("imports", [IMPORTS, IMPORTS[::-1]], ids=["client first", "torso first"])
def test_client_and_server_live_in_one_process(models: Any, imports: list[str]) -> None:
    code = BOTH.format(imports="\n".join(imports))
    command = [sys.executable, "-c", code, str(models.cartpole)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "(1,)\n"), done.stderr


def test_reflection_is_enough_to_ask(served: Any) -> None:
    with grpc.insecure_channel(served.address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        services = database.get_services()
        assert {"inference.GRPCInferenceService", "torso.v1.PredictionService"} <= set(services)
        pool = DescriptorPool(database)
        service = pool.FindServiceByName("inference.GRPCInferenceService")
        assert service.file.name == "inference.proto"  # ours, and not what the client registered in this process
        method = service.methods_by_name["ModelInfer"]
        request_class, response_class = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
        request = request_class(model_name="digits", raw_input_contents=[bytes(64)])
        request.inputs.add(name="tensor", datatype="UINT8", shape=[1, 8, 8])
        path = f"/{method.containing_service.full_name}/{method.name}"
        response = channel.unary_unary(path)(request.SerializeToString(), timeout=30)
        assert response_class.FromString(response).outputs[0].name == "probabilities"
        for name in services:  # each can be described
            assert pool.FindServiceByName(name).methods


def test_both_versions_list_and_describe_all_services(served: Any) -> None:
    names = {f"grpc.reflection.{version}.ServerReflection" for version in ("v1", "v1alpha")}
    with grpc.insecure_channel(served.address) as channel:
        for name in names:
            reflect = channel.stream_stream(
                f"/{name}/ServerReflectionInfo",
                reflection_pb2.ServerReflectionRequest.SerializeToString,
                reflection_pb2.ServerReflectionResponse.FromString,  # v1's messages are v1alpha's
            )
            requests = [reflection_pb2.ServerReflectionRequest(list_services="")]
            requests += [reflection_pb2.ServerReflectionRequest(file_containing_symbol=each) for each in sorted(names)]
            listed, *described = reflect(iter(requests), timeout=30)
            services = {service.name for service in listed.list_services_response.service}
            assert services == {OIP_SERVICE, "torso.v1.PredictionService", "grpc.health.v1.Health", *names}
            for answer, each in zip(described, sorted(names), strict=True):
                [data] = answer.file_descriptor_response.file_descriptor_proto
                file = FileDescriptorProto.FromString(data)
                package = each.rpartition(".")[0]
                assert (file.package, file.service[0].name) == (package, "ServerReflection")
                assert file.service[0].method[0].input_type == f".{package}.ServerReflectionRequest"


def test_the_details_of_errors_can_be_described(served: Any) -> None:
    with grpc.insecure_channel(served.address) as channel:
        pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        with pytest.raises(grpc.RpcError) as caught:
            PredictionServiceStub(channel).Classify(prediction_pb2.ClassifyRequest(model="digits"))
        [data] = [value for key, value in caught.value.trailing_metadata() if key == "grpc-status-details-bin"]
        status = GetMessageClass(pool.FindMessageTypeByName("google.rpc.Status")).FromString(data)
        shown = json_format.MessageToDict(status, descriptor_pool=pool)
        assert shown["details"][0]["fieldViolations"][0]["field"] == "inputs"
        for name in ("BadRequest", "RetryInfo", "ErrorInfo"):
            assert pool.FindMessageTypeByName(f"google.rpc.{name}").fields


def described(field: FieldDescriptor) -> tuple[Any, ...]:
    message = field.message_type.full_name if field.message_type else None
    enum = field.enum_type.full_name if field.enum_type else None
    return field.number, field.type, field.is_repeated, message, enum


def test_what_reflection_describes_is_a_part_of_what_the_stock_client_speaks() -> None:
    pool = descriptor_pool((OIP_SERVICE, "torso.v1.PredictionService", "grpc.health.v1.Health"))
    ours = pool.FindServiceByName(OIP_SERVICE)
    theirs = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    assert ours.full_name == theirs.full_name
    seen: set[str] = set()

    def compare(our: Descriptor, their: Descriptor) -> None:
        assert our.full_name == their.full_name
        if our.full_name in seen:
            return
        seen.add(our.full_name)
        for field in our.fields:
            assert described(field) == described(their.fields_by_name[field.name]), field.full_name
            oneof = field.containing_oneof.name if field.containing_oneof else None
            their_oneof = their.fields_by_name[field.name].containing_oneof
            assert oneof in (None, their_oneof.name if their_oneof else None)
            if field.message_type is not None:
                compare(field.message_type, their.fields_by_name[field.name].message_type)

    for method in ours.methods:
        twin = theirs.methods_by_name[method.name]
        compare(method.input_type, twin.input_type)
        compare(method.output_type, twin.output_type)
    assert len(ours.methods) == 12
    assert "inference.InferStatistics" in seen
    enum = pool.FindEnumTypeByName("inference.DataType")
    theirs_enum = model_config_pb2.DESCRIPTOR.enum_types_by_name["DataType"]
    assert {value.name: value.number for value in enum.values} == {
        value.name: value.number for value in theirs_enum.values
    }
    assert pool.FindMessageTypeByName("torso.v1.ClassifyRequest").file.name == "torso/proto/prediction.proto"
    assert pb.DESCRIPTOR.package == "torso.oip"  # and the process' own pool keeps theirs
    assert symbol_database.Default().pool.FindFileContainingSymbol(OIP_SERVICE) is service_pb2.DESCRIPTOR
