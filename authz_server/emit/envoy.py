"""The target ``envoy``: a folder for each box without Kubernetes that serves models."""

from __future__ import annotations

from typing import Any, Final

from authz_server.emit import notes, systemd
from authz_server.emit.box import (
    CHECK_SOCKET,
    CONFIG_FILE,
    ENVOY_FILE,
    LOG_FOLDER,
    METRICS_PORT,
    POLICY_FOLDER,
    TLS_FOLDER,
    Serving,
    bundle_file,
    serving_boxes,
    upstream_ports,
)
from authz_server.emit.envoy_bootstrap import build_bootstrap
from authz_server.emit.envoy_yaml import settings
from authz_server.emit.manifest import Manifest, settings_file
from authz_server.emit.spire_entries import ENVOY, box_id
from authz_server.policy.model import AccessPolicy
from authz_server.site.model import Ports, Site

_PURPOSE: Final = """
Envoy on box {box}: mTLS in front of {upstreams}, and a question to authz-server, over a
unix socket, for each call. Put it to {file}. envoy/edge-unix-socket.yaml in the source
tree has the same settings with the reason for each.
"""

_FILES: Final = """
Certificates from files: {tls}/server.crt and server.key, this server's X.509-SVID, and
{tls}/TRUST DOMAIN.pem, the CA certificates of {domains}, one file each. Envoy reads
them once: restart it before they end.
"""

_SPIRE: Final = """
Certificates from SPIRE: its agent must listen at {socket}, where the user envoy gets
in, and give Envoy {id}. Callers of {domains} are let in, of
other trust domains than the own one as far as that entry federates with them. The
agent's disable_spiffe_cert_validation must be off: with it there are no bundles apart,
and no connection comes in.
"""

_BACKENDS: Final = """
Behind Envoy, on 127.0.0.1 and nowhere else, or callers get past it: {ports}.
"""

_HOSTS: Final = """
Upstreams are told apart by the Host header: {hosts}. Any other host is denied, and
leads nowhere.
"""

_ENVOY_VERSION: Final = """
Needs Envoy 1.40.0, or the August 2026 fixes of an older line (1.36.10, 1.37.6, 1.38.4,
1.39.1). There is no admin interface: whoever reaches it can dump this configuration.
"""

_USERS: Final = """
Grants to users hold nothing yet: authz-server needs identity.users (issuers and their
keys, which neither policy nor site has), and the header that carries the token must be
among allowed_headers of Envoy's check. Until then such calls are denied.
"""

_CONFIG: Final = """
authz-server on box {box}. Put it to {file}, and the access policy, one file or its
parts, into {policy}.
"""

_CONFIG_SPIRE: Final = """
SPIRE's agent must have an entry for the user authz-server, which federates like
Envoy's: each caller's certificate is verified again, by the bundle of its own trust
domain.
"""

_CONFIG_FILES: Final = """
Each caller's certificate is verified again, by the bundle of its own trust domain. The
files are watched.
"""


def emit_envoy(policy: AccessPolicy, site: Site) -> tuple[Manifest, ...]:
    """Return what runs Envoy and the server on each box, as ``BOX/FILE``.

    Not emitted: the policy itself, certificates, and what is served.

    Raises:
        PolicyError: if no box serves anything, or one serves what Envoy could not tell
            apart.
    """
    return tuple(
        Manifest(f"{serving.box.name}/{manifest.name}", manifest.text)
        for serving in serving_boxes(policy, site)
        for manifest in (
            settings_file(
                "envoy.yaml",
                _envoy_comment(policy, serving, site.ports),
                settings(build_bootstrap(policy, serving, site.ports)),
            ),
            settings_file(
                "config.yaml",
                _config_comment(serving),
                server_config(policy, serving),
            ),
            *systemd.units(serving, site.ports),
        )
    )


def server_config(policy: AccessPolicy, serving: Serving) -> dict[str, Any]:
    """Return the configuration of the server on the box.

    Who may open the socket may ask; its folder lets in Envoy's group alone.
    """
    identity: dict[str, Any] = (
        {"workload_api": f"unix://{serving.agent_socket}"}
        if serving.agent_socket
        else {
            "bundles": {
                str(name): bundle_file(name)
                for name in sorted(policy.trust_domains, key=str)
            }
        }
    )
    return {
        "listen": {
            "address": f"unix://{CHECK_SOCKET}",
            "socket_mode": "0660",
            "metrics": f"tcp://127.0.0.1:{METRICS_PORT}",
        },
        "policy": {"file": POLICY_FOLDER},
        "identity": identity,
        "audit": {"file": f"{LOG_FOLDER}/audit.jsonl"},
    }


def _envoy_comment(
    policy: AccessPolicy, serving: Serving, ports: Ports
) -> tuple[str, ...]:
    upstreams = serving.upstreams
    domains = " and ".join(sorted(str(name) for name in policy.trust_domains))
    certificates = (
        _SPIRE.format(
            socket=serving.agent_socket,
            id=box_id(policy.trust_domain, serving.box.name, ENVOY),
            domains=domains,
        )
        if serving.agent_socket
        else _FILES.format(tls=TLS_FOLDER, domains=domains)
    )
    listening = "; ".join(
        f"{item.name} on {', '.join(map(str, upstream_ports(item, ports)))}"
        for item in upstreams
    )
    hosts = "; ".join(
        f"{item.name} has {', '.join(sorted(item.hosts))}" for item in upstreams
    )
    return (
        notes.GENERATED,
        _PURPOSE.format(
            box=serving.box.name,
            upstreams=", ".join(item.name for item in upstreams),
            file=ENVOY_FILE,
        ),
        certificates,
        _BACKENDS.format(ports=listening),
        *([_HOSTS.format(hosts=hosts)] if len(upstreams) > 1 else []),
        *([_USERS] if serving.for_users else []),
        _ENVOY_VERSION,
    )


def _config_comment(serving: Serving) -> tuple[str, ...]:
    return (
        notes.GENERATED,
        _CONFIG.format(box=serving.box.name, file=CONFIG_FILE, policy=POLICY_FOLDER),
        _CONFIG_SPIRE if serving.agent_socket else _CONFIG_FILES,
        *([_USERS] if serving.for_users else []),
    )
