"""Envoy's typed messages as the YAML that Envoy reads: protobuf JSON (ProtoJSON)."""

from __future__ import annotations

from typing import Any, Final

import betterproto2

_TYPE: Final = "type.googleapis.com/envoy.extensions.filters."

_SAID: Final[dict[str, dict[str, Any]]] = {
    _TYPE + "http.ext_authz.v3.ExtAuthz": {"failure_mode_allow": False},
    _TYPE + "http.ext_proc.v3.ExternalProcessor": {"failure_mode_allow": False},
    _TYPE + "network.http_connection_manager.v3.HttpConnectionManager": {
        "forward_client_cert_details": "SANITIZE",
        "preserve_external_request_id": False,
    },
}
"""Defaults that ProtoJSON leaves out, and whoever reads the file looks for."""


def settings(message: betterproto2.Message) -> dict[str, Any]:
    """Return `message` as a mapping for YAML.

    Names are those of Envoy's documentation, ``Any`` carries its type beside its
    fields. 64-bit numbers are strings and durations have three decimals, as ProtoJSON
    has them.
    """
    found: dict[str, Any] = _with_said(
        message.to_dict(casing=betterproto2.Casing.SNAKE)
    )
    return found


def _with_said(node: Any) -> Any:  # noqa: ANN401 - a YAML tree
    if isinstance(node, list):
        return [_with_said(item) for item in node]
    if not isinstance(node, dict):
        return node
    said = _SAID.get(node.get("@type", ""), {})
    changed = {key: _with_said(value) for key, value in node.items()}
    # A scalar that is left out is its default (proto3), so this changes no meaning.
    return changed | {key: value for key, value in said.items() if key not in changed}
