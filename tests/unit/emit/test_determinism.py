from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from authz_server.emit.istio import emit_istio
from authz_server.emit.kubernetes import emit_kubernetes
from authz_server.emit.manifest import EmitOptions
from authz_server.policy.model import AccessPolicy, Upstream

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "examples" / "plant-7.yaml"


def test_the_hash_seed_changes_no_byte() -> None:
    outputs = {
        subprocess.run(
            [
                sys.executable,
                "-c",
                (
                    "import argparse, sys\n"
                    "from authz_server.cli import emit\n"
                    "parser = argparse.ArgumentParser()\n"
                    "emit.add_parser(parser.add_subparsers())\n"
                    "args = parser.parse_args(sys.argv[1:])\n"
                    "raise SystemExit(args.run(args))\n"
                ),
                *("emit", "kubernetes", "istio", "--policy", str(EXAMPLE)),
            ],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            timeout=60,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }

    assert len(outputs) == 1
    assert b"NetworkPolicy" in outputs.pop()


def test_the_order_of_the_policys_sections_changes_no_byte(
    policy: AccessPolicy, mesh: EmitOptions
) -> None:
    def upside_down(upstream: Upstream) -> Upstream:
        selector = dict(reversed([*upstream.pod_selector.items(), ("tier", "gpu")]))
        return replace(upstream, pod_selector=selector)

    def selected(upstream: Upstream) -> Upstream:
        return replace(upstream, pod_selector={**upstream.pod_selector, "tier": "gpu"})

    one = replace(
        policy, upstreams={name: selected(u) for name, u in policy.upstreams.items()}
    )
    other = replace(
        policy,
        upstreams={
            name: upside_down(u) for name, u in reversed(list(policy.upstreams.items()))
        },
        groups=dict(reversed(list(policy.groups.items()))),
        grants=tuple(reversed(policy.grants)),
    )

    for emit in (emit_kubernetes, emit_istio):
        texts = [[m.text for m in emit(item, mesh)] for item in (one, other)]
        assert texts[0] == texts[1]
