import pytest

from authz_server.errors import SpiffeIdError
from authz_server.identity.spiffe_id import SpiffeId, TrustDomain
from authz_server.identity.spiffe_pattern import SpiffePattern

MATCHES = [
    ("spiffe://td/a/b", "spiffe://td/a/b"),
    ("spiffe://td/a/*", "spiffe://td/a/b"),
    ("spiffe://td/*/b", "spiffe://td/a/b"),
    ("spiffe://td/a/**", "spiffe://td/a/b"),
    ("spiffe://td/a/**", "spiffe://td/a/b/c/d"),
    ("spiffe://td/*/b/**", "spiffe://td/a/b/c"),
    ("spiffe://td/**", "spiffe://td/a"),
]

DOES_NOT_MATCH = [
    ("spiffe://a.test/x", "spiffe://a.test.evil/x"),
    ("spiffe://a.io/x", "spiffe://axio/x"),
    ("spiffe://td/ns/prod", "spiffe://td/ns/prod-evil"),
    ("spiffe://td/ns/prod", "spiffe://td/ns/prod/x"),
    ("spiffe://td/ns/*", "spiffe://td/ns/a/b"),
    ("spiffe://td/ns/*", "spiffe://td/ns"),
    ("spiffe://td/ns/**", "spiffe://td/ns"),
    ("spiffe://td/ns/**", "spiffe://td/other/x"),
    ("spiffe://td/**", "spiffe://td"),
    ("spiffe://td/a.b", "spiffe://td/axb"),
]


@pytest.mark.parametrize(("pattern", "spiffe_id"), MATCHES)
def test_an_id_in_the_set_matches(pattern: str, spiffe_id: str) -> None:
    assert SpiffePattern.parse(pattern).matches(SpiffeId.parse(spiffe_id))


@pytest.mark.parametrize(("pattern", "spiffe_id"), DOES_NOT_MATCH)
def test_an_id_outside_the_set_does_not_match(pattern: str, spiffe_id: str) -> None:
    assert not SpiffePattern.parse(pattern).matches(SpiffeId.parse(spiffe_id))


@pytest.mark.parametrize(
    "text",
    [
        "td/a",
        "spiffe://td",
        "spiffe://td/",
        "spiffe://*/a",
        "spiffe://td/a*",
        "spiffe://td/**/a",
        "spiffe://td/a/../b",
        "spiffe://td//a",
        "spiffe://TD/a",
    ],
)
def test_what_is_no_pattern_is_rejected(text: str) -> None:
    with pytest.raises(SpiffeIdError):
        SpiffePattern.parse(text)


@pytest.mark.parametrize(
    ("text", "is_exact"),
    [
        ("spiffe://td/a/b", True),
        ("spiffe://td/*/b", False),
        ("spiffe://td/a/**", False),
    ],
)
def test_a_pattern_is_printed_unchanged_and_knows_whether_it_is_exact(
    text: str, is_exact: bool
) -> None:
    pattern = SpiffePattern.parse(text)
    assert str(pattern) == text
    assert pattern.is_exact is is_exact


@pytest.mark.parametrize("segments", [("a/b",), ("a/b", "c"), ("",), ("a", "..")])
def test_no_pattern_can_be_made_of_what_is_no_segment(
    segments: tuple[str, ...],
) -> None:
    with pytest.raises(SpiffeIdError):
        SpiffePattern(TrustDomain("td"), segments)


def test_patterns_are_sorted_by_segments_not_by_letters() -> None:
    texts = ["spiffe://a/b/c", "spiffe://a/b-c/a", "spiffe://a/**", "spiffe://b/a/*"]
    patterns = [SpiffePattern.parse(text) for text in reversed(texts)]
    # By letters `b-c/a` would come before `b/c`.
    assert list(map(str, sorted(patterns))) == [texts[2], *texts[:2], texts[3]]


def test_a_pattern_is_the_same_however_it_was_made() -> None:
    made = SpiffePattern(TrustDomain("a.example"), ("b", "*"), has_rest=True)
    assert made == SpiffePattern.parse("spiffe://a.example/b/*/**")
    assert hash(made) == hash(SpiffePattern.parse("spiffe://a.example/b/*/**"))
    assert made.segments == ("b", "*")
    assert made.has_rest
    assert made != SpiffePattern.parse("spiffe://a.example/b/*")
