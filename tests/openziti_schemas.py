"""What OpenZiti's management API (0.29.0) and config types demand, as JSON schemas.

Written from their published definitions; only fields that are emitted may be there,
since the API itself takes an unknown one in silence.
"""

from __future__ import annotations

from typing import Any

_TEXT = {"type": "string", "minLength": 1}
_TAGS = {"type": "object", "additionalProperties": {"type": "string"}}
_SEMANTIC = {"enum": ["AllOf", "AnyOf"]}
# In a body, "@" would have to be followed by an ID.
_ROLES = {"type": "array", "items": {"type": "string", "pattern": "^#"}}
_ATTRIBUTES = {"type": "array", "items": {"type": "string", "pattern": "^[^#@]"}}
_PORT = {"type": "integer", "minimum": 1, "maximum": 65535}


def _object(required: dict[str, Any], optional: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": required | optional,
        "required": list(required),
        "additionalProperties": False,
    }


def _entity(
    required: dict[str, Any], optional: dict[str, Any] | None = None
) -> dict[str, Any]:
    return _object({"name": _TEXT} | required, {"tags": _TAGS} | (optional or {}))


CONFIG_DATA = {
    "intercept.v1": _object(
        {
            "protocols": {
                "type": "array",
                "minItems": 1,
                "uniqueItems": True,
                "items": {"enum": ["tcp", "udp"]},
            },
            "addresses": {
                "type": "array",
                "minItems": 1,
                "uniqueItems": True,
                "items": _TEXT,
            },
            "portRanges": {
                "type": "array",
                "minItems": 1,
                "uniqueItems": True,
                "items": _object({"low": _PORT, "high": _PORT}, {}),
            },
        },
        {},
    ),
    # Without forward*, these three are what it takes.
    "host.v1": _object(
        {"protocol": {"enum": ["tcp", "udp"]}, "address": _TEXT, "port": _PORT}, {}
    ),
}

BODIES = {
    "cas": _entity(
        {
            "certPem": {"type": "string", "pattern": "^-----BEGIN CERTIFICATE-----\n"},
            "isAutoCaEnrollmentEnabled": {"type": "boolean"},
            "isOttCaEnrollmentEnabled": {"type": "boolean"},
            "isAuthEnabled": {"type": "boolean"},
            "identityRoles": _ATTRIBUTES,
        },
        {
            "externalIdClaim": _object(
                {
                    "location": {"enum": ["COMMON_NAME", "SAN_URI", "SAN_EMAIL"]},
                    "matcher": {"enum": ["ALL", "PREFIX", "SUFFIX", "SCHEME"]},
                    "matcherCriteria": {"type": "string"},
                    "parser": {"enum": ["NONE", "SPLIT"]},
                    "parserCriteria": {"type": "string"},
                    "index": {"type": "integer"},
                },
                {},
            )
        },
    ),
    "configs": _entity({"configTypeId": _TEXT, "data": {"type": "object"}}),
    "services": _entity(
        {"encryptionRequired": {"type": "boolean"}},
        {
            "roleAttributes": _ATTRIBUTES,
            "configs": {"type": "array", "items": _TEXT},
        },
    ),
    "identities": _entity(
        {
            "type": {"enum": ["User", "Device", "Service", "Router", "Default"]},
            "isAdmin": {"type": "boolean"},
        },
        {"externalId": _TEXT, "roleAttributes": _ATTRIBUTES},
    ),
    "edge-router-policies": _entity(
        {"semantic": _SEMANTIC},
        {"edgeRouterRoles": _ROLES, "identityRoles": _ROLES},
    ),
    "service-edge-router-policies": _entity(
        {"semantic": _SEMANTIC},
        {"edgeRouterRoles": _ROLES, "serviceRoles": _ROLES},
    ),
    "service-policies": _entity(
        {"type": {"enum": ["Dial", "Bind"]}, "semantic": _SEMANTIC},
        {"identityRoles": _ROLES, "serviceRoles": _ROLES},
    ),
}
"""Of a POST, by the last part of its path."""
