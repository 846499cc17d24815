"""Chains, gateways and tokens as a real Envoy hands them on."""

import base64
import contextlib
import http.client
import json
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from checks import envoy_certificate
from parts import (
    EXAMPLE,
    FACTORY_CA,
    SUPPLIER_CA,
    eventually,
    last_event,
    serve_process,
)
from token_forge import Forge, jwk

from authz_server.demo.envoy import (
    Envoy,
    Places,
    read_configuration,
    render,
    without_triton,
)
from authz_server.demo.pki import DevelopmentCa, write_bundle, write_svid
from authz_server.demo.process import free_ports
from authz_server.demo.scenario import CAMERA_ID, EDGE_ID, FACTORY, SUPPLIER
from authz_server.errors import Reason

pytestmark = pytest.mark.envoy

PATH = "/v2/models/defect-detection/versions/1/infer"
ISSUER, AUDIENCE = "https://idp.factory.example", "triton.factory.example"
GATEWAY_ID = f"spiffe://{FACTORY}/ns/edge/sa/gateway"
INTERMEDIATE = DevelopmentCa(FACTORY, FACTORY_CA)
IDP = Forge(ISSUER, "idp-1")
SPIRE = Forge(FACTORY, "jwt-1")

# The camera may infer only for a user of the group ml.
FOR_USERS = EXAMPLE.read_text().replace(
    "{role: inspector, to: [factory-floor], on: [triton]}",
    "{role: inspector, to: [ml-engineers], on: [triton]}",
)

Change = Callable[[dict[str, Any]], None]


@dataclass
class Edge:
    folder: Path
    port: int

    def call(self, name: str = "camera", **headers: str) -> tuple[int, str]:
        """Return status and reason of one call with the SVID of that name."""
        tls = ssl.create_default_context(cafile=str(self.folder / f"{FACTORY}.pem"))
        tls.load_cert_chain(self.folder / f"{name}.crt", self.folder / f"{name}.key")
        line = http.client.HTTPSConnection(
            "localhost", self.port, context=tls, timeout=10
        )
        with contextlib.closing(line):
            names = {key.replace("_", "-"): value for key, value in headers.items()}
            line.request("POST", PATH, headers=names)
            answer = line.getresponse()
            answer.read()
            return answer.status, answer.headers.get("x-authz-reason", "")

    @property
    def event(self) -> dict[str, Any]:
        return last_event(self.folder / "audit.jsonl")


def manager_of(configuration: dict[str, Any]) -> dict[str, Any]:
    chain = configuration["static_resources"]["listeners"][0]["filter_chains"][0]
    manager: dict[str, Any] = chain["filters"][0]["typed_config"]
    return manager


def also_send(configuration: dict[str, Any], *headers: str) -> None:
    """Let the check have further headers."""
    (check,) = [
        item["typed_config"]
        for item in manager_of(configuration)["http_filters"]
        if item["name"] == "envoy.filters.http.ext_authz"
    ]
    check["allowed_headers"]["patterns"] += [{"exact": name} for name in headers]


@contextlib.contextmanager
def edge(
    folder: Path, identity: str, change: Change, policy: str = EXAMPLE.read_text()
) -> Iterator[Edge]:
    """Yield an Envoy, changed so, that asks a server with those identity settings."""
    write_svid(folder, "server", FACTORY_CA.issue(EDGE_ID, ["localhost"]))
    for ca in (FACTORY_CA, SUPPLIER_CA):
        write_bundle(folder, ca)
    (folder / "access.yaml").write_text(policy)
    (folder / "config.yaml").write_text(
        f"listen: {{address: 'unix://{folder}/s', socket_mode: '0600'}}\n"
        f"policy: {{file: {folder}/access.yaml}}\n"
        f"identity: {{{identity}}}\n"
        "limits: {deadline_s: 0.4}\n"
        f"audit: {{file: {folder}/audit.jsonl}}\n"
    )
    (port,) = free_ports(1)
    places = Places(folder, folder / "s", port, 1, 1)
    configuration = without_triton(
        render(read_configuration("edge-unix-socket"), places)
    )
    change(configuration)
    with serve_process(folder) as server, Envoy(folder, configuration, port) as envoy:
        envoy.wait()
        assert eventually((folder / "s").exists), (folder / "log").read_text()
        assert server.poll() is None, (folder / "log").read_text()
        yield Edge(folder, port)


