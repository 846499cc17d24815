"""A real file server serves what was judged, and would serve what was refused."""

import functools
import http.client
import random
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from checks import check_request

from authz_server.errors import Reason
from authz_server.facts import Facts, Plan, extract
from authz_server.operations.classify import classify
from authz_server.operations.operation import OperationError
from authz_server.operations.s3 import SIGNALS
from authz_server.operations.upstreams import DatasetUpstream, UpstreamIndex

HOST = "data.factory.example"
FILES = [
    "pictures/line/a.png",
    "pictures/line/b c/d.png",
    "pictures/line/\u00fc/e.png",
    "pictures/line-of-others/secret.png",
    "pictures/secret.png",
    "secret/pictures/line/a.png",
    "whole/a",
    "whole/secret/a",
]
STORE = DatasetUpstream(
    {"/pictures/line": "line", "/whole": "whole"}, frozenset({HOST})
)
INDEX = UpstreamIndex(triton=frozenset(), dataset={"data": STORE})


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    root: Path = tmp_path_factory.mktemp("files")
    for name in FILES:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("/" + name, "utf-8")
    handler = functools.partial(_Quiet, directory=str(root))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def fetch(port: int, path: str) -> str | None:
    """Return the content of the file that `path` gets, which is its own name."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.putrequest("GET", path)
        connection.putheader("Host", HOST)
        connection.endheaders()
        response = connection.getresponse()
        content = response.read()
    finally:
        connection.close()
    is_file = response.status == 200 and content.startswith(b"/")
    return content.decode("utf-8") if is_file else None


def dataset_of(path: str) -> str | Reason:
    request = check_request(
        method="GET", path=path, host=HOST, extensions={"upstream": "data"}
    )
    facts = Facts.decode(extract(bytes(request), Plan(signals=SIGNALS))[0])
    try:
        return classify(facts, INDEX, trust_host=False).dataset
    except OperationError as error:
        return error.reason


@pytest.mark.parametrize(
    ("path", "dataset"),
    [
        ("/pictures/line/a.png", "line"),
        ("/pictures/line/b%20c/d.png", "line"),
        ("/pictures/line/%C3%BC/e.png", "line"),
        ("/whole/a", "whole"),
        ("/whole/secret/a?versionId=1", "whole"),
    ],
)
def test_a_file_of_a_dataset_is_judged_as_one_and_served(
    port: int, path: str, dataset: str
) -> None:
    assert fetch(port, path) is not None
    assert dataset_of(path) == dataset


@pytest.mark.parametrize(
    "path",
    [
        "/whole/../pictures/secret.png",
        "/whole/%2e%2e/pictures/secret.png",
        "/whole/%2E%2E%2Fpictures%2Fsecret.png",
        "/whole%2F..%2Fsecret/pictures/line/a.png",
        "/pictures/line/../secret.png",
        "/pictures//secret.png",
        "/secret/pictures/line/a.png",
        "/pictures/line-of-others/secret.png",
        "/%77hole/../pictures/secret.png",
        "/pictures/secret.png?x=/../line/a.png",
    ],
)
def test_what_the_server_would_serve_from_elsewhere_is_refused(
    port: int, path: str
) -> None:
    assert fetch(port, path) is not None
    assert isinstance(dataset_of(path), Reason)


def test_whatever_is_accepted_serves_a_file_of_that_dataset_or_none(port: int) -> None:
    rng = random.Random(7)
    pieces = [*"/////", "pictures", "line", "whole", "secret", "a", "a.png", "..", ".",
              "%2F", "%2e", "%2E", "secret.png", "-of-others", "%20", "%C3%BC", "e.png",
              "b%20c", "d.png", "%70ictures", "?", "#", "+"]  # fmt: skip
    starts = ["/pictures/line/", "/whole/", "/pictures/", "/"]
    served = refused = 0
    for _ in range(600):
        path = rng.choice(starts) + "".join(rng.choices(pieces, k=rng.randint(1, 6)))
        dataset = dataset_of(path)
        got = fetch(port, path)
        if isinstance(dataset, Reason):
            refused += got is not None
        elif got is not None:
            served += 1
            [prefix] = [
                path for path, name in STORE.datasets.items() if name == dataset
            ]
            assert got.startswith(prefix + "/")
    assert served
    assert refused
