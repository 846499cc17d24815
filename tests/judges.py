"""Judges of what is emitted, each built from others' Go source by ``make judges``.

All take objects as dictionaries, or files as they are. Nothing of ours decides here.
What a judge cannot read is an AssertionError with its own words, never an empty answer.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from authz_server.folders import cache_folder

MAKEFILE = Path(__file__).parents[1] / "Makefile"

Object: TypeAlias = dict[str, Any]
Source: TypeAlias = Object | Path
Port: TypeAlias = tuple[str, int]
"""A protocol, TCP, UDP or SCTP, and a pod's port."""

Edge: TypeAlias = tuple[str, str, str, int]
"""Who may connect to whom, as namespace/pod, and by which protocol and port."""


HEADING = re.compile(r"( is valid| has warnings:|errors? occurred:)$")
NO_POLICY = "no relevant Kubernetes network policy resources found"


@functools.cache
def program(name: str) -> Path:
    """Return where the Makefile puts what it calls `name`, as in ISTIOCTL."""
    text = MAKEFILE.read_text("utf-8")
    places = dict(re.findall(r"^(\w+) := (.*)$", text, re.MULTILINE))
    place = re.sub(r"\$\((\w+_VERSION)\)", lambda m: places[m[1]], places[name])
    path = Path(place.replace("$(CACHE)", str(cache_folder(os.environ))))
    assert path.is_file(), f"{path} is missing: run `make judges`"
    return path


def ask(
    command: Sequence[str | Path], *, accepts: Collection[int] = (0,)
) -> subprocess.CompletedProcess[str]:
    """Return what a judge said, if its exit code is one of `accepts`."""
    said = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False
    )
    assert said.returncode in accepts, said.stderr or said.stdout
    return said


def read(file: Path) -> list[Object]:
    """Return the objects of a file."""
    return [item for item in yaml.safe_load_all(file.read_text("utf-8")) if item]


@contextlib.contextmanager
def written(sources: Iterable[Source]) -> Iterator[list[Path]]:
    """Yield files, alone in their folder, that hold `sources`: files unchanged."""
    with tempfile.TemporaryDirectory(prefix="judged-") as name:
        folder = Path(name)
        objects: list[Object] = []
        for number, item in enumerate(sources):
            if isinstance(item, Path):
                (folder / f"{number:05}-{item.name}").write_bytes(item.read_bytes())
            else:
                objects.append(item)
        if objects:
            # JSON is YAML in which no string is taken for another type. The comment, as
            # some read a file that begins with a brace as JSON, which has no documents.
            text = "\n---\n".join(map(json.dumps, objects))
            (folder / "objects.yaml").write_text(f"# YAML\n{text}\n", "utf-8")
        yield sorted(folder.iterdir())


# Istio


def istioctl_validate(*sources: Source) -> list[str]:
    """Return what ``istioctl validate`` holds against Istio's objects, warnings too."""
    with written(sources) as files:
        named = [f"--filename={file}" for file in files]
        said = ask([program("ISTIOCTL"), "validate", *named], accepts={0, 1})
    lines = [line.strip(" \t*") for line in (said.stdout + said.stderr).splitlines()]
    problems = [line for line in lines if line and not HEADING.search(line)]
    assert bool(said.returncode) <= bool(problems), lines
    return problems


def istiod_config(
    objects: Iterable[Source], mesh_config: Path, pod: str
) -> dict[str, list[Object]]:
    """Return what istiod would send to the sidecar of `pod`, a namespace/name.

    The pod and its namespace's Services must be among `objects`.

    Returns:
        listeners, routes, clusters and endpoints, as protobuf JSON by field names.
    """
    with written(objects) as files:
        about = [f"-mesh-config={mesh_config}", f"-pod={pod}"]
        answer = ask([program("ISTIOD_CONFIG"), *about, *files]).stdout
    config: dict[str, list[Object]] = json.loads(answer)
    return config


# NetworkPolicy


def connectivity(objects: Iterable[Source], ports: Iterable[Port]) -> set[Edge]:
    """Return which of `ports` each pod may reach at each other, says the SIG's engine.

    `objects` are Namespaces, Pods with ``status.podIP``, and NetworkPolicies.
    """
    asked = ",".join(f"{protocol}/{number}" for protocol, number in ports)
    with written(objects) as files:
        answer = ask([program("CONNECTIVITY"), "-ports", asked, *files]).stdout
    return {tuple(edge) for edge in json.loads(answer)}


def netpol_analyzer_edges(
    objects: Iterable[Source], ports: Iterable[Port]
) -> set[Edge]:
    """Return the same as `connectivity`, says np-guard's netpol-analyzer.

    Give it no IPv6: it takes ``fd00::/8`` for 253.0.0.0/8.
    """
    asked = list(ports)
    return {
        (way.source, way.destination, protocol, number)
        for way in netpol_analyzer_ways(objects)
        for protocol, number in asked
        if way.is_open(protocol, number) and "/" in way.source
        if "/" in way.destination
    }


