"""Who Envoy is, and who may connect: the TLS of its listener."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.extensions.transport_sockets.tls import v3 as tls
from envoy_data_plane.envoy.type.matcher import v3 as matcher
from envoy_data_plane.google.protobuf import Any

from authz_server.emit.box import TLS_FOLDER, bundle_file
from authz_server.identity.spiffe_id import SCHEME, SpiffeId, TrustDomain

AGENT_CLUSTER: Final = "spire_agent"

ALL_BUNDLES: Final = "ALL"
"""SPIRE's name for the bundles of its own and of all federated trust domains, which
it sends for Envoy's SPIFFE validator, each by itself; ``ROOTCA`` is its own alone."""

_CIPHERS: Final = (
    # Of TLS 1.2: forward secret and authenticated only.
    "[ECDHE-ECDSA-AES128-GCM-SHA256|ECDHE-ECDSA-CHACHA20-POLY1305]",
    "[ECDHE-RSA-AES128-GCM-SHA256|ECDHE-RSA-CHACHA20-POLY1305]",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
)


def transport_socket(common: tls.CommonTlsContext) -> core.TransportSocket:
    """Return TLS that demands a certificate, with what `common` says of both sides."""
    common.alpn_protocols = ["h2", "http/1.1"]
    common.tls_params = tls.TlsParameters(
        tls_minimum_protocol_version=tls.TlsParametersTlsProtocol.TLSv1_2,
        tls_maximum_protocol_version=tls.TlsParametersTlsProtocol.TLSv1_3,
        cipher_suites=list(_CIPHERS),
    )
    return core.TransportSocket(
        name="envoy.transport_sockets.tls",
        typed_config=Any.pack(
            tls.DownstreamTlsContext(
                common_tls_context=common,
                # Without it an empty principal is asked about.
                require_client_certificate=True,
                # A resumed session checks no certificate, so it would outlive the SVID.
                disable_stateless_session_resumption=True,
                disable_stateful_session_resumption=True,
            )
        ),
    )


def from_files(trust_domains: Iterable[TrustDomain]) -> tls.CommonTlsContext:
    """Return certificates from files: one bundle for each trust domain.

    Never one pool of CAs (``trusted_ca``): in a pool the CA of one trust domain could
    sign an ID of another (SPIFFE X509-SVID §5).
    """
    return tls.CommonTlsContext(
        tls_certificates=[
            tls.TlsCertificate(
                certificate_chain=_file(f"{TLS_FOLDER}/server.crt"),
                private_key=_file(f"{TLS_FOLDER}/server.key"),
            )
        ],
        validation_context=tls.CertificateValidationContext(
            custom_validator_config=core.TypedExtensionConfig(
                name="envoy.tls.cert_validator.spiffe",
                typed_config=Any.pack(
                    tls.SpiffeCertValidatorConfig(
                        trust_domains=[
                            tls.SpiffeCertValidatorConfigTrustDomain(
                                name=str(name), trust_bundle=_file(bundle_file(name))
                            )
                            for name in trust_domains
                        ]
                    )
                ),
            )
        ),
    )


def from_spire(
    own: SpiffeId, trust_domains: Iterable[TrustDomain]
) -> tls.CommonTlsContext:
    """Return certificates that SPIRE's agent hands out and renews, by SDS.

    `own` by its full name: SPIRE's ``default`` is whichever entry comes first where a
    process has several. The names of callers are narrowed to `trust_domains`, since an
    entry of SPIRE may federate with more of them than the policy does.
    """
    return tls.CommonTlsContext(
        tls_certificate_sds_secret_configs=[_secret(str(own))],
        combined_validation_context=tls.CommonTlsContextCombinedCertificateValidationContext(
            default_validation_context=tls.CertificateValidationContext(
                match_typed_subject_alt_names=[
                    tls.SubjectAltNameMatcher(
                        san_type=tls.SubjectAltNameMatcherSanType.URI,
                        matcher=matcher.StringMatcher(prefix=f"{SCHEME}{name}/"),
                    )
                    for name in trust_domains
                ]
            ),
            validation_context_sds_secret_config=_secret(ALL_BUNDLES),
        ),
    )


def _secret(name: str) -> tls.SdsSecretConfig:
    return tls.SdsSecretConfig(
        name=name,
        sds_config=core.ConfigSource(
            resource_api_version=core.ApiVersion.V3,
            api_config_source=core.ApiConfigSource(
                api_type=core.ApiConfigSourceApiType.GRPC,
                transport_api_version=core.ApiVersion.V3,
                grpc_services=[
                    core.GrpcService(
                        envoy_grpc=core.GrpcServiceEnvoyGrpc(cluster_name=AGENT_CLUSTER)
                    )
                ],
            ),
        ),
    )


def _file(name: str) -> core.DataSource:
    return core.DataSource(filename=name)