def bundles(folder: Path) -> str:
    return (
        f"bundles: {{{FACTORY}: {folder}/{FACTORY}.pem, "
        f"{SUPPLIER}: {folder}/{SUPPLIER}.pem}}"
    )


def write_chain(folder: Path) -> None:
    """Write the camera's SVID of an intermediate CA, which it sends along."""
    svid = INTERMEDIATE.issue(CAMERA_ID)
    write_svid(folder, "camera", svid)
    (folder / "camera.crt").write_bytes(svid.certificate_pem + INTERMEDIATE.bundle_pem)


def describe_peer(configuration: dict[str, Any]) -> None:
    manager = manager_of(configuration)
    manager["forward_client_cert_details"] = "SANITIZE_SET"
    manager["set_current_client_cert_details"] = {"uri": True, "chain": True}
    also_send(configuration, "x-forwarded-client-cert")


def test_an_intermediate_that_envoy_hands_over_leads_to_the_bundle(
    tmp_path: Path,
) -> None:
    write_chain(tmp_path)
    settings = f"{bundles(tmp_path)}, xfcc: proxy"
    with edge(tmp_path, settings, describe_peer) as running:
        assert running.call() == (200, "")
        # What a client writes there itself never arrives.
        forged = f"By=x;URI=spiffe://{FACTORY}/ns/release/sa/deployer"
        assert running.call(x_forwarded_client_cert=forged) == (200, "")
        assert running.event["principal"] == CAMERA_ID


def test_without_the_chain_the_same_leaf_is_denied_with_the_cure(
    tmp_path: Path,
) -> None:
    write_chain(tmp_path)
    with edge(tmp_path, bundles(tmp_path), describe_peer) as running:
        assert running.call() == (401, Reason.CERTIFICATE_UNTRUSTED)


def keep_forwarded(configuration: dict[str, Any]) -> None:
    manager_of(configuration)["forward_client_cert_details"] = "ALWAYS_FORWARD_ONLY"
    also_send(configuration, "x-forwarded-client-cert")


def test_a_gateway_calls_for_others_and_nobody_else_does(tmp_path: Path) -> None:
    write_svid(tmp_path, "gateway", FACTORY_CA.issue(GATEWAY_ID))
    camera = FACTORY_CA.issue(CAMERA_ID)
    write_svid(tmp_path, "camera", camera)
    leaf = envoy_certificate(camera.certificate_pem)
    forwarded = f'By={GATEWAY_ID};Cert="{leaf}";URI={CAMERA_ID}'
    settings = f"{bundles(tmp_path)}, xfcc: hop, hops: '{GATEWAY_ID}'"
    with edge(tmp_path, settings, keep_forwarded) as running:
        assert running.call("gateway", x_forwarded_client_cert=forwarded) == (200, "")
        assert (running.event["principal"], running.event["via"]) == (
            CAMERA_ID,
            GATEWAY_ID,
        )
        assert running.call("gateway") == (401, Reason.FORWARDED_INVALID)
        other = forwarded.replace(CAMERA_ID, f"spiffe://{FACTORY}/ns/release/sa/x")
        assert running.call("gateway", x_forwarded_client_cert=other) == (
            401,
            Reason.FORWARDED_INVALID,
        )
        # The camera is no hop: what it forwards is nothing to us.
        assert running.call("camera", x_forwarded_client_cert=other) == (200, "")
        assert running.event["principal"] == CAMERA_ID


def send_authorization(configuration: dict[str, Any]) -> None:
    also_send(configuration, "authorization")


def user_token(forge: Forge = IDP, **changes: object) -> str:
    claims = {
        "iss": ISSUER,
        "sub": "ann",
        "aud": AUDIENCE,
        "exp": int(time.time()) + 600,
        "groups": ["ml"],
        **changes,
    }
    return forge.token(claims).decode()


