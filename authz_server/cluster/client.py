"""Kubernetes' API: the one module that imports the ``kubernetes`` library.

Objects are plain mappings, as emitters make them; a kind of a CRD is like any other.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, Self, cast
from urllib.parse import quote

from authz_server.cluster.answers import RefusedError, refusal
from authz_server.cluster.kinds import Key, Kind
from authz_server.cluster.steps import FIELD_MANAGER
from authz_server.emit.manifest import Object
from authz_server.errors import SetupError

try:
    import urllib3
    from kubernetes import config
    from kubernetes.client import ApiClient, Configuration
    from kubernetes.client.exceptions import OpenApiException
    from kubernetes.config.config_exception import ConfigException
except ImportError as error:
    raise SetupError(
        "Kubernetes needs the extra: pip install 'authz-server[kubernetes]'"
    ) from error

PAGE: Final = 500
"""Objects in one answer: as many as kubectl asks for."""

CONNECTIONS: Final = 8
"""Requests at a time. The API server's own fairness is per user; more would queue."""

_BESIDE: Final = 3
"""A controller's lease and two watches, while it plans."""

WATCH_S: Final = 30
"""How long a watch lasts before a new one follows; the API server ends it."""

_TIMEOUT_S: Final = (10.0, 60.0)  # to connect, to read

_JSON: Final = "application/json"
_APPLY: Final = "application/apply-patch+yaml"  # of which JSON is a part


@dataclass(frozen=True, slots=True)
class Resource:
    """Where objects of a kind are.

    Attributes:
        path: of the group and version, e.g. ``/apis/apps/v1``.
    """

    path: str
    plural: str
    is_namespaced: bool


