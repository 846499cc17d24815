"""``authz-server health``: ask a running server how it is; for probes and people."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from authz_server.cli.serve import add_config_arguments, config_from


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
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from authz_server.address import Address
    from authz_server.transport.grpc_server import POLICY_HEALTH, TRUST_HEALTH

    config = config_from(args)
    address = Address.parse(config.listen.address)
    tls = config.listen.tls
    target = address.target.replace("0.0.0.0:", "127.0.0.1:").replace("[::]:", "[::1]:")
    if tls.is_set:
        # Our own certificate stands in for a proxy's: health is open to any client that
        # the CA knows.
        certificate = Path(tls.certificate).read_bytes()
        credentials = grpc.ssl_channel_credentials(
            Path(tls.client_ca).read_bytes(), Path(tls.key).read_bytes(), certificate
        )
        options = (("grpc.ssl_target_name_override", _dns_name(certificate)),)
        channel = grpc.secure_channel(target, credentials, options)
    else:
        channel = grpc.insecure_channel(target)
    service = POLICY_HEALTH if args.policy else TRUST_HEALTH if args.trust else ""
    with channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=service), timeout=args.timeout
            )
        except grpc.RpcError as error:
            print(f"no answer from {config.listen.address}: {error.code().name}")
            return 1
    name = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    print(name)
    return 0 if name == "SERVING" else 1


def _dns_name(certificate: bytes) -> str:
    """Return a DNS name of our own certificate, for gRPC's client to check it by."""
    from cryptography import x509

    from authz_server.errors import ConfigError

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
            ["listen.tls.certificate: has no DNS name, by which gRPC could check it"]
        )
    return names[0]
