"""What holds for every path, query and host: the dataset judged is the one served."""

import urllib.parse

from hypothesis import example, given
from hypothesis import strategies as st

from authz_server.facts import Body, BodyState, Facts
from authz_server.operations.actions import Action
from authz_server.operations.classify import classify
from authz_server.operations.operation import Operation, OperationError
from authz_server.operations.upstreams import DatasetUpstream, UpstreamIndex

HOST = "s3.test"
DATASETS = {"/b/d": "d", "/b/d/e": "e", "/whole": "whole", "/b/x/y": "y"}
INDEX = UpstreamIndex(
    triton=frozenset(),
    dataset={"data": DatasetUpstream(DATASETS, frozenset({HOST}), frozenset({HOST}))},
)
LISTINGS = ("list-type=2&prefix=", "prefix=", "versions&prefix=", "uploads&prefix=")

# Pieces that meet the rules' edges far more often than chance would.
PIECES = st.sampled_from(
    ["b", "d", "e", "whole", "x", "y", "dd", "/", "/", "/", ".", "..", "%2F", "%2E",
     "%20", "%C3%A9", "%61", "+", "%25", "?", "=", "&", ";", "a", "#", "\\", "%5C", "B"]
)  # fmt: skip
TEXTS = st.lists(PIECES, max_size=9).map("".join)
BUCKETS = st.sampled_from(["/b", "/b/", "/whole", "/whole/", "/"])
PATHS = st.one_of(
    st.sampled_from(["/b/d/", "/b/d/e/", "/whole/", "/b/x/y", "/"]).flatmap(
        lambda start: TEXTS.map(lambda rest: start + rest)
    ),
    st.builds("{}?{}{}".format, BUCKETS, st.sampled_from(LISTINGS), TEXTS),
)
SOURCES = st.builds(
    "{}{}".format,
    st.sampled_from(["b/d/", "/b/d/e/", "whole/", "whole%2F", "b/x/y", "/", ""]),
    TEXTS,
)
HOSTS = st.sampled_from([HOST, f"whole.{HOST}", f"bbb.{HOST}", f"b.{HOST}", "other"])
METHODS = st.sampled_from(["GET", "HEAD", "PUT", "POST", "DELETE", "PATCH"])


def facts(method: bytes, path: bytes, host: bytes, *sources: bytes) -> Facts:
    return Facts(
        principal=b"",
        certificate=b"",
        destination=b"",
        upstream=b"data",
        method=method,
        path=path,
        host=host,
        is_grpc=False,
        headers=(),
        body=Body(BodyState.UNREAD),
        signals=(("x-amz-copy-source", sources),) if sources else (),
    )


def judge(method: str, path: str, host: str, *sources: str) -> Operation | None:
    try:
        return classify(
            facts(
                method.encode(),
                path.encode(),
                host.encode(),
                *(source.encode() for source in sources),
            ),
            INDEX,
            trust_host=False,
        )
    except OperationError:
        return None


def served(path: str, host: str) -> tuple[str, str]:
    """Return bucket and key (or prefix) as a store reads them: decoded once."""
    raw, _, query = path.partition("?")
    name = urllib.parse.unquote(raw, errors="strict")
    bucket = host.removesuffix(HOST).removesuffix(".")
    if bucket:
        key = name[1:]
    else:
        bucket, _, key = name[1:].partition("/")
    return bucket, key or urllib.parse.parse_qs(query).get("prefix", [""])[0]


def holders(bucket: str, start: str) -> set[str]:
    """Return the datasets to which a key that starts so may belong, "" for none."""
    found = set()
    for rest in ("", "q", "/q", "/e/q", "e/q", "d/q", "d/e/q", "x/y/q", "y/q", "/y/q"):
        key = f"/{bucket}/{start}{rest}"
        inside = [path for path in DATASETS if f"{key}/".startswith(f"{path}/")]
        found.add(DATASETS[max(inside, key=len)] if inside else "")
    return found


@given(METHODS, PATHS, HOSTS)
@example("GET", "/?prefix=whole/a", HOST)
@example("GET", "/b?list-type=2&prefix=d", HOST)
@example("GET", "/b?prefix=d%2Fe", HOST)
@example("PUT", "/b/d/../x", HOST)
@example("GET", "/b?prefix=d/../x", HOST)
def test_what_is_accepted_names_exactly_the_dataset_that_holds_it(
    method: str, path: str, host: str
) -> None:
    got = judge(method, path, host)
    if got is None:
        return
    bucket, name = served(path, host)
    raw, _, _ = path.partition("?")
    is_object = bool(raw.strip("/").count("/")) or (host != HOST and raw != "/")
    if is_object:
        # The object itself, and whatever lies beneath it on a file server.
        name = name.rstrip("/")
        own = f"/{bucket}/{name}/"
        inside = [path for path in DATASETS if own.startswith(f"{path}/")]
        assert got.dataset == DATASETS[max(inside, key=len)]
        assert not any(path.startswith(own) for path in DATASETS)
    else:
        assert holders(bucket, name) == {got.dataset}
    reads = {"GET", "HEAD"}
    assert got.call.action is (
        Action.DATASET_READ if method in reads else Action.DATASET_WRITE
    )
    assert not {".", ".."} & set(name.split("/"))


@given(st.sampled_from(["/b/d/t", "/whole/t"]), SOURCES)
def test_an_accepted_copy_reads_exactly_the_dataset_of_its_source(
    path: str, source: str
) -> None:
    got = judge("PUT", path, HOST, source)
    if got is None:
        return
    assert got.also is not None
    name, _, _ = source.partition("?")
    key = "/" + urllib.parse.unquote(name, errors="strict").removeprefix("/") + "/"
    inside = [path for path in DATASETS if key.startswith(f"{path}/")]
    assert got.also.dataset == DATASETS[max(inside, key=len)]
    assert got.also.call.action is Action.DATASET_READ


@given(st.binary(max_size=9), st.binary(max_size=40), st.binary(max_size=20))
@example(b"GET", b"/\xff", b"s3.test")
@example(b"\xff", b"/whole/a", b"s3.test")
def test_any_bytes_give_an_operation_or_an_operation_error(
    method: bytes, path: bytes, host: bytes
) -> None:
    for known in (
        facts(method, path, host),
        facts(b"GET", b"/whole/" + path, HOST.encode()),
        facts(b"GET", b"/b?list-type=2&" + path, HOST.encode()),
        facts(b"PUT", b"/whole/a", HOST.encode(), path),
        facts(b"PUT", b"/whole/a", HOST.encode(), b"whole/a?versionId=" + path),
    ):
        try:
            got = classify(known, INDEX, trust_host=False)
        except OperationError:
            continue
        assert got.dataset in DATASETS.values()
