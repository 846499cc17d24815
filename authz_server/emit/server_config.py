"""The server's configuration file in Kubernetes, and the places that it names."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any, Final

from authz_server.emit import yaml_text
from authz_server.emit.manifest import deployed, workload_principal
from authz_server.errors import PolicyError
from authz_server.identity.spiffe_id import SCHEME
from authz_server.policy.model import AccessPolicy
from authz_server.site.model import Mesh, Shape, Site

CONFIG_FILE: Final = PurePosixPath("/etc/authz-server/config/config.yaml")
POLICY_DIRECTORY: Final = "/etc/authz-server/policy"
TLS_DIRECTORY: Final = "/run/authz-server/tls"
SOCKET: Final = PurePosixPath("/run/authz-server/check.sock")

METRICS_PORT: Final = 9192


def config_text(policy: AccessPolicy, site: Site) -> str:
    """Return the configuration file.

    Raises:
        PolicyError: see `proxy_principals`.
    """
    listen = _listen(policy, site)
    if site.monitoring is not None:
        listen["metrics"] = f"tcp://0.0.0.0:{METRICS_PORT}"
    identity: dict[str, Any] = {"chain": "proxy"}  # Envoy verifies it.
    if site.spire is not None:
        identity = {"workload_api": f"unix://{site.spire.agent_socket}"}
    return yaml_text.document(
        {
            "listen": listen,
            "policy": {"file": POLICY_DIRECTORY},
            "identity": identity,
            "audit": {"file": "-"},
        }
    )


def _listen(policy: AccessPolicy, site: Site) -> dict[str, Any]:
    if site.server.shape is not Shape.DEPLOYMENT:
        # Whoever may open the socket may ask: its group is that of the proxies.
        return {"address": f"unix://{SOCKET}", "socket_mode": "0660"}
    proxies = [SCHEME + name for name in proxy_principals(policy)]
    if site.mesh is Mesh.SIDECAR:
        # In plain text, where the sidecar hands over what it has decrypted.
        return {"address": f"tcp://127.0.0.1:{site.server.port}"}
    return {
        "address": f"tcp://0.0.0.0:{site.server.port}",
        "tls": {
            "certificate": f"{TLS_DIRECTORY}/tls.crt",
            "key": f"{TLS_DIRECTORY}/tls.key",
            "client_ca": f"{TLS_DIRECTORY}/ca.crt",
            "proxies": proxies,
        },
    }


def proxy_principals(policy: AccessPolicy) -> list[str]:
    """Return ``TD/ns/NS/sa/SA`` of every upstream; its proxy has the same account.

    Raises:
        PolicyError: if an upstream in Kubernetes has no service account, or none is
            in Kubernetes at all.
    """
    principals = {
        workload_principal(policy, item.namespace, item.service_account)
        for item in deployed(policy)
    }
    if not principals:
        raise PolicyError(
            "spec.upstreams: none has a namespace, so nothing runs in Kubernetes; name "
            "one, or emit for another target"
        )
    return sorted(principals)
