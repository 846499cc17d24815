"""`manifests/` is what the emitters make of the example policy, to the byte."""

from __future__ import annotations

from pathlib import Path

from authz_server.emit.istio import emit_istio
from authz_server.emit.kubernetes import emit_kubernetes
from authz_server.emit.manifest import EmitOptions, Mesh
from authz_server.policy.document import load_policy

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "plant-7.yaml"


def test_the_manifests_are_what_is_emitted_for_the_example() -> None:
    policy = load_policy(EXAMPLE)
    options = EmitOptions(EXAMPLE.read_text(encoding="utf-8"), mesh=Mesh.SIDECAR)
    emitted = {
        f"{target}/{manifest.name}": manifest.text.encode()
        for target, manifests in (
            ("kubernetes", emit_kubernetes(policy, options)),
            ("istio", emit_istio(policy, options)),
        )
        for manifest in manifests
    }
    folder = ROOT / "manifests"

    kept = {
        f"{path.parent.name}/{path.name}": path.read_bytes()
        for path in folder.glob("*/*.yaml")
    }

    hint = "run: authz-server emit kubernetes istio --policy EXAMPLE --out manifests"
    assert sorted(kept) == sorted(emitted), hint
    assert kept == emitted, hint
