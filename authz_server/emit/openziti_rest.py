"""The same entities as calls of OpenZiti's management API.

The API takes one entity's ID where the import takes its name, and IDs come only with
the answers. So a call's body is complete but for those, and ``refs`` says by name what
goes where.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from authz_server.emit.manifest import Manifest

BASE: Final = "/edge/management/v1"

_PATHS: Final = MappingProxyType(
    {
        # In the order of calls: what is named comes before what names it.
        "certificateAuthorities": "cas",
        "configs": "configs",
        "services": "services",
        "identities": "identities",
        "edgeRouterPolicies": "edge-router-policies",
        "serviceEdgeRouterPolicies": "service-edge-router-policies",
        "servicePolicies": "service-policies",
    }
)

_ABOUT: Final = (
    """
Written by authz-server emit: what import.yaml says, for controllers that are driven by
REST. What stands at the top of that file holds here too.
""",
    """
Make the calls in this order. Before each, set every field under refs to the ID of what
it names, or the list of them: GET in?filter=name="NAME", then data[0].id.
""",
    """
A second call for what is there is refused. To change it, PATCH post/ID with the body.
What is tagged partOf like these and is here no longer, DELETE from post/ID.
""",
)


def rest_file(sections: Mapping[str, Sequence[Mapping[str, Any]]]) -> Manifest:
    """Return the calls that make what `sections`, as for the import, hold."""
    document = {
        "about": [" ".join(paragraph.split()) for paragraph in _ABOUT],
        "calls": [
            _call(path, entity)
            for kind, path in _PATHS.items()
            for entity in sections.get(kind, ())
        ],
    }
    return Manifest(
        "rest.json", json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    )


def _call(path: str, entity: Mapping[str, Any]) -> dict[str, Any]:
    body = dict(entity)
    refs: dict[str, Any] = {}
    # The default, where a body names none.
    body.pop("authPolicy", None)
    config_type = body.pop("configType", None)
    if config_type is not None:
        refs["configTypeId"] = _reference("config-types", config_type)
    configs = body.pop("configs", None)
    if configs is not None:
        refs["configs"] = [_reference("configs", name) for name in configs]
    return {
        "post": f"{BASE}/{path}",
        "body": body,
        **({"refs": refs} if refs else {}),
    }


def _reference(path: str, name: str) -> dict[str, str]:
    return {"in": f"{BASE}/{path}", "name": name.removeprefix("@")}