@dataclass(frozen=True, slots=True)
class Way:
    """What may pass between two pods, or a pod and a range of addresses.

    Attributes:
        source: namespace/name, or first-last address.
        destination: like it.
        ranges: protocol, first and last port.
    """

    source: str
    destination: str
    ranges: frozenset[tuple[str, int, int]]

    def is_open(self, protocol: str, port: int) -> bool:
        """Return whether that port may be reached."""
        return any(
            name == protocol and first <= port <= last
            for name, first, last in self.ranges
        )


def netpol_analyzer_ways(objects: Iterable[Source]) -> set[Way]:
    """Return all that may pass, addresses outside of the cluster included."""
    # It knows a namespace's name by its label alone, which the API server sets.
    items = [_named(item) for item in objects]
    with written(items) as files:
        folder = files[0].parent
        # Not --fail: with it, 1.4.4 answers nothing at all. Without it, it goes on
        # without a file that it cannot read, and says so only on standard error.
        said = ask(
            [program("NETPOL_ANALYZER"), "list", "-o", "json", "--dirpath", folder]
        )
    complaints = said.stderr.splitlines()
    if not any(isinstance(i, Path) or i["kind"] == "NetworkPolicy" for i in items):
        complaints = [line for line in complaints if NO_POLICY not in line]
    assert complaints == [], said.stderr
    return {
        Way(_peer(way["src"]), _peer(way["dst"]), frozenset(_ranges(way["conn"])))
        for way in json.loads(said.stdout)
    }


def _named(item: Source) -> Source:
    if isinstance(item, Path) or item["kind"] != "Namespace":
        return item
    metadata = item["metadata"]
    labels = {
        **metadata.get("labels", {}),
        "kubernetes.io/metadata.name": metadata["name"],
    }
    return {**item, "metadata": {**metadata, "labels": labels}}


def _peer(text: str) -> str:
    return text.removesuffix("[Pod]")


def _ranges(text: str) -> Iterator[tuple[str, int, int]]:
    """Read ``TCP 80,9000-9010,UDP 53``."""
    if text == "All Connections":
        for protocol in ("TCP", "UDP", "SCTP"):
            yield protocol, 1, 65535
        return
    protocol = ""
    for item in text.split(","):
        head, _, tail = item.rpartition(" ")
        protocol = head or protocol
        first, _, last = tail.partition("-")
        yield protocol, int(first), int(last or first)


# SPIRE


@dataclass(frozen=True, slots=True)
class Registered:
    """An entry that the controller manager would register.

    Attributes:
        spiffe_id: who the workload is.
        parent_id: whose agent may hand it out.
        selectors: what the workload is known by, all of them, as type:value.
        x509_svid_ttl_s: 0 for the server's default.
        federates_with: trust domains.
    """

    spiffe_id: str
    parent_id: str
    selectors: frozenset[str]
    x509_svid_ttl_s: float
    federates_with: frozenset[str]

    @property
    def pod(self) -> str:
        """The namespace/name of its pod, its uid here; empty for a static entry."""
        uid = "k8s:pod-uid:"
        return next((s[len(uid) :] for s in self.selectors if s.startswith(uid)), "")


def spire_controller_problems(
    objects: Iterable[Source], trust_domain: str
) -> dict[str, list[str]]:
    """Return what the manager holds against each object, by kind/name.

    What gives way to another's entry with the same selectors is a problem as well.
    """
    answer = _spire_controller(objects, trust_domain)
    problems: dict[str, list[str]] = {}
    for item in answer["problems"]:
        problems.setdefault(item["object"], []).append(item["problem"])
    for name, count in answer["masked"].items():
        problems.setdefault(name, []).append(f"{count} masked")
    return problems


def spire_controller_entries(
    objects: Iterable[Source], trust_domain: str
) -> set[Registered]:
    """Return what the manager would register for the Pods among `objects`."""
    return {
        Registered(
            item["spiffe_id"],
            item["parent_id"],
            frozenset(item["selectors"]),
            item["x509_svid_ttl"],
            frozenset(item["federates_with"]),
        )
        for item in _spire_controller(objects, trust_domain)["entries"]
    }


def _spire_controller(objects: Iterable[Source], trust_domain: str) -> dict[str, Any]:
    with written(objects) as files:
        about = f"-trust-domain={trust_domain}"
        said = ask([program("SPIRE_CONTROLLER"), about, *files])
    answer: dict[str, Any] = json.loads(said.stdout)
    return answer
