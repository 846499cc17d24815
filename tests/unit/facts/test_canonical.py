import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import facts

from authz_server.facts import Facts


@given(facts())
def test_facts_survive_encoding(value: Facts) -> None:
    assert Facts.decode(value.encode()) == value


@given(facts(), facts())
def test_different_facts_never_have_the_same_bytes(one: Facts, other: Facts) -> None:
    assert (one == other) == (one.encode() == other.encode())


@given(facts(), facts())
def test_a_change_of_any_single_fact_changes_the_bytes(
    one: Facts, other: Facts
) -> None:
    for item in dataclasses.fields(Facts):
        value = getattr(other, item.name)
        mixed = dataclasses.replace(one, **{item.name: value})
        if value != getattr(one, item.name):
            assert mixed.encode() != one.encode()


@given(facts())
def test_cut_off_or_trailing_bytes_are_not_facts(value: Facts) -> None:
    key = value.encode()
    for bad in (key[:-1], key + b"\x00", b"", b"\x01" + key[1:]):
        with pytest.raises(ValueError, match="facts"):
            Facts.decode(bad)


@given(facts(), st.data())
def test_bytes_with_one_changed_are_other_facts_or_none(
    value: Facts, data: st.DataObject
) -> None:
    key = bytearray(value.encode())
    position = data.draw(st.integers(0, len(key) - 1))
    key[position] ^= data.draw(st.integers(1, 255))
    try:
        found = Facts.decode(bytes(key))
    except ValueError:
        return
    # Bits that no flag has say nothing, and `encode` sets none.
    assert found == value or found.encode() == key
    assert Facts.decode(found.encode()) == found


@given(st.binary(max_size=80))
def test_any_bytes_are_facts_or_a_value_error(raw: bytes) -> None:
    for key in (raw, b"\x04" + raw, b"\x04" + bytes(37) + raw):
        try:
            found = Facts.decode(key)
        except ValueError:
            continue
        assert Facts.decode(found.encode()) == found
