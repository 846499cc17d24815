"""``authz-server policy bundle``: pack an access policy as an OPA bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from authz_server.policy.bundles.bundle import Bundle


def add_action(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
) -> None:
    """Add the action to ``policy``."""
    parser = commands.add_parser(
        "bundle",
        help="pack an access policy as an OPA bundle, signed or not",
        description="Packs an access policy, and Rego of your own, as an OPA bundle "
        "for servers that have distribution.url. Checked first; equal policies give "
        "equal bytes, until they are signed.",
    )
    parser.add_argument(
        "policy",
        nargs="?",
        type=Path,
        metavar="POLICY",
        help="file or folder; none, where the Rego is written for opa-envoy-plugin",
    )
    parser.add_argument(
        "--bundle", type=Path, metavar="FILE", help="your own Rego, built by `build`"
    )
    parser.add_argument(
        "--revision", metavar="TEXT", help="its name; default: the policy's revision"
    )
    parser.add_argument(
        "--signing-key", type=Path, metavar="PEM", help="private key, EC P-256 or RSA"
    )
    parser.add_argument("--key-id", default="default", help="its name on the servers")
    parser.add_argument("--scope", default="", help="what the signature is for")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="OUT")
    parser.set_defaults(run=_bundle)


def _bundle(args: argparse.Namespace) -> int:
    import tempfile

    from authz_server.errors import SetupError
    from authz_server.policy.building import replace_file
    from authz_server.policy.bundles.archive import write_archive
    from authz_server.policy.bundles.bundle import bundle_files
    from authz_server.policy.bundles.manifest import MANIFEST, Manifest
    from authz_server.policy.bundles.signing import read_private_key, sign_files

    if args.policy is not None:
        bundle = _access_bundle(args.policy, args.bundle, args.revision)
    elif args.bundle is not None:
        bundle = _rego_bundle(args.bundle, args.revision)
    else:
        raise SetupError("name an access policy, or Rego with --bundle")
    files = bundle_files(bundle)
    # What the servers would refuse is not packed.
    Manifest.parse(files[MANIFEST])
    if args.signing_key is not None:
        key = read_private_key(args.signing_key)
        files = sign_files(files, key, args.key_id, args.scope)
    with tempfile.TemporaryDirectory(prefix="authz-server-bundle-") as folder:
        packed = Path(folder, "bundle.tar.gz")
        packed.write_bytes(write_archive(files))
        replace_file(packed, args.out)
    print(f"wrote {args.out}, revision {bundle.manifest.revision}")
    return 0


def _access_bundle(path: Path, rego: Path | None, revision: str | None) -> Bundle:
    import hashlib

    import yaml

    from authz_server.errors import PolicyError
    from authz_server.policy.building import read_wasm, shipped_wasm
    from authz_server.policy.bundles.bundle import Bundle
    from authz_server.policy.bundles.content import POLICY, access_policy
    from authz_server.policy.bundles.manifest import Manifest
    from authz_server.policy.compiler import compile_policy
    from authz_server.policy.document import (
        PolicyReader,
        load_policy,
        policy_files,
        read_text,
    )
    from authz_server.policy.engine import Engine

    policy = load_policy(path)
    # In a valid policy all values are text, which is how this loader takes them.
    parts = {
        file.name: yaml.load(read_text(file), yaml.CBaseLoader)  # noqa: S506 - only text
        for file in policy_files(path)
    }
    wasm = read_wasm(rego) if rego else None
    compiled = compile_policy(policy, hashlib.sha256(wasm or shipped_wasm()).digest())
    if wasm is not None:
        # What the servers would refuse is not packed.
        Engine(wasm, compiled.data, timeout_s=5.0, instances=1).close()
    bundle = Bundle(
        Manifest(revision or compiled.revision, roots=((POLICY,),)),
        {POLICY: parts if path.is_dir() else next(iter(parts.values()))},
        {} if wasm is None else {"policy.wasm": wasm},
    )
    if access_policy(bundle, b"", PolicyReader()).policy != policy:
        raise PolicyError(f"{path}: a bundle cannot say what it says")
    return bundle


def _rego_bundle(path: Path, revision: str | None) -> Bundle:
    import dataclasses

    from authz_server.errors import SetupError
    from authz_server.policy.building import MAX_WASM_BYTES
    from authz_server.policy.bundles.bundle import read_bundle
    from authz_server.policy.bundles.content import opa_envoy_policy
    from authz_server.policy.in_force import InForce

    try:
        raw = path.read_bytes()
    except OSError as error:
        raise SetupError(f"cannot read {path}: {error.strerror}") from error
    bundle = read_bundle(raw, MAX_WASM_BYTES, None)
    in_force = InForce(timeout_s=5.0, instances=1)
    in_force.put(opa_envoy_policy(bundle, None))
    current = in_force.current
    in_force.close()
    name = revision or bundle.manifest.revision or (current.revision if current else "")
    manifest = dataclasses.replace(bundle.manifest, revision=name)
    return dataclasses.replace(bundle, manifest=manifest)
