"""Is every link of a live set-up whole? From the configuration to a decision.

The links are tried in the order in which a request depends on them, and each one broken
says how to mend it. Nothing is changed, and the one call that is made is recorded by
the server like any other.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import enum
import http.client
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.serialization import Encoding

from authz_server.assembly import load_now, open_identities, open_policies
from authz_server.clock import system_clock
from authz_server.config import Config
from authz_server.errors import AuthzError, PolicyError, Reason, SvidError
from authz_server.identity.certificate import read_leaf
from authz_server.identity.sources import IdentitySources
from authz_server.policy.in_force import LoadedPolicy
from authz_server.policy.model import AccessPolicy
from authz_server.response import REASON_HEADER

_POLL_S: Final = 0.05

# What the server says when it is not well itself; any other reason is a decision.
_NOT_DECISIONS: Final = frozenset(
    {
        Reason.POLICY_UNAVAILABLE,
        Reason.TRUST_BUNDLE_UNAVAILABLE,
        Reason.REVOCATIONS_UNAVAILABLE,
        Reason.TOKEN_KEYS_UNAVAILABLE,
        Reason.AUDIT_UNAVAILABLE,
        Reason.OVERLOADED,
        Reason.DEADLINE_EXCEEDED,
        Reason.INTERNAL_ERROR,
    }
)


class State(enum.StrEnum):
    """How a link is."""

    WHOLE = "ok"
    BROKEN = "BROKEN"
    UNTRIED = "not tried"


@dataclass(frozen=True, slots=True)
class Link:
    """One link of the chain.

    Attributes:
        says: what was seen.
        mend: what to do about it; empty if nothing is broken.
    """

    name: str
    state: State
    says: str
    mend: str = ""


class BrokenLinkError(AuthzError):
    """A link is broken.

    Attributes:
        mend: what to do about it.
    """

    def __init__(self, says: str, mend: str) -> None:
        super().__init__(says)
        self.mend = mend


@dataclass(frozen=True, slots=True)
class Svid:
    """The SVID that the call through the proxy is made with."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Probe:
    """How to try the proxy.

    Attributes:
        host, port: of its listener; an empty host leaves it untried.
        path: that is asked for, by GET.
        svid: to call with; None takes the one from the Workload API.
    """

    host: str = ""
    port: int = 0
    path: str = "/v2/health/live"
    svid: Svid | None = None


def examine(
    config: Config,
    probe: Probe,
    *,
    timeout_s: float,
    ask_health: Callable[[Config], str],
) -> Iterator[Link]:
    """Yield every link in order; after the first broken one none is tried.

    Args:
        timeout_s: for which each link is waited for.
        ask_health: returns what is wrong with the running server; empty for nothing.
    """
    wants_svid = bool(probe.host) and probe.svid is None
    identities = open_identities(config, wants_svid=wants_svid)
    try:
        examination = _Examination(config, probe, identities, timeout_s, ask_health)
        is_whole = True
        for name, step in examination.steps():
            if not is_whole:
                yield Link(name, State.UNTRIED, "")
                continue
            link = _tried(name, step)
            is_whole = link.state is not State.BROKEN
            yield link
    finally:
        identities.stop()


def _tried(name: str, step: Callable[[], str]) -> Link:
    try:
        says = step()
    except BrokenLinkError as error:
        return Link(name, State.BROKEN, str(error), error.mend)
    return Link(name, State.WHOLE if says else State.UNTRIED, says)