class Cluster:
    """A connection to an API server. Threads may share it.

    Every method raises `RefusedError` if the server says no, and `SetupError` if it
    can't be reached.
    """

    def __init__(self, configuration: Configuration) -> None:
        self._client = ApiClient(configuration)
        self._host = configuration.host
        self._resources: dict[str, dict[str, Resource]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._client.rest_client.close()

    def resource(self, kind: Kind) -> Resource | None:
        """Return where objects of `kind` are; None if the cluster has no such kind."""
        api_version, name = kind
        # What was not there may have been installed since.
        if name not in self._resources.get(api_version, {}):
            self._resources[api_version] = self._discover(api_version)
        return self._resources[api_version].get(name)

    def objects(self, kind: Kind, labels: str, namespace: str = "") -> Iterator[Object]:
        """Yield all objects of `kind` with these labels.

        Nothing, if the cluster has no such kind.

        Args:
            labels: a selector, ``NAME=VALUE,NAME=VALUE``.
            namespace: theirs; empty for all.
        """
        if self.resource(kind) is None:
            return
        path = self._folder(kind, namespace)
        yield from self._listed(kind, path, {"labelSelector": labels})[0]

    def listed(self, kind: Kind, namespace: str) -> tuple[list[Object], str]:
        """Return all objects of `kind`, and from which version on to watch them.

        Args:
            namespace: theirs; empty for all.
        """
        return self._listed(kind, self._folder(kind, namespace), {})

    def watch(
        self, kind: Kind, namespace: str, version: str
    ) -> Iterator[tuple[str, Object]]:
        """Yield what happens to objects of `kind` after `version`: what, and to which.

        Ends by itself after `WATCH_S`.

        Raises:
            RefusedError: also later on; with status 410 the version is too old.
        """
        query = {
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_S),
        }
        for line in self._lines(self._folder(kind, namespace), query):
            event = _document(line)
            if not event:
                raise SetupError(f"{self._host}: a watch ended in the middle of a line")
            if event["type"] == "ERROR":
                status = event["object"]
                raise refusal(self._host, int(status.get("code", 500)), status)
            yield event["type"], event["object"]

    def create(self, item: Object) -> Object:
        """Create `item`, and return it as it is then."""
        key = Key.of(item)
        path = self._folder((key.api_version, key.kind), key.namespace)
        return self._request("POST", path, {}, dict(item), _JSON)[0]

    def replace(self, item: Object) -> Object:
        """Put `item` in the place of what it was read as.

        Raises:
            RefusedError: with status 409 if that has changed since.
        """
        return self._request("PUT", self._path(Key.of(item)), {}, dict(item), _JSON)[0]

    def apply_status(self, item: Object, status: Mapping[str, Any]) -> None:
        """Apply `status` as the status of `item`.

        Raises:
            RefusedError: with status 409 if `item` has changed since it was read.
        """
        key = Key.of(item)
        body = {
            "apiVersion": key.api_version,
            "kind": key.kind,
            "metadata": {
                "name": key.name,
                "namespace": key.namespace,
                # Its `uid` would be ignored here.
                "resourceVersion": item["metadata"]["resourceVersion"],
            },
            "status": dict(status),
        }
        query = {"fieldManager": f"{FIELD_MANAGER}-controller", "force": "true"}
        self._request("PATCH", f"{self._path(key)}/status", query, body, _APPLY)

    def find(self, key: Key) -> Object | None:
        """Return the object; None if it isn't there."""
        try:
            return self._request("GET", self._path(key))[0]
        except RefusedError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise

    def apply(
        self, item: Object, *, force: bool, dry_run: bool = False
    ) -> tuple[Object, bool]:
        """Apply `item` on the server's side, and return what it is then.

        Args:
            force: take over fields that others have set.

        Returns:
            The object, and whether it is new.
        """
        query = {
            "fieldManager": FIELD_MANAGER,
            "fieldValidation": "Strict",
            "force": "true" if force else "false",
        }
        if dry_run:
            query["dryRun"] = "All"
        answer, status = self._request(
            "PATCH", self._path(Key.of(item)), query, dict(item), _APPLY
        )
        return answer, status == HTTPStatus.CREATED

    def delete(
        self, key: Key, uid: str, resource_version: str, *, dry_run: bool = False
    ) -> None:
        """Delete the object if it still is the one with `uid`, and unchanged since.

        One that is gone already is deleted.
        """
        body: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
            "preconditions": {"uid": uid, "resourceVersion": resource_version},
        }
        if dry_run:
            body["dryRun"] = ["All"]
        try:
            self._request("DELETE", self._path(key), {}, body, _JSON)
        except RefusedError as error:
            if error.status == HTTPStatus.CONFLICT:
                raise RefusedError(
                    "was changed since the plan was made; run again",
                    HTTPStatus.CONFLICT,
                ) from error
            if error.status != HTTPStatus.NOT_FOUND:
                raise

    def _discover(self, api_version: str) -> dict[str, Resource]:
        path = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
        try:
            answer, _ = self._request("GET", path)
        except RefusedError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return {}
            raise
        return {
            item["kind"]: Resource(path, item["name"], item["namespaced"])
            for item in answer["resources"]
            if "/" not in item["name"]  # no subresource
        }

    def _path(self, key: Key) -> str:
        resource = self.resource((key.api_version, key.kind))
        if resource is None:
            raise RefusedError(
                f"the cluster has no {key.kind} ({key.api_version})",
                HTTPStatus.NOT_FOUND,
            )
        inside = f"/namespaces/{quote(key.namespace, safe='')}" if key.namespace else ""
        name = quote(key.name, safe="")
        return f"{resource.path}{inside}/{resource.plural}/{name}"

    def _folder(self, kind: Kind, namespace: str) -> str:
        resource = self.resource(kind)
        if resource is None:
            raise RefusedError(
                f"the cluster has no {kind[1]} ({kind[0]})", HTTPStatus.NOT_FOUND
            )
        inside = f"/namespaces/{quote(namespace, safe='')}" if namespace else ""
        return f"{resource.path}{inside}/{resource.plural}"

    def _listed(
        self, kind: Kind, path: str, query: Mapping[str, str]
    ) -> tuple[list[Object], str]:
        """Return what a list holds, and the version that it is of."""
        # What was seen before a page is lost would come again: pages are collected.
        try:
            items, version = self._pages(path, query)
        except RefusedError as error:
            if error.status != HTTPStatus.GONE:
                raise
            # The revision that the pages were of was compacted away: once more.
            items, version = self._pages(path, query)
        # Items of a list don't say what they are.
        named = {"apiVersion": kind[0], "kind": kind[1]}
        return [{**item, **named} for item in items], version

    def _pages(
        self, path: str, query: Mapping[str, str]
    ) -> tuple[list[dict[str, Any]], str]:
        items: list[dict[str, Any]] = []
        query = {**query, "limit": str(PAGE)}
        while True:
            answer, _ = self._request("GET", path, query)
            items += answer["items"]
            meta = answer["metadata"]
            token = meta.get("continue")
            if not token:
                return items, str(meta.get("resourceVersion", ""))
            query = {**query, "continue": token}

    def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str = "",
    ) -> tuple[dict[str, Any], int]:
        with self._answered(method, path, query, body, content_type) as answer:
            return _document(answer.read()), answer.status

    def _lines(self, path: str, query: Mapping[str, str]) -> Iterator[bytes]:
        with self._answered("GET", path, query) as answer:
            yield from answer

    @contextlib.contextmanager
    def _answered(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str = "",
    ) -> Iterator[urllib3.HTTPResponse]:
        """Yield the answer to a request, if it is not a refusal."""
        headers = {"Accept": _JSON, "User-Agent": FIELD_MANAGER}
        if content_type:
            headers["Content-Type"] = content_type
        request = self._client.param_serialize(
            method=method,
            resource_path=path,
            query_params=sorted((query or {}).items()),
            header_params=headers,
            body=body,
            auth_settings=["BearerToken"],
        )
        try:
            sent = self._client.call_api(*request, _request_timeout=_TIMEOUT_S)
            answer: urllib3.HTTPResponse = sent.response
            try:
                if not 200 <= answer.status < 300:  # noqa: PLR2004 - success
                    document = _document(answer.read())
                    raise refusal(self._host, answer.status, document)
                yield answer
            finally:
                # Read to its end, it has given its connection back already.
                answer.close()
        except (urllib3.exceptions.HTTPError, OpenApiException, OSError) as error:
            raise SetupError(
                f"{self._host}: can't be reached: {_cause(error)}; is it the right "
                "cluster (--context, --kubeconfig)?"
            ) from error


