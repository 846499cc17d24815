"""Hypothesis strategies shared by the suites."""

from __future__ import annotations

from hypothesis import strategies as st

from authz_server.facts import Body, BodyState, Facts

SMALL_BYTES = st.binary(max_size=12)

BODIES = st.builds(
    Body,
    st.sampled_from(BodyState),
    st.lists(st.tuples(st.integers(1, 20), SMALL_BYTES), max_size=3).map(tuple),
)

HEADERS = st.lists(
    st.tuples(
        st.sampled_from(["x-role", "x-line", "accept"]),
        st.lists(SMALL_BYTES, min_size=1, max_size=2).map(tuple),
    ),
    max_size=3,
).map(tuple)


def facts() -> st.SearchStrategy[Facts]:
    """Return arbitrary facts."""
    return st.builds(
        Facts,
        principal=SMALL_BYTES,
        certificate=SMALL_BYTES,
        destination=SMALL_BYTES,
        upstream=SMALL_BYTES,
        method=SMALL_BYTES,
        path=SMALL_BYTES,
        host=SMALL_BYTES,
        is_grpc=st.booleans(),
        headers=HEADERS,
        body=BODIES,
        credentials=HEADERS,
        claims=SMALL_BYTES,
        signals=HEADERS,
        is_gated=st.booleans(),
    )