class _Examination:
    """The links; a step returns what it saw, or nothing if it does not apply."""

    def __init__(
        self,
        config: Config,
        probe: Probe,
        identities: IdentitySources,
        timeout_s: float,
        ask_health: Callable[[Config], str],
    ) -> None:
        self._config = config
        self._probe = probe
        self._identities = identities
        self._timeout_s = timeout_s
        self._ask_health = ask_health
        self._policy: AccessPolicy | None = None

    def steps(self) -> Iterator[tuple[str, Callable[[], str]]]:
        yield "policy", self._load_policy
        yield "SPIFFE agent", self._reach_agent
        yield "own SVID", self._get_svid
        yield "trust bundles", self._read_bundles
        yield "server", self._ask_server
        yield "handshake with the proxy", self._shake_hands
        yield "decision", self._get_decision

    def _load_policy(self) -> str:
        try:
            policies = open_policies(self._config)
        except PolicyError as error:
            raise BrokenLinkError(str(error), "build the bundle again") from error
        with contextlib.closing(policies):
            if not load_now(policies) or policies.current is None:
                raise BrokenLinkError(
                    str(policies.error),
                    "authz-server policy check FILE names every fault",
                )
            current = policies.current
            if not isinstance(current, LoadedPolicy):
                return f"Rego for opa-envoy-plugin, revision {current.revision}"
            self._policy = current.policy
            return f"{self._policy.name}, revision {current.revision}"

    def _reach_agent(self) -> str:
        self._identities.reload()
        self._identities.start_watching(self._config.policy.reload_interval_s)
        agent = self._identities.workload_api
        if agent is None:
            return ""
        if not self._wait(lambda: agent.is_live):
            raise BrokenLinkError(
                agent.error or "it does not answer",
                "is the agent running, does its socket lie there, may this user open "
                "it, and is this process registered?",
            )
        return f"answers at {self._config.identity.workload_api}"

    def _get_svid(self) -> str:
        probe, agent = self._probe, self._identities.workload_api
        if not probe.host:
            return ""
        if probe.svid is not None:
            try:
                leaf = read_leaf(_first_certificate(probe.svid.certificate))
            except (OSError, SvidError) as error:
                raise BrokenLinkError(
                    f"{probe.svid.certificate}: {error}",
                    "see authz-server svid inspect FILE",
                ) from error
        elif agent is None:
            raise BrokenLinkError(
                "there is none to call with",
                "give --certificate and --key, or set identity.workload_api",
            )
        else:
            self._wait(lambda: agent.svid is not None)
            if agent.svid is None:
                raise BrokenLinkError(
                    agent.error or "the agent gave none",
                    "register an entry for this process (spire-server entry create)",
                )
            leaf = agent.svid.leaf
        left_s = leaf.valid_until_s - time.time()
        if left_s <= 0:
            raise BrokenLinkError(
                f"{leaf.spiffe_id} has ended", "look at what should have renewed it"
            )
        return f"{leaf.spiffe_id}, good for {dt.timedelta(seconds=int(left_s))}"

    def _read_bundles(self) -> str:
        if self._config.identity.chain == "proxy":
            return ""
        self._wait(lambda: self._identities.error is None)
        if self._identities.error is not None:
            raise BrokenLinkError(
                self._identities.error, "see docs/identity.md, Trust bundles"
            )
        store = self._identities.store
        held = store.current.anchors if store is not None else {}
        wanted = self._policy.trust_domains if self._policy is not None else ()
        missing = sorted(str(name) for name in wanted if name not in held)
        if missing:
            raise BrokenLinkError(
                f"the policy's {', '.join(missing)} has no bundle",
                "name a source for it under identity, or federate with it in SPIRE "
                "(federatesWith of this server's entry)",
            )
        return ", ".join(sorted(map(str, held)))

    def _ask_server(self) -> str:
        problem = self._ask_health(self._config)
        if problem:
            raise BrokenLinkError(
                f"{self._config.listen.address}: {problem}",
                "is authz-server serve running with this configuration? See its log",
            )
        return f"serves at {self._config.listen.address}"

    def _shake_hands(self) -> str:
        if not self._probe.host:
            return ""
        with self._connection() as line:
            der = line.sock.getpeercert(binary_form=True)
        pem = ssl.DER_cert_to_PEM_cert(bytes(der or b"")).encode("ascii")
        try:
            leaf = read_leaf(pem)
            if self._config.identity.chain != "proxy":
                self._identities.current.trust.verify(leaf, time.time())
        except AuthzError as error:
            raise BrokenLinkError(
                f"the proxy's certificate: {error}",
                "give the proxy an SVID, and its issuer's bundle to this server",
            ) from error
        return f"the proxy is {leaf.spiffe_id}"

    def _get_decision(self) -> str:
        if not self._probe.host:
            return ""
        with self._connection() as line:
            try:
                line.request("GET", self._probe.path)
                answer = line.getresponse()
                answer.read()
            except (OSError, http.client.HTTPException) as error:
                raise BrokenLinkError(
                    f"no answer to GET {self._probe.path}: {error}",
                    "the proxy ended the connection: does it accept this client's "
                    "certificate?",
                ) from error
        reason = answer.headers.get(REASON_HEADER, "")
        says = f"GET {self._probe.path}: {answer.status} {reason}".rstrip()
        if answer.status == http.client.FORBIDDEN and not reason:
            raise BrokenLinkError(
                f"{says}, and not by this server",
                "the proxy could not ask: compare its ext_authz cluster with "
                "listen.address, and the timeouts",
            )
        if reason in _NOT_DECISIONS:
            raise BrokenLinkError(says, "see docs/reasons.md and the server's log")
        return says

    @contextlib.contextmanager
    def _connection(self) -> Iterator[http.client.HTTPSConnection]:
        """Yield a connection to the proxy, as a caller makes it.

        Raises:
            BrokenLinkError: if there is none.
        """
        where = f"{self._probe.host}:{self._probe.port}"
        line = http.client.HTTPSConnection(
            self._probe.host,
            self._probe.port,
            timeout=self._timeout_s,
            context=self._tls(),
        )
        with contextlib.closing(line):
            try:
                line.connect()
            except ssl.SSLError as error:
                raise BrokenLinkError(
                    f"{where}: {error.reason or error}",
                    "do proxy and caller have each other's trust domain's bundle?",
                ) from error
            except OSError as error:
                raise BrokenLinkError(
                    f"{where}: {error}", "is the proxy running, and listening there?"
                ) from error
            yield line

    def _tls(self) -> ssl.SSLContext:
        """Return a context that knows every CA; `_shake_hands` tells them apart."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False  # an SVID is known by its SPIFFE ID
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        anchors = self._identities.current.trust.anchors.values()
        authorities = b"".join(
            authority.public_bytes(Encoding.DER)
            for anchor in anchors
            for authority in anchor.bundle.x509_authorities
        )
        if authorities:
            context.load_verify_locations(cadata=authorities)
        else:  # chain: proxy, without bundles; nothing is sent that is worth anything
            context.verify_mode = ssl.CERT_NONE
        svid = self._probe.svid
        if svid is not None:
            context.load_cert_chain(svid.certificate, svid.key)
        elif (agent := self._identities.workload_api) and (own := agent.svid):
            # Python's TLS takes a key from a file only: one of mode 0600, for a moment.
            with tempfile.NamedTemporaryFile() as file:
                file.write(own.certificate_chain_pem + own.private_key_pem)
                file.flush()
                context.load_cert_chain(file.name)
        return context

    def _wait(self, holds: Callable[[], bool]) -> bool:
        end = system_clock().steady_s + self._timeout_s
        while not holds():
            if system_clock().steady_s > end:
                return False
            time.sleep(_POLL_S)
        return True


def _first_certificate(path: Path) -> bytes:
    begin, end = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"
    data = path.read_bytes()
    start = data.find(begin)
    return data[start : data.find(end, start) + len(end)] + b"\n"
