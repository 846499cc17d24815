"""Certificates and client CAs that change under a mutual TLS listener in use."""

import contextlib
import dataclasses
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import grpc
import pytest
from checks import check_request, is_allowed
from cryptography import x509
from parts import (
    MemorySink,
    eventually,
    example_config,
    loaded_policies,
    running_server,
)

from authz_server.address import Address
from authz_server.assembly import build_pipeline
from authz_server.clock import system_clock
from authz_server.config import Limits
from authz_server.demo.pki import DevelopmentCa, Svid
from authz_server.identity.sources import IdentitySources
from authz_server.identity.spiffe_id import SpiffeId, TrustDomain
from authz_server.identity.trust import TrustStore
from authz_server.identity.trust_bundle import TrustBundle
from authz_server.pipeline import Pipeline
from authz_server.transport.grpc_server import GrpcServer
from authz_server.transport.health import SERVICE, Health
from authz_server.transport.proxies import ProxyList, Verify
from authz_server.transport.tls import TlsMaterial

METHOD = f"/{SERVICE}/Check"
ALLOWED = bytes(check_request())
CONFIG = example_config(limits=Limits(deadline_s=5.0))
PROXY = "spiffe://factory.example/ns/inference/sa/triton"
GUEST = "spiffe://supplier.example/proxy"
OURS = "spiffe://factory.example/ns/authz/sa/authz"
LOOPBACK = Address(host="127.0.0.1")


@dataclass
class Source:
    """Material that a test changes."""

    current: TlsMaterial | None = None
    error: str | None = None


class Pki:
    """A trust domain's CA, and what it issued."""

    def __init__(self) -> None:
        self.ca = DevelopmentCa("factory.example")
        self.proxy = self.ca.issue(PROXY)

    def material(self, *client_cas: DevelopmentCa) -> TlsMaterial:
        """Return a new certificate of ours."""
        ours = self.ca.issue(OURS, dns_names=["localhost"])
        return TlsMaterial(
            ours.certificate_pem,
            ours.key_pem,
            b"".join(ca.bundle_pem for ca in client_cas or (self.ca,)),
        )

    @contextlib.contextmanager
    def channel(
        self, target: str, svid: Svid, more: bytes = b""
    ) -> Iterator[grpc.Channel]:
        """Yield a channel with a connection of its own."""
        credentials = grpc.ssl_channel_credentials(
            self.ca.bundle_pem, svid.key_pem, svid.certificate_pem + more
        )
        options = (
            ("grpc.ssl_target_name_override", "localhost"),
            ("grpc.use_local_subchannel_pool", 1),
        )
        with grpc.secure_channel(target, credentials, options) as channel:
            yield channel

    def status(self, target: str, svid: Svid, more: bytes = b"") -> str:
        """Return what a client on a new connection gets: OK or the error's name."""
        with self.channel(target, svid, more) as channel:
            try:
                assert is_allowed(ask(channel))
            except grpc.RpcError as error:
                return str(error.code().name)
            return "OK"


def ask(channel: grpc.Channel) -> bytes:
    return bytes(channel.unary_unary(METHOD)(ALLOWED, timeout=5))


