"""Triton's own lock: what opens it, and what happens without a secret."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from checks import (
    CAMERA,
    FORECASTER,
    INFER,
    MODEL_INFER,
    check_request,
    grpc_check_request,
    is_allowed,
    len_field,
    reason_of,
)
from envoy_data_plane.envoy.service.auth import v3 as auth
from parts import MemorySink, eventually, example_config, loaded_policies

from authz_server.assembly import build_pipeline, open_second_lock
from authz_server.config import Triton
from authz_server.errors import AccessSecretError, Reason
from authz_server.identity.sources import IdentitySources
from authz_server.pipeline import Pipeline
from authz_server.policy.store import PolicyStore
from authz_server.response import NO_CHANGES
from authz_server.second_lock import MAX_SECRET_BYTES, SecondLock, read_secret

SECRET = "0123456789abcdef"
NEWER = "fedcba9876543210"
HTTP_HEADER = "triton-access-token"
GRPC_HEADER = "triton-grpc-protocol-triton-access-token"

OVER_HTTP = bytes(check_request())
OVER_GRPC = bytes(
    grpc_check_request(
        MODEL_INFER, len_field(1, b"defect-detection") + len_field(2, b"1")
    )
)


@pytest.fixture(scope="module")
def policies() -> Iterator[PolicyStore]:
    with loaded_policies(example_config()) as store:
        yield store


class Bench:
    """A pipeline whose secret is in a file."""

    def __init__(self, folder: Path, policies: PolicyStore, **settings: str) -> None:
        self.file = folder / "secret"
        self.file.write_text(SECRET + "\n")
        config = example_config(
            triton=Triton(**{"access_secret": str(self.file), **settings})
        )
        self.lock = open_second_lock(config)
        self.lock.reload()
        self.sink = MemorySink()
        self.pipeline: Pipeline = build_pipeline(
            config, policies, self.sink, IdentitySources(), second_lock=self.lock
        )

    def added(self, raw: bytes) -> dict[str, str]:
        """Return the headers that an allowed request gets."""
        answer = self.pipeline.check(raw)
        assert is_allowed(answer)
        return headers_of(answer)


def headers_of(answer: bytes) -> dict[str, str]:
    response = auth.CheckResponse.parse(answer).ok_response
    assert response is not None
    found = {}
    for option in response.headers:
        assert option.header is not None
        assert option.append_action.name == "OVERWRITE_IF_EXISTS_OR_ADD"
        found[option.header.key] = option.header.value
    return found


def removed_by(answer: bytes) -> list[str]:
    response = auth.CheckResponse.parse(answer).ok_response
    assert response is not None
    return list(response.headers_to_remove)


@pytest.fixture
def bench(tmp_path: Path, policies: PolicyStore) -> Bench:
    return Bench(tmp_path, policies)


def test_an_allowed_http_call_gets_the_header_and_loses_the_grpc_one(
    bench: Bench,
) -> None:
    answer = bench.pipeline.check(OVER_HTTP)
    assert headers_of(answer) == {HTTP_HEADER: SECRET}
    assert removed_by(answer) == [GRPC_HEADER]


def test_an_allowed_grpc_call_gets_the_metadata_and_loses_the_http_header(
    bench: Bench,
) -> None:
    answer = bench.pipeline.check(OVER_GRPC)
    assert headers_of(answer) == {GRPC_HEADER: SECRET}
    assert removed_by(answer) == [HTTP_HEADER]


def test_the_path_decides_the_form_not_the_callers_content_type(bench: Bench) -> None:
    pretends = check_request(path=INFER, headers={"content-type": "application/grpc"})
    assert bench.added(bytes(pretends)) == {HTTP_HEADER: SECRET}


def test_the_header_has_the_configured_name(
    tmp_path: Path, policies: PolicyStore
) -> None:
    bench = Bench(tmp_path, policies, access_header="x-key")
    assert bench.added(OVER_HTTP) == {"x-key": SECRET}
    assert bench.added(OVER_GRPC) == {"triton-grpc-protocol-x-key": SECRET}


def test_the_principal_is_the_verified_caller_of_each_request(
    tmp_path: Path, policies: PolicyStore
) -> None:
    bench = Bench(tmp_path, policies, principal_header="x-authz-principal")
    forecaster = check_request(
        principal=FORECASTER, path="/v2/models/demand-forecast/infer"
    )
    for _ in range(2):
        assert bench.added(OVER_HTTP)["x-authz-principal"] == CAMERA
        assert bench.added(bytes(forecaster))["x-authz-principal"] == FORECASTER


def test_the_principal_can_be_told_without_a_secret(
    tmp_path: Path, policies: PolicyStore
) -> None:
    bench = Bench(
        tmp_path, policies, access_secret="", principal_header="x-authz-principal"
    )
    answer = bench.pipeline.check(OVER_HTTP)
    assert headers_of(answer) == {"x-authz-principal": CAMERA}
    assert removed_by(answer) == []


def test_without_a_lock_an_allowed_call_is_left_as_it_is() -> None:
    lock = SecondLock()
    lock.reload()
    lock.start_watching(0.001)
    lock.stop()
    assert lock.error is None
    assert lock.changes(lock.current, CAMERA, is_grpc=False) == NO_CHANGES


def test_a_denial_holds_no_secret(bench: Bench) -> None:
    raw = bytes(check_request(path="/v2/models/demand-forecast/infer"))
    answer = bench.pipeline.check(raw)
    assert reason_of(answer) == Reason.NOT_GRANTED
    assert SECRET.encode() not in answer


def test_a_remembered_answer_opens_the_lock_too(bench: Bench) -> None:
    first = bench.pipeline.check(OVER_HTTP)
    assert bench.pipeline.check(OVER_HTTP) == first
    assert json.loads(bench.sink.events[-1])["cache_hit"] is True


def test_a_new_secret_ends_every_answer_that_holds_the_old_one(bench: Bench) -> None:
    bench.lock.start_watching(0.001)
    try:
        assert bench.added(OVER_HTTP) == {HTTP_HEADER: SECRET}
        newer = bench.file.with_name("newer")
        newer.write_text(NEWER)
        newer.replace(bench.file)
        assert eventually(lambda: bench.added(OVER_HTTP) == {HTTP_HEADER: NEWER})
    finally:
        bench.lock.stop()


def test_a_file_that_is_written_again_with_the_same_secret_changes_nothing(
    bench: Bench,
) -> None:
    before = bench.lock.current
    bench.file.write_text(SECRET)
    bench.lock.reload()
    assert bench.lock.current == before


@pytest.mark.parametrize("raw", [OVER_HTTP, OVER_GRPC])
def test_a_secret_that_vanishes_denies_everything_even_what_is_remembered(
    bench: Bench, raw: bytes
) -> None:
    bench.pipeline.check(raw)
    bench.file.unlink()
    bench.lock.reload()
    answer = bench.pipeline.check(raw)
    assert reason_of(answer) == Reason.ACCESS_SECRET_UNAVAILABLE
    status = auth.CheckResponse.parse(answer).denied_response
    assert status is not None
    assert status.status is not None
    assert int(status.status.code) == 503
    assert bench.lock.error is not None
    bench.file.write_text(SECRET)
    bench.lock.reload()
    assert bench.lock.error is None
    assert bench.added(raw)


def test_a_secret_that_was_not_read_yet_denies(
    tmp_path: Path, policies: PolicyStore
) -> None:
    lock = SecondLock(tmp_path / "secret")
    pipeline = build_pipeline(
        example_config(), policies, MemorySink(), IdentitySources(), second_lock=lock
    )
    answer = pipeline.check(OVER_HTTP)
    assert reason_of(answer) == Reason.ACCESS_SECRET_UNAVAILABLE
    assert lock.error == "not read yet"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"\r\n",
        b"two words",
        b"two\nlines\n",
        b"padded \n",
        b"newline twice\n\n",
        b"tab\there",
        b"nul\0",
        "sécret".encode(),
        b"\xef\xbb\xbfbom",
        b"x" * (MAX_SECRET_BYTES + 1),
        b"x" * (MAX_SECRET_BYTES + 1) + b"\n",
    ],
)
def test_an_odd_secret_is_refused_and_not_quoted(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "a"
    file.write_bytes(data)
    with pytest.raises(AccessSecretError, match="must hold one line") as caught:
        read_secret(file)
    text = str(caught.value)
    assert all(part not in text for part in ("words", "padded", "xxx", "bom", "nul"))


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_one_newline_at_the_end_is_no_part_of_the_secret(
    tmp_path: Path, end: bytes
) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"x" * MAX_SECRET_BYTES + end)
    assert read_secret(file) == "x" * MAX_SECRET_BYTES


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(AccessSecretError, match=r"gone cannot be read: No such file"):
        read_secret(tmp_path / "gone")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_watch_that_died_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(_: Path) -> None:
        raise RuntimeError("boom")

    file = tmp_path / "a"
    file.write_text(SECRET)
    lock = SecondLock(file)
    lock.reload()
    monkeypatch.setattr("authz_server.watch.fingerprint", fail)
    lock.start_watching(0.001)
    assert eventually(lambda: "no longer watched" in str(lock.error))
    lock.stop()


def test_the_secret_is_in_no_log_audit_or_representation(
    tmp_path: Path, policies: PolicyStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    bench = Bench(tmp_path, policies)
    bench.pipeline.check(OVER_HTTP)
    state = bench.lock.current
    changes = bench.lock.changes(state, CAMERA, is_grpc=False)
    bench.file.write_text(SECRET + " ")
    bench.lock.reload()
    bench.pipeline.check(OVER_HTTP)
    told = [*bench.sink.events, caplog.text.encode()]
    told += [repr(thing).encode() for thing in (bench.lock, state, changes)]
    assert SECRET.encode() not in b"\n".join(told)
    assert "all requests are denied" in caplog.text
    assert SECRET not in state.revision
