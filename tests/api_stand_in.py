"""A stand-in for the API server, where its answers must be odd or it is not built.

It knows nothing of defaults, validation or field sets: what the real one makes of our
requests is for `tests/integration/test_apply.py` and `test_controller.py`.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import yaml

from authz_server.cluster.kinds import ORDER
from authz_server.emit.crd import GROUP, KIND, VERSION

Answer = tuple[int, Any]

CLUSTER_WIDE = {
    *("Namespace", "CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding"),
    *("ClusterFederatedTrustDomain", "ClusterStaticEntry", "ClusterSPIFFEID"),
    "CiliumClusterwideNetworkPolicy",
}


POLICIES = f"/apis/{GROUP}/{VERSION}/namespaces/{{}}/accesspolicies"
SERVED = [
    *ORDER,
    *(("v1", "Pod"), ("v1", "Event"), ("coordination.k8s.io/v1", "Lease")),
    (f"{GROUP}/{VERSION}", KIND),
]


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Any


def failure(code: int, message: str, **details: Any) -> Answer:
    return code, {"kind": "Status", "message": message, "details": details}


@dataclass
class StandIn:
    """Objects by path, and what was asked.

    Attributes:
        odd: answers instead, if it returns anything.
        without: API groups that are not served.
        events: what happened, as lines of a watch; the place is the version.
        watch_s: how long a watch lasts.
    """

    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    odd: Callable[[Asked], Answer | None] = lambda _: None
    without: set[str] = field(default_factory=set)
    url: str = ""
    events: list[dict[str, Any]] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)
    watch_s: float = 30.0

    def changes(self) -> list[str]:
        """What was asked for that changes anything, as ``METHOD NAME``."""
        return [
            f"{item.method} {item.path.rpartition('/')[2]}"
            for item in self.asked
            if item.method != "GET"
            and "dryRun" not in item.query
            and "dryRun" not in (item.body or {})
        ]

    def answer(self, asked: Asked) -> Answer:
        with self.lock:
            self.asked.append(asked)
            return self.odd(asked) or getattr(self, asked.method)(asked)

    def GET(self, asked: Asked) -> Answer:  # noqa: N802
        if asked.path in self.objects:
            return 200, self.objects[asked.path]
        version = asked.path.removeprefix("/apis/").removeprefix("/api/")
        kinds = [kind for known, kind in SERVED if known == version]
        if kinds:
            if version.partition("/")[0] in self.without:
                return 404, "404 page not found"
            return 200, {"resources": [*map(resource, kinds), status_of(kinds[0])]}
        if asked.path.rpartition("/")[2] not in PLURALS:
            return failure(404, "not found", kind=asked.path.split("/")[-2])
        found = [
            item for path, item in sorted(self.objects.items()) if _is_in(asked, path)
        ]
        start = int(asked.query.get("continue", 0))
        end = start + 2  # pages are small here, so that there are several
        return 200, {
            "items": [
                {k: v for k, v in item.items() if k not in {"kind", "apiVersion"}}
                for item in found[start:end]
            ],
            "metadata": {
                "resourceVersion": str(len(self.events)),
                **({"continue": str(end)} if end < len(found) else {}),
            },
        }

    def watch(self, asked: Asked) -> Iterator[str]:
        """Yield the lines of a watch until its time is over."""
        seen, end_s = (
            int(asked.query["resourceVersion"]),
            time.monotonic() + (self.watch_s),
        )
        while time.monotonic() < end_s:
            for event in self.events[seen:]:
                seen += 1
                if _is_in(asked, event["path"]):
                    yield json.dumps(event) + "\n"
            time.sleep(0.01)

    def put(self, path: str, item: dict[str, Any] | None) -> None:
        """Let the object at `path` be `item`; None deletes it."""
        with self.lock:
            before = self.objects.pop(path, None)
            what = "DELETED" if item is None else "MODIFIED" if before else "ADDED"
            shown = dict(item or before or {})
            version = str(len(self.events) + 1)
            shown["metadata"] = {**shown["metadata"], "resourceVersion": version}
            if item is not None:
                self.objects[path] = shown
            self.events.append({"type": what, "object": shown, "path": path})

    def POST(self, asked: Asked) -> Answer:  # noqa: N802
        path = f"{asked.path}/{asked.body['metadata']['name']}"
        if path in self.objects:
            return failure(409, "already exists")
        self.put(path, asked.body)
        return 201, self.objects[path]

    def PUT(self, asked: Asked) -> Answer:  # noqa: N802
        there = self.objects[asked.path]["metadata"]["resourceVersion"]
        if asked.body["metadata"]["resourceVersion"] != there:
            return failure(409, "the object has been modified")
        self.put(asked.path, asked.body)
        return 200, self.objects[asked.path]

    def PATCH(self, asked: Asked) -> Answer:  # noqa: N802
        body = asked.body
        if asked.path.endswith("/status"):
            return self._patch_status(asked.path.removesuffix("/status"), body)
        before = self.objects.get(asked.path)
        namespace = body["metadata"].get("namespace")
        if namespace and f"/api/v1/namespaces/{namespace}" not in self.objects:
            return failure(404, "not found", kind="namespaces", name=namespace)
        owned = {"manager": "authz-server", "operation": "Apply", "fieldsV1": {}}
        meta = {
            **(before["metadata"] if before else {"uid": f"uid of {asked.path}"}),
            **body["metadata"],
            "managedFields": [owned],
        }
        after = {**(before or {}), **body, "metadata": meta}
        if after != before and "dryRun" not in asked.query:
            self.put(asked.path, after)
            after = self.objects[asked.path]
        return 200 if before else 201, after

    def _patch_status(self, path: str, body: Mapping[str, Any]) -> Answer:
        there = self.objects.get(path)
        if there is None:
            return failure(404, "not found")
        version = body["metadata"]["resourceVersion"]
        if there["metadata"]["resourceVersion"] != version:
            return failure(409, "the object has been modified")
        self.put(path, {**there, "status": body["status"]})
        return 200, self.objects[path]

    def DELETE(self, asked: Asked) -> Answer:  # noqa: N802
        there = self.objects.get(asked.path)
        if there is None:
            return failure(404, "not found")
        wanted = asked.body["preconditions"]
        if any(there["metadata"][name] != value for name, value in wanted.items()):
            return failure(409, "the precondition failed")
        if "dryRun" not in asked.body:
            self.put(asked.path, None)
        return 200, {"kind": "Status"}

    def namespaces(self, *names: str) -> None:
        for name in names:
            self.objects[f"/api/v1/namespaces/{name}"] = {
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": {"name": name, "uid": name, "resourceVersion": "0"},
            }


def resource(kind: str) -> dict[str, Any]:
    plural = kind.lower()
    plural = plural[:-1] + "ies" if plural.endswith("y") else plural + "s"
    return {"kind": kind, "name": plural, "namespaced": kind not in CLUSTER_WIDE}


PLURALS = {resource(kind)["name"] for _, kind in SERVED}


def _is_in(asked: Asked, path: str) -> bool:
    """Whether the object at `path` is in the list that was asked for."""
    prefix, _, plural = asked.path.rpartition("/")
    return path.startswith(prefix) and path.split("/")[-2] == plural


def status_of(kind: str) -> dict[str, Any]:
    return {**resource(kind), "name": f"{resource(kind)['name']}/status"}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are written one after the other
    server: _Server

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        asked = Asked(
            self.command,
            unquote(parts.path),
            dict(parse_qsl(parts.query)),
            dict(self.headers.items()),
            json.loads(body) if body else None,
        )
        if "watch" in asked.query:
            self._stream(asked)
            return
        status, answer = self.server.stand_in.answer(asked)
        data = answer if isinstance(answer, str) else json.dumps(answer)
        self.send_response(status)
        if status == 429:
            self.send_header("Retry-After", "0")
        self.send_header("Content-Length", str(len(data.encode())))
        self.end_headers()
        self.wfile.write(data.encode())

    def _stream(self, asked: Asked) -> None:
        stand_in = self.server.stand_in
        with stand_in.lock:
            stand_in.asked.append(asked)
            odd = stand_in.odd(asked)
        self.send_response(200 if odd is None else odd[0])
        self.send_header("Connection", "close")
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            for line in stand_in.watch(asked) if odd is None else [odd[1]]:
                self.wfile.write(line.encode())
        self.close_connection = True

    do_GET = do_PATCH = do_DELETE = do_POST = do_PUT = _answer  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Nobody reads it."""


class _Server(ThreadingHTTPServer):
    # A thread lives as long as its connection, which the client may keep.
    daemon_threads = True
    block_on_close = False

    def __init__(self, stand_in: StandIn) -> None:
        self.stand_in = stand_in
        super().__init__(("127.0.0.1", 0), _Handler)


@contextlib.contextmanager
def running_stand_in() -> Iterator[StandIn]:
    found = StandIn()
    with _Server(found) as server:
        found.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield found
        server.shutdown()
        thread.join()


def kubeconfig_for(stand_in: StandIn, folder: Path) -> Path:
    path = folder / "kubeconfig"
    named = {
        "clusters": {"cluster": {"server": stand_in.url}},
        "users": {"user": {"token": "secret"}},
        "contexts": {"context": {"cluster": "it", "user": "it"}},
    }
    document = {"apiVersion": "v1", "kind": "Config", "current-context": "it"}
    items = {key: [{"name": "it", **value}] for key, value in named.items()}
    path.write_text(yaml.safe_dump({**document, **items}))
    return path
