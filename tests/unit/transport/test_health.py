import subprocess
import sys

import pytest
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2
from hypothesis import example, given
from hypothesis import strategies as st

from authz_server.errors import RequestError
from authz_server.transport.health import (
    ServingStatus,
    health_response,
    service_asked,
)


@given(name=st.text())
def test_the_service_asked_about_is_what_protobuf_reads(name: str) -> None:
    request = health_pb2.HealthCheckRequest(service=name)
    assert service_asked(request.SerializeToString()) == name


@given(raw=st.binary(max_size=12))
@example(raw=b"\x0a\x01a\x0a\x01b")  # the last one counts
@example(raw=b"\x08\x01\x0a\x01a")  # of another type: not the field
@example(raw=b"\x12\x01x\x0a\x01a\x1d0000")  # fields of a later version
@example(raw=b"\x0a\x01\xff")
def test_what_is_read_of_any_bytes_is_what_protobuf_reads(raw: bytes) -> None:
    try:
        name = service_asked(raw)
    except RequestError:
        return  # it is the stricter one
    try:
        expected = health_pb2.HealthCheckRequest.FromString(raw).service
    except DecodeError:
        pytest.fail("protobuf refuses it")
    assert name == expected


@pytest.mark.parametrize("raw", [b"\x0a", b"\x0a\x05ab", b"\x0a\x01\xff", b"\x0b"])
def test_what_is_no_request_is_refused(raw: bytes) -> None:
    with pytest.raises(RequestError):
        service_asked(raw)


@pytest.mark.parametrize("status", list(ServingStatus))
def test_a_response_is_what_protobuf_writes(status: ServingStatus) -> None:
    kinds = health_pb2.HealthCheckResponse.ServingStatus
    assert kinds.Name(int(status)) == status.name
    expected = health_pb2.HealthCheckResponse(status=int(status))
    assert health_response(status) == expected.SerializeToString()


def test_the_native_listener_loads_no_library_that_only_others_need() -> None:
    # 32 MB of the 80 that a server may take at rest.
    program = """
import sys
import authz_server.assembly, authz_server.audit, authz_server.cli.serve
import authz_server.transport.native_server
unwanted = {"grpc", "google", "envoy_data_plane", "pydantic", "prometheus_client"}
print(sorted(unwanted & sys.modules.keys()))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
