"""Requests for datasets: object stores that speak S3, and plain file servers.

A dataset is everything beneath a path of its upstream, by whole segments. The first
segment is S3's bucket, named in the path ("path style") or in the host ("virtual-host
style"). What lies in no dataset is out of reach; so is a request that would touch or
disclose more than one dataset.
"""

from __future__ import annotations

import re
from typing import Final

from authz_server.errors import Reason
from authz_server.facts import Facts
from authz_server.operations.actions import Action
from authz_server.operations.object_name import decode_path, decode_value
from authz_server.operations.operation import Call, Operation, OperationError, Scope
from authz_server.operations.s3 import (
    copy_source,
    find_route,
    parse_query,
    split_source,
)
from authz_server.operations.upstreams import DatasetUpstream, normalize_host

# S3 User Guide, "General purpose bucket naming rules", without dots: with one label
# for the bucket a host has one reading.
_BUCKET_LABEL: Final = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]", re.ASCII)


def classify_dataset(
    facts: Facts, method: str, upstream: str, store: DatasetUpstream
) -> Operation:
    """Return what the request does to which dataset of `upstream`.

    A copy is the write of its target, and `also` the read of its source: both must be
    granted. Not checked: signatures, which are the store's; what a body says, so a
    request whose body names the objects counts as one on the whole bucket.

    Raises:
        OperationError: if that is not exactly one known operation in one dataset.
    """
    raw_path, _, query = facts.path.partition(b"?")
    path = decode_path(raw_path)
    bucket = _bucket_in_host(facts.host, store)
    if bucket:
        path = f"/{bucket}{path}"
    if path == "/":
        raise OperationError("what concerns all buckets is in no dataset")
    is_object = _names_object(path)
    parameters = parse_query(query)
    source = copy_source(facts.signals)
    route = find_route(method, parameters, is_object=is_object)
    if is_object:
        dataset = _dataset_of_object(path, store)
    else:
        prefix = decode_value(parameters.get("prefix", b""), "prefix")
        dataset = _dataset_beneath(f"{path.rstrip('/')}/{prefix}", store)
    also = None
    if source is not None:
        if method != "PUT":
            raise OperationError("only an object that is put can be a copy")
        also = _read_of_source(source, upstream, store)
    return Operation(Call(route.action, Scope.DATASET), upstream, dataset, also)


def _names_object(path: str) -> bool:
    """Return whether `path` has more than the one segment of a bucket."""
    return "/" in path.strip("/")


def _bucket_in_host(host: bytes, store: DatasetUpstream) -> str:
    """Return the bucket that `host` names; empty if it names none.

    To a store that does not know a host, any part of it may be a bucket: so a host
    that the policy does not list is refused even where the route names the upstream.
    """
    # A capital beyond ASCII can have a small letter within it.
    name = normalize_host(host) if host.isascii() else ""
    label, _, parent = name.partition(".")
    readings = [""] if name in store.hosts else []
    if parent in store.bucket_hosts and _BUCKET_LABEL.fullmatch(label):
        readings.append(label)
    if len(readings) != 1:
        raise OperationError(
            "the Host is not exactly one of the upstream's; add it to 'hosts' in the "
            "policy, or '*.HOST' for buckets named in the host"
        )
    return readings[0]


def _read_of_source(source: bytes, upstream: str, store: DatasetUpstream) -> Operation:
    path = "/" + decode_value(split_source(source), "the copy source")
    if not _names_object(path):
        raise OperationError("the copy source names no object", Reason.PATH_INVALID)
    return Operation(
        Call(Action.DATASET_READ, Scope.DATASET),
        upstream,
        _dataset_of_object(path, store),
    )


def _dataset_of_object(path: str, store: DatasetUpstream) -> str:
    """Return the dataset that holds `path`, and all that may be beneath it.

    To a file server an object's path may be a folder's.
    """
    path = path.rstrip("/")
    return _only_dataset(path, path + "/", store)


def _dataset_beneath(beginning: str, store: DatasetUpstream) -> str:
    """Return the dataset that holds everything whose path starts with `beginning`.

    It ends anywhere, so ``/b/images`` also stands for ``/b/images-of-others``: only
    what is before its last slash is sure to be a whole segment.
    """
    folder, _, _ = beginning.rpartition("/")
    return _only_dataset(folder, beginning, store)


def _only_dataset(path: str, beginning: str, store: DatasetUpstream) -> str:
    """Return the innermost dataset at or above `path`.

    Raises:
        OperationError: if there is none, or another has paths that start with
            `beginning`.
    """
    if not any(inner.startswith(beginning) for inner in store.datasets):
        while path:
            name = store.datasets.get(path)
            if name is not None:
                return name
            path, _, _ = path.rpartition("/")
    raise OperationError("the request is not within one dataset")
