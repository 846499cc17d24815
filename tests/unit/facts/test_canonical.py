import dataclasses

import pytest
from hypothesis import given
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
        with pytest.raises((ValueError, IndexError)):
            Facts.decode(bad)
