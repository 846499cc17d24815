"""What is emitted for random plants differs by known limits alone."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from verification import compared, emitted, found_in, make_plant

from authz_server.verify.limits import MEANING, Limit


def _verify(seeds: Iterable[int]) -> set[Limit]:
    seen: set[Limit] = set()
    for seed in seeds:
        policy, site = make_plant(random.Random(seed))
        files = emitted(policy, site)
        found = found_in(item for manifests in files.values() for item in manifests)
        differences, known = compared(policy, site, found, list(files))
        assert differences == [], seed
        seen |= {item.limit for item in known if item.limit is not None}
    return seen


def test_random_plants_agree() -> None:
    assert _verify(range(14)) >= {Limit.COARSE, Limit.CONDITION, Limit.NODES}


@pytest.mark.long
def test_many_random_plants_agree_and_show_every_limit() -> None:
    assert _verify(range(1000, 1300)) == set(Limit)


def test_every_limit_has_a_meaning() -> None:
    assert MEANING.keys() == set(Limit)
