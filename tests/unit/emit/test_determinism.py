from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from emission import PARTS

from authz_server.emit import TARGET_NAMES
from authz_server.emit.targets import TARGETS, Source
from authz_server.policy.model import AccessPolicy, Upstream
from authz_server.site.model import Attestor, Box, Cluster, Site, Spire

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
                *("emit", *TARGET_NAMES, "--policy", str(EXAMPLE)),
                *("--site", str(EXAMPLE.with_name("plant-7-site.yaml"))),
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
    policy: AccessPolicy, mesh: Site
) -> None:
    site = replace(
        mesh,
        cluster=Cluster(api_server=("10.0.0.1/32",)),
        spire=Spire(address="spire.example:8081"),
        boxes=(Box("b", Attestor.JOIN_TOKEN, serves=("triton",)),),
    )

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

    for target in TARGET_NAMES:
        texts = [
            [m.text for m in TARGETS[target](Source(item, site, PARTS))]
            for item in (one, other)
        ]
        assert texts[0] == texts[1]


def test_every_target_that_the_command_line_names_is_there() -> None:
    assert tuple(TARGETS) == TARGET_NAMES
