import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz_server.errors import Reason
from authz_server.operations.operation import OperationError
from authz_server.operations.request_path import parse_path

PARTS = st.sampled_from(["/", "/", ".", "..", "a", "v2", "...", ".a", "a.", "?", "?x"])


@given(st.lists(PARTS, max_size=8).map("".join))
def test_a_path_has_no_empty_and_no_dot_segment(target: str) -> None:
    path = target.partition("?")[0]
    begin, *segments = path.split("/")
    is_odd = (
        begin != ""
        or not segments
        or "" in segments[:-1]
        or not {".", ".."}.isdisjoint(segments)
    )
    if is_odd:
        with pytest.raises(OperationError) as caught:
            parse_path(target.encode())
        assert caught.value.reason is Reason.PATH_INVALID
    else:
        assert parse_path(target.encode()) == path


@pytest.mark.parametrize("target", [b"/a?b c", b"/a?\x00", b"/a?#", b"/a b", b"/a%2e"])
def test_a_byte_that_could_be_read_in_two_ways_is_refused(target: bytes) -> None:
    with pytest.raises(OperationError) as caught:
        parse_path(target)
    assert caught.value.reason is Reason.PATH_INVALID