def test_a_users_token_counts_beside_the_workload_that_calls(tmp_path: Path) -> None:
    write_svid(tmp_path, "camera", FACTORY_CA.issue(CAMERA_ID))
    keys = tmp_path / "idp.json"
    keys.write_text(json.dumps({"keys": [jwk(IDP.key, IDP.key_id)]}))
    settings = (
        f"{bundles(tmp_path)}, users: {{issuers: {{'{ISSUER}': {keys}}}, "
        f"audience: {AUDIENCE}, claims: groups}}"
    )
    with edge(tmp_path, settings, send_authorization, FOR_USERS) as running:
        assert running.call()[1] == Reason.NOT_GRANTED
        bearer = f"Bearer {user_token()}"
        assert running.call(authorization=bearer) == (200, "")
        assert running.event["user"] == "ann"
        assert running.event["principal"] == CAMERA_ID
        nobody = f"Bearer {user_token(groups=['shop'])}"
        assert running.call(authorization=nobody)[1] == Reason.NOT_GRANTED
        forged = f"Bearer {user_token(Forge(ISSUER, 'idp-1', 'ES384'))}"
        assert running.call(authorization=forged) == (401, Reason.TOKEN_UNTRUSTED)
        assert running.call(authorization=f"{bearer},{bearer}") == (
            401,
            Reason.TOKEN_MALFORMED,
        )
        assert "eyJ" not in (tmp_path / "audit.jsonl").read_text()
        assert "eyJ" not in (tmp_path / "log").read_text()


def verify_in_envoy(configuration: dict[str, Any]) -> None:
    """Put Envoy's own jwt_authn filter before the check, which gets its claims."""
    filters = manager_of(configuration)["http_filters"]
    kind = "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication"
    keys = json.dumps({"keys": [jwk(IDP.key, IDP.key_id)]})
    filters.insert(
        0,
        {
            "name": "envoy.filters.http.jwt_authn",
            "typed_config": {
                "@type": f"type.googleapis.com/{kind}",
                "providers": {
                    "idp": {
                        "issuer": ISSUER,
                        "audiences": [AUDIENCE],
                        "local_jwks": {"inline_string": keys},
                        "payload_in_metadata": "jwt_payload",
                    }
                },
                "rules": [
                    {
                        "match": {"prefix": "/"},
                        "requires": {"provider_name": "idp"},
                    }
                ],
            },
        },
    )
    check = filters[1]["typed_config"]
    check["metadata_context_namespaces"] = ["envoy.filters.http.jwt_authn"]


def test_the_claims_that_envoys_own_filter_verified_make_a_user(
    tmp_path: Path,
) -> None:
    write_svid(tmp_path, "camera", FACTORY_CA.issue(CAMERA_ID))
    settings = (
        f"{bundles(tmp_path)}, users: {{issuers: {{'{ISSUER}': envoy}}, "
        f"audience: {AUDIENCE}, claims: groups, payload_in_metadata: jwt_payload}}"
    )
    with edge(tmp_path, settings, verify_in_envoy, FOR_USERS) as running:
        assert running.call(authorization=f"Bearer {user_token()}") == (200, "")
        assert (running.event["user"], running.event["user_issuer"]) == ("ann", ISSUER)
        nobody = f"Bearer {user_token(groups=['shop'])}"
        assert running.call(authorization=nobody)[1] == Reason.NOT_GRANTED
        assert running.call() == (401, "")  # Envoy's own denial


def test_a_jwt_svid_must_name_the_workload_of_the_certificate(tmp_path: Path) -> None:
    write_svid(tmp_path, "camera", FACTORY_CA.issue(CAMERA_ID))
    der = base64.b64encode(
        ssl.PEM_cert_to_DER_cert(FACTORY_CA.bundle_pem.decode())
    ).decode()
    document = {
        "keys": [
            {"kty": "EC", "use": "x509-svid", "x5c": [der]},
            {**jwk(SPIRE.key, SPIRE.key_id), "use": "jwt-svid"},
        ]
    }
    spiffe = tmp_path / "bundle.json"
    spiffe.write_text(json.dumps(document))
    settings = (
        f"bundles: {{{FACTORY}: {spiffe}, {SUPPLIER}: {tmp_path}/{SUPPLIER}.pem}}, "
        f"jwt_svid: {{audience: {AUDIENCE}}}"
    )

    def token(subject: str) -> str:
        claims = {"sub": subject, "aud": [AUDIENCE], "exp": int(time.time()) + 300}
        return f"Bearer {SPIRE.token(claims).decode()}"

    with edge(tmp_path, settings, send_authorization) as running:
        assert running.call(authorization=token(CAMERA_ID)) == (200, "")
        other = token(f"spiffe://{FACTORY}/ns/release/sa/deployer")
        assert running.call(authorization=other) == (401, Reason.TOKEN_MISMATCH)
