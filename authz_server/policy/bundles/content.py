"""The policy that a bundle holds, of either form."""

from __future__ import annotations

from typing import Any, Final

from authz_server.errors import PolicyError
from authz_server.facts.input_paths import EVERYTHING, InputPaths
from authz_server.policy.bundles.bundle import Bundle
from authz_server.policy.document import PolicyReader
from authz_server.policy.in_force import Material, OpaEnvoyMaterial

POLICY: Final = "access_policy"
"""The key of `data` under which a bundle has the access policy."""

_OURS: Final = "authz-server"
"""The key of a manifest's metadata under which is what we know of its Rego."""

_INPUTS: Final = "inputs"


def access_policy(bundle: Bundle, wasm: bytes, reader: PolicyReader) -> Material:
    """Return the policy that a bundle holds.

    Args:
        wasm: the Rego that evaluates it, unless the bundle has Wasm of its own.
        reader: that of the bundle before it.

    Raises:
        PolicyError: if it holds no valid access policy.
    """
    data = dict(bundle.data)
    document = data.pop(POLICY, None)
    if document is None:
        raise PolicyError(
            f"the bundle has no data.{POLICY}, which is to hold the access policy; "
            "`authz-server policy bundle` makes one"
        )
    parts = ((f"data.{place}", part) for place, part in _parts(document))
    return Material(reader.read_json(parts), bundle.wasm or wasm, data)


def _parts(document: object) -> list[tuple[str, object]]:
    """Return the access policy, or its parts by their names, with their places."""
    if isinstance(document, dict) and document and "kind" not in document:
        return [(f"{POLICY}.{name}", part) for name, part in document.items()]
    return [(POLICY, document)]


def opa_envoy_policy(bundle: Bundle, declared: InputPaths | None) -> OpaEnvoyMaterial:
    """Return the policy for opa-envoy-plugin that a bundle holds.

    Args:
        declared: which parts of its input it reads, by the operator; None if nothing is
            declared. What was worked out when it was built counts before that.

    Raises:
        PolicyError: if it holds no Wasm, or its metadata cannot be read.
    """
    wasm = bundle.wasm
    if wasm is None:
        raise PolicyError(
            "the bundle has no Wasm; build it by `authz-server policy build --form "
            "opa-envoy`"
        )
    reads = _worked_out(bundle) or declared or EVERYTHING
    return OpaEnvoyMaterial(wasm, bundle.data, reads)


def inputs_metadata(reads: InputPaths) -> dict[str, Any]:
    """Return the metadata that tells which parts of its input a policy reads."""
    return {_OURS: {_INPUTS: reads.texts()}}


def _worked_out(bundle: Bundle) -> InputPaths | None:
    ours = bundle.manifest.metadata.get(_OURS, {})
    texts = ours.get(_INPUTS) if isinstance(ours, dict) else None
    if texts is None:
        return None
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise PolicyError("the bundle's metadata has inputs that are no list of paths")
    try:
        return InputPaths.parse(texts)
    except ValueError as error:
        raise PolicyError(f"the bundle's metadata: {error}") from error