def serial_shown(target: str) -> int:
    """Return the serial number of the certificate that a new handshake shows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    host, _, port = target.rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as tls,
    ):
        der = tls.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der).serial_number


def serial_of(material: TlsMaterial) -> int:
    return x509.load_pem_x509_certificate(material.certificate_chain).serial_number


@pytest.fixture(scope="module")
def pipeline() -> Iterator[Pipeline]:
    with loaded_policies(CONFIG) as policies:
        yield build_pipeline(CONFIG, policies, MemorySink(), IdentitySources())


@pytest.fixture
def pki() -> Pki:
    return Pki()


@contextlib.contextmanager
def listening(
    pipeline: Pipeline, source: Source, verify: Verify | None = None
) -> Iterator[str]:
    proxies = ProxyList(
        map(SpiffeId.parse_workload, (PROXY, GUEST)), system_clock, verify
    )
    server = GrpcServer(
        pipeline,
        health_of=lambda: Health(can_answer=True, is_current=True),
        max_pending=64,
        workers=2,
        max_message_bytes=1024 * 1024,
        tls=source,
        proxies=proxies,
    )
    with running_server(server, LOOPBACK) as target:
        yield target


@contextlib.contextmanager
def load(*calls: Callable[[], bytes]) -> Iterator[list[bytes | Exception]]:
    """Yield what came of `calls`, each of which repeats in a thread of its own."""
    outcomes: list[bytes | Exception] = []
    stop = threading.Event()

    def repeat(call: Callable[[], bytes]) -> None:
        while not stop.is_set():
            try:
                outcomes.append(call())
            except (grpc.RpcError, AssertionError) as error:
                outcomes.append(error)

    threads = [threading.Thread(target=repeat, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    try:
        yield outcomes
    finally:
        stop.set()
        for thread in threads:
            thread.join(10)


def test_certificates_rotate_under_load_without_a_failed_call(
    pipeline: Pipeline, pki: Pki
) -> None:
    source = Source(pki.material())

    def ask_anew() -> bytes:
        with pki.channel(target, pki.proxy) as channel:
            return ask(channel)

    with (
        listening(pipeline, source) as target,
        pki.channel(target, pki.proxy) as kept,
        load(lambda: ask(kept), ask_anew, ask_anew) as outcomes,
    ):
        shown = set()
        for _ in range(10):
            source.current = newest = pki.material()
            shown.add(serial_shown(target))
            assert serial_of(newest) in shown
            count = len(outcomes)
            assert eventually(lambda count=count: len(outcomes) > count + 20, 5)
        assert len(shown) == 10
    failed = [item for item in outcomes if not isinstance(item, bytes)]
    assert failed == []
    assert all(map(is_allowed, outcomes))  # type: ignore[arg-type]


def test_a_client_ca_that_is_gone_lets_nobody_new_in(
    pipeline: Pipeline, pki: Pki
) -> None:
    successor = DevelopmentCa("factory.example")
    old, new = pki.proxy, successor.issue(PROXY)
    source = Source(pki.material())
    with listening(pipeline, source) as target:
        assert pki.status(target, old) == "OK"
        assert pki.status(target, new) == "UNAVAILABLE"
        source.current = pki.material(pki.ca, successor)  # both for a while
        assert pki.status(target, old) == "OK"
        assert pki.status(target, new) == "OK"
        source.current = pki.material(successor)
        assert pki.status(target, old) == "UNAVAILABLE"
        assert pki.status(target, new) == "OK"


def test_nobody_gets_in_before_there_is_material_or_after_it_was_taken_away(
    pipeline: Pipeline, pki: Pki
) -> None:
    source = Source()
    with listening(pipeline, source) as target:
        assert pki.status(target, pki.proxy) == "UNAVAILABLE"
        with grpc.insecure_channel(target) as plain, pytest.raises(grpc.RpcError):
            ask(plain)
        source.current = pki.material()
        assert pki.status(target, pki.proxy) == "OK"
        source.current = None
        assert pki.status(target, pki.proxy) == "UNAVAILABLE"
        source.current = pki.material()
        assert pki.status(target, pki.proxy) == "OK"


def test_who_has_the_certificate_shown_before_there_is_material_cannot_use_it(
    pipeline: Pipeline,
) -> None:
    with listening(pipeline, Source()) as target:
        first = serial_shown(target)
    with listening(pipeline, Source()) as target:
        assert serial_shown(target) != first  # new each time, with a key that is lost


class Bundles:
    """The bundles that proxies are verified by."""

    def __init__(self, **cas: DevelopmentCa) -> None:
        self.store = TrustStore(max_age_s=3600, clock=system_clock)
        for ca in cas.values():
            self.put(ca)

    def put(self, ca: DevelopmentCa) -> None:
        name = TrustDomain(ca.trust_domain)
        bundle = TrustBundle(name, (ca.certificate,))
        self.store.put(bundle, system_clock().wall_s, "test")

    def verify(self, *arguments: object) -> tuple[float, float]:
        return self.store.current.verify(*arguments)  # type: ignore[arg-type]


def test_a_ca_of_one_trust_domain_cannot_make_a_proxy_of_another(
    pipeline: Pipeline, pki: Pki
) -> None:
    supplier = DevelopmentCa("supplier.example")
    bundles = Bundles(factory=pki.ca, supplier=supplier)
    source = Source(pki.material(pki.ca, supplier))
    with listening(pipeline, source, bundles.verify) as target:
        assert pki.status(target, pki.proxy) == "OK"
        assert pki.status(target, supplier.issue(GUEST)) == "OK"
        forged = supplier.issue(PROXY)
        assert pki.status(target, forged) == "UNAUTHENTICATED"
    with listening(pipeline, source) as target:
        # What the bundles are for: the handshake alone lets the forged one in.
        assert pki.status(target, forged) == "OK"


def test_a_connection_that_stands_ends_to_be_believed_with_its_ca(
    pipeline: Pipeline, pki: Pki
) -> None:
    bundles = Bundles(factory=pki.ca)
    source = Source(pki.material())
    with (
        listening(pipeline, source, bundles.verify) as target,
        pki.channel(target, pki.proxy) as kept,
    ):
        assert is_allowed(ask(kept))
        bundles.put(DevelopmentCa("factory.example"))
        with pytest.raises(grpc.RpcError) as caught:
            ask(kept)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_a_proxy_may_send_the_intermediate_that_leads_to_its_bundle(
    pipeline: Pipeline, pki: Pki
) -> None:
    intermediate = DevelopmentCa("factory.example", issuer=pki.ca)
    proxy = intermediate.issue(PROXY)
    bundles = Bundles(factory=pki.ca)
    with listening(pipeline, Source(pki.material()), bundles.verify) as target:
        assert pki.status(target, proxy, intermediate.bundle_pem) == "OK"
        assert pki.status(target, proxy) == "UNAVAILABLE"


def test_a_chain_that_cannot_be_read_is_not_admitted(pki: Pki) -> None:
    bundles = Bundles(factory=pki.ca)
    proxies = ProxyList([SpiffeId.parse_workload(PROXY)], system_clock, bundles.verify)
    context = {"x509_pem_cert": [pki.proxy.certificate_pem]}
    assert proxies.admits(context)
    assert not proxies.admits({**context, "x509_pem_cert_chain": [b"junk"]})


def test_dates_count_whatever_the_verification_says(pki: Pki) -> None:
    late = dataclasses.replace(
        system_clock(), wall_s=pki.proxy.certificate.not_valid_after_utc.timestamp() + 1
    )
    proxies = ProxyList(
        [SpiffeId.parse_workload(PROXY)],
        lambda: late,
        lambda leaf, _, __: (leaf.valid_from_s, leaf.valid_until_s),
    )
    assert not proxies.admits({"x509_pem_cert": [pki.proxy.certificate_pem]})
