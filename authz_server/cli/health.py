"""``authz-server health``: ask a running server how it is; for probes and people."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from authz_server.cli.serve import add_config_arguments, config_from
from authz_server.errors import ConfigError

if TYPE_CHECKING:
    from authz_server.config import Config

_POLL_S: Final = 0.02


def add_parser(subparsers: Any) -> None:  # noqa: ANN401 - argparse's private class
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "health", help="ask the running server whether it can answer"
    )
    parser.add_argument(
        "--policy",
        action="store_true",
        help="ask whether the newest policy file is in force",
    )
    parser.add_argument(
        "--trust",
        action="store_true",
        help="ask whether every trust bundle is good and fresh",
    )
    parser.add_argument("--timeout", type=float, default=2.0, metavar="SECONDS")
    add_config_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the status; 0 if it is SERVING."""
    from authz_server.transport.health import POLICY_HEALTH, TRUST_HEALTH

    service = POLICY_HEALTH if args.policy else TRUST_HEALTH if args.trust else ""
    status = ask(config_from(args), service, args.timeout)
    print(status)
    return 0 if status == "SERVING" else 1


def ask(config: Config, service: str, timeout_s: float) -> str:
    """Return the status of `service` of the server that runs with `config`.

    Not one of gRPC's own if it does not answer.
    """
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with _channel(config, timeout_s) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=service), timeout=timeout_s
            )
        except grpc.RpcError as error:
            return f"no answer from {config.listen.address}: {error.code().name}"
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def _channel(config: Config, timeout_s: float) -> Any:  # noqa: ANN401 - gRPC is untyped
    import grpc

    from authz_server.address import Address

    address = Address.parse(config.listen.address)
    target = address.target.replace("0.0.0.0:", "127.0.0.1:").replace("[::]:", "[::1]:")
    tls = config.listen.tls
    if not tls.is_set:
        return grpc.insecure_channel(target)
    certificate, key, authorities = _credentials(config, timeout_s)
    # Our own certificate stands in for a proxy's: health is open to any client that the
    # CA knows.
    return grpc.secure_channel(
        target,
        grpc.ssl_channel_credentials(authorities, key, certificate),
        (("grpc.ssl_target_name_override", _dns_name(certificate)),),
    )


def _credentials(config: Config, timeout_s: float) -> tuple[bytes, bytes, bytes]:
    """Return the listener's own certificate chain, key, and CAs to know it by, as PEM.

    Raises:
        ConfigError: if they cannot be had.
    """
    tls = config.listen.tls
    if tls.has_files:
        try:
            return (
                Path(tls.certificate).read_bytes(),
                Path(tls.key).read_bytes(),
                Path(tls.client_ca).read_bytes(),
            )
        except OSError as error:
            raise ConfigError(
                [f"listen.tls: {error.filename}: cannot be read: {error.strerror}"]
            ) from error
    return _svid_credentials(config, timeout_s)


def _svid_credentials(config: Config, timeout_s: float) -> tuple[bytes, bytes, bytes]:
    from cryptography.hazmat.primitives.serialization import Encoding

    from authz_server.assembly import open_identities

    identities = open_identities(config, wants_svid=True)
    identities.start_watching(config.policy.reload_interval_s)
    try:
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            agent = identities.workload_api
            svid = agent.svid if agent is not None else None
            anchors = identities.current.trust.anchors
            if svid is not None and svid.spiffe_id.trust_domain in anchors:
                bundle = anchors[svid.spiffe_id.trust_domain].bundle
                authorities = [
                    item.public_bytes(Encoding.PEM) for item in bundle.x509_authorities
                ]
                return (
                    svid.certificate_chain_pem,
                    svid.private_key_pem,
                    b"".join(authorities),
                )
            time.sleep(_POLL_S)
        problem = identities.error or "no answer"
        raise ConfigError([f"identity.workload_api: gave no SVID: {problem}"])
    finally:
        identities.stop()


def _dns_name(certificate: bytes) -> str:
    """Return a DNS name of our own certificate, for gRPC's client to check it by."""
    from cryptography import x509

    try:
        names = (
            x509.load_pem_x509_certificate(certificate)
            .extensions.get_extension_for_class(x509.SubjectAlternativeName)
            .value.get_values_for_type(x509.DNSName)
        )
    except (ValueError, x509.ExtensionNotFound):
        names = []
    if not names:
        raise ConfigError(
            ["the listener's certificate has no DNS name, by which gRPC could check it"]
        )
    return names[0]