def _document(data: bytes) -> dict[str, Any]:
    """Return the JSON object that was sent; an empty one if it was something else."""
    try:
        document = json.loads(data)
    except ValueError:
        return {}  # a proxy's own page
    return document if isinstance(document, dict) else {}


def connect(context: str | None, kubeconfig: Path | None) -> Cluster:
    """Return a connection to the cluster that a kubeconfig names, or the one we are in.

    Args:
        context: of the kubeconfig; None for its current one.
        kubeconfig: None for ``KUBECONFIG`` or the one in the home directory; if
            there is none, a pod's service account.

    Raises:
        SetupError: if neither names a cluster.
    """
    configuration = Configuration()
    configuration.connection_pool_maxsize = CONNECTIONS + _BESIDE
    # 429 is how the API server says "later" (API Priority and Fairness); all requests
    # made here may be repeated.
    configuration.retries = urllib3.Retry(
        total=8,
        connect=1,
        read=0,
        redirect=0,
        status_forcelist=[429],
        allowed_methods=None,
        backoff_factor=0.5,
        raise_on_status=False,
    )
    try:
        config.load_kube_config(  # type: ignore[no-untyped-call]
            config_file=None if kubeconfig is None else str(kubeconfig),
            context=context,
            client_configuration=configuration,
            persist_config=False,
        )
    except ConfigException as error:
        if kubeconfig is not None or context is not None:
            raise SetupError(
                f"{kubeconfig or 'kubeconfig'}: names no cluster to use: {error}"
            ) from error
        _load_own(configuration)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SetupError(
            f"{kubeconfig or 'kubeconfig'}: can't be read: {error}"
        ) from error
    return Cluster(configuration)


def _load_own(configuration: Configuration) -> None:
    try:
        config.load_incluster_config(  # type: ignore[no-untyped-call]
            client_configuration=configuration
        )
    except ConfigException as error:
        raise SetupError(
            "no cluster: there is no kubeconfig, and this is no pod with a service "
            "account; name one with --kubeconfig"
        ) from error


def _cause(error: BaseException) -> str:
    """Return the innermost reason: urllib3 wraps it in what it was about to do."""
    reason = cast("BaseException | None", getattr(error, "reason", None))
    while isinstance(reason, BaseException):
        error, reason = reason, getattr(reason, "reason", None)
    return str(error).rpartition(": ")[2]
