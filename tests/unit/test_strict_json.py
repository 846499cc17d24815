import pytest

from authz_server.strict_json import parse_json_object


@pytest.mark.parametrize(
    ("data", "document"),
    [
        (b"{}", {}),
        (b' \t\r\n{"a": [1, -2.5e3, true, null, "\xc3\xa9"]}\n', None),
        (rb'{"\u0061": "\ud83d\ude00"}', {"a": "\U0001f600"}),
        (b'{"a": {"a": 1}, "b": {"a": 1}}', {"a": {"a": 1}, "b": {"a": 1}}),
    ],
)
def test_an_object_is_read(data: bytes, document: dict[str, object] | None) -> None:
    expected = {"a": [1, -2500.0, True, None, "é"]} if document is None else document
    assert parse_json_object(data) == expected


@pytest.mark.parametrize("data", [b"[]", b"1", b'"a"', b"null", b"true", b"[{}]"])
def test_any_other_document_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="no object"):
        parse_json_object(data)


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"{", b"{}{}", b"{} x", b"{'a': 1}", b'{"a": 1,}', b"{a: 1}"),
        *(b'{"a": 01}', b'{"a": +1}', b'{"a": .5}', b'{"a": "\n"}', b'{"a": 1} // x'),
        b"\0{}",
    ],
)
def test_what_is_no_json_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"[Ee]xpect|[Ee]xtra|[Ii]nvalid|Illegal"):
        parse_json_object(data)


@pytest.mark.parametrize(
    "data",
    [
        b'{"a": 1, "a": 2}',
        b'{"a": 1, "a": 1}',
        rb'{"a": 1, "\u0061": 2}',
        b'{"b": {"a": 1, "a": 2}}',
        b'{"b": [[{"a": 1, "a": 2}]]}',
    ],
)
def test_a_name_that_comes_twice_is_refused_at_any_depth(data: bytes) -> None:
    with pytest.raises(ValueError, match="twice"):
        parse_json_object(data)


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity"])
def test_a_constant_of_javascript_is_refused(number: bytes) -> None:
    with pytest.raises(ValueError, match="is not JSON"):
        parse_json_object(b'{"a": %s}' % number)


@pytest.mark.parametrize("number", [b"1e309", b"-1e309", b"1" * 400 + b".0"])
def test_a_number_that_would_become_infinite_is_refused(number: bytes) -> None:
    with pytest.raises(ValueError, match="too large"):
        parse_json_object(b'{"a": %s}' % number)


def test_a_whole_number_of_very_many_digits_is_refused() -> None:
    with pytest.raises(ValueError, match="digits"):
        parse_json_object(b'{"a": %s}' % (b"1" * 5000))


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbf{}",
        '{"a": "é"}'.encode("latin-1"),
        '{"a": 1}'.encode("utf-16"),
        '{"a": 1}'.encode("utf-16-le"),
        b'{"a": "\xed\xa0\x80"}',  # a surrogate, as no UTF-8 has it
        b'{"a": "\xc0\x80"}',  # a second spelling of NUL
    ],
)
def test_only_utf_8_without_a_mark_is_read(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"codec|BOM|Expecting"):
        parse_json_object(data)


@pytest.mark.parametrize(
    "data",
    [
        rb'{"a": "\ud800"}',
        rb'{"a": "\uDFFF"}',
        rb'{"a": "\ude00\ud83d"}',
        rb'{"\ud800": 1}',
        rb'{"a": [{"b": "x\ud83d"}]}',
    ],
)
def test_half_a_character_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="half a character"):
        parse_json_object(data)


@pytest.mark.parametrize("unit", [b"[", b'{"a":'])
def test_a_document_that_is_nested_too_deeply_is_refused(unit: bytes) -> None:
    with pytest.raises(ValueError, match="too deeply"):
        parse_json_object(b'{"a":' + unit * 100_000)
