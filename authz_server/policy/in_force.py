"""Holds the policy in force, and replaces it whole or not at all.

A new policy is compiled, loaded and tried before it replaces the old one. When that
fails the old one stays, and `error` says why.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from authz_server.errors import PolicyError
from authz_server.facts.input_paths import InputPaths
from authz_server.policy.compiler import REVISION_CHARS, ROOT, compile_policy
from authz_server.policy.document import no_collection
from authz_server.policy.engine import Engine
from authz_server.policy.envoy_decision import OPA_ENVOY
from authz_server.policy.time_limit import Schedule
from authz_server.policy.upstream_index import index_upstreams

if TYPE_CHECKING:
    from collections.abc import Callable

    from authz_server.identity.spiffe_id import TrustDomain
    from authz_server.operations.upstreams import UpstreamIndex
    from authz_server.policy.model import AccessPolicy

_log: Final = logging.getLogger("authz_server.policy")

_GRACE_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Material:
    """What a policy is made of.

    Attributes:
        wasm: the Rego that evaluates it.
        data: what Rego of one's own finds in `data` beside the policy.
    """

    policy: AccessPolicy
    wasm: bytes
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OpaEnvoyMaterial:
    """What a policy that is written for opa-envoy-plugin is made of.

    Attributes:
        data: what it finds in `data`.
        reads: the parts of its input that it gets to see.
    """

    wasm: bytes
    data: Mapping[str, Any]
    reads: InputPaths


@dataclass(frozen=True, slots=True)
class LoadedPolicy:
    """A policy in force.

    Attributes:
        trust_domains: whose workloads may call at all.
        upstreams: how requests name the policy's upstreams.
        schedule: which of its time limits hold.
        revision: changes whenever any decision could.
    """

    policy: AccessPolicy
    trust_domains: frozenset[TrustDomain]
    upstreams: UpstreamIndex
    schedule: Schedule
    engine: Engine
    revision: str


@dataclass(frozen=True, slots=True)
class OpaEnvoyPolicy:
    """A policy in force that is written for opa-envoy-plugin.

    Attributes:
        reads: the parts of its input that it gets to see.
        revision: changes whenever any decision could.
    """

    engine: Engine
    reads: InputPaths
    revision: str


AnyPolicy = LoadedPolicy | OpaEnvoyPolicy
"""A policy in force, of either form."""


class InForce:
    """The policy in force; none before the first `put`.

    Args:
        timeout_s: of one evaluation.
        instances: evaluations that can run at the same time.
        on_change: called after each replacement, in the thread that replaced; must not
            raise. What was decided by the old policy and not used up by then must be
            dropped there. Whoever keeps decisions has to note the revision *before*
            asking and compare it when storing: an evaluation may straddle the change.
    """

    def __init__(
        self,
        *,
        timeout_s: float,
        instances: int,
        on_change: Callable[[AnyPolicy], None] | None = None,
    ) -> None:
        self._timeout_s = timeout_s
        self._instances = instances
        self._on_change = on_change
        self._rehearse: Callable[[LoadedPolicy], Callable[[], None]] | None = None
        self._replacing = threading.Lock()
        self._current: AnyPolicy | None = None
        self._retired: dict[Engine, threading.Timer] = {}
        self.error: str | None = None
        """Why the policy in force may not be the newest; None if it is."""

    @property
    def current(self) -> AnyPolicy | None:
        """The policy in force; None before the first one was loaded.

        Take it once a request, and use its engine without delay.
        """
        return self._current

    def rehearse_with(
        self, rehearse: Callable[[LoadedPolicy], Callable[[], None]]
    ) -> None:
        """Let `rehearse` get to know each access policy that is about to come in force.

        What it returns is called as soon as the policy is.
        """
        self._rehearse = rehearse

    def put(self, material: Material | OpaEnvoyMaterial) -> None:
        """Put a policy in force, unless it is so already.

        Raises:
            PolicyError: if it cannot be; the old one stays.
        """
        with self._replacing, no_collection():
            self._put(material)

    def complain(self, where: object, problem: str) -> None:
        """Note, and log, that what is newest at `where` could not be put in force."""
        self.error = problem
        _log.error(
            "policy %s was not loaded, %s:\n%s",
            where,
            "the old one stays" if self._current else "all requests are denied",
            problem,
        )

    def stop(self) -> None:
        """Free what replaced policies held; the current one stays."""
        with self._replacing:
            for engine, timer in list(self._retired.items()):
                timer.cancel()
                engine.close()
            self._retired.clear()

    def close(self) -> None:
        """Stop, and free the current policy too: every later decision is an error."""
        self.stop()
        with self._replacing:
            if self._current is not None:
                self._current.engine.close()

    def _put(self, material: Material | OpaEnvoyMaterial) -> None:
        old = self._current
        loaded = (
            self._load_opa_envoy(material, old)
            if isinstance(material, OpaEnvoyMaterial)
            else self._load(material, old)
        )
        self.error = None
        if loaded is None:
            return
        remember = None
        if self._rehearse is not None and old and isinstance(loaded, LoadedPolicy):
            remember = self._rehearse(loaded)
        # First in force, then told: told first, a request could still ask the old
        # policy and keep its answer past the drop of old answers.
        self._current = loaded
        if remember is not None:
            remember()
        _log.info("policy %s revision %s is in force", _name(loaded), loaded.revision)
        if self._on_change is not None:
            self._on_change(loaded)
        if old is not None:
            self._retire(old.engine)

    def _load(self, material: Material, old: AnyPolicy | None) -> LoadedPolicy | None:
        """Return the policy, loaded; None if it is `old`."""
        policy = material.policy
        rego_digest = hashlib.sha256(material.wasm).digest()
        beside = _beside(material.data)
        if beside:
            rego_digest = hashlib.sha256(rego_digest + beside).digest()
        compiled = compile_policy(policy, rego_digest)
        if (
            isinstance(old, LoadedPolicy)
            and old.policy == policy
            and old.revision == compiled.revision
        ):
            return None
        return LoadedPolicy(
            policy=policy,
            trust_domains=policy.trust_domains,
            upstreams=index_upstreams(policy),
            schedule=Schedule(policy.time_limits),
            engine=Engine(
                material.wasm,
                b"{" + beside + b"," + compiled.data[1:] if beside else compiled.data,
                timeout_s=self._timeout_s,
                instances=self._instances,
            ),
            revision=compiled.revision,
        )

    def _load_opa_envoy(
        self, material: OpaEnvoyMaterial, old: AnyPolicy | None
    ) -> OpaEnvoyPolicy | None:
        """Return the policy, loaded; None if it is `old`."""
        data = _canonical(material.data)
        digest = hashlib.sha256(material.wasm).digest()
        digest += hashlib.sha256(data).digest() + str(material.reads).encode()
        revision = hashlib.sha256(digest).hexdigest()[:REVISION_CHARS]
        if isinstance(old, OpaEnvoyPolicy) and old.revision == revision:
            return None
        engine = Engine(
            material.wasm,
            data,
            timeout_s=self._timeout_s,
            instances=self._instances,
            form=OPA_ENVOY,
        )
        return OpaEnvoyPolicy(engine, material.reads, revision)

    def _retire(self, engine: Engine) -> None:
        """Close `engine` once nobody can be about to use it.

        Closing waits for no one and spares evaluations that run. A thread that took
        `current` but has not begun yet would get an error, hence the grace.
        """
        timer = threading.Timer(_GRACE_S + 2 * self._timeout_s, self._free, [engine])
        timer.daemon = True
        self._retired[engine] = timer
        timer.start()

    def _free(self, engine: Engine) -> None:
        engine.close()
        with self._replacing:
            self._retired.pop(engine, None)


def _name(loaded: AnyPolicy) -> str:
    if isinstance(loaded, LoadedPolicy):
        return repr(loaded.policy.name)
    return "for opa-envoy-plugin"


def _beside(data: Mapping[str, Any]) -> bytes:
    """Return the members of `data` as JSON, without the braces; empty for none.

    Raises:
        PolicyError: if one of them is where the policy itself goes.
    """
    if ROOT in data:
        raise PolicyError(f"data.{ROOT} is where the access policy goes")
    return _canonical(data)[1:-1]


def _canonical(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
