"""What the configuration cannot give to a policy, and who verifies a proxy."""

import datetime as dt
from collections.abc import Mapping
from pathlib import Path

import pytest
from parts import EXAMPLE, FACTORY_CA, SUPPLIER_CA, example_config

from authz_server.assembly import (
    find_gaps,
    open_identities,
    open_second_lock,
    proxy_verifier,
)
from authz_server.clock import system_clock
from authz_server.config import (
    Config,
    Federation,
    Identity,
    Listen,
    Tls,
    Triton,
    Users,
)
from authz_server.demo.pki import DevelopmentCa, write_bundle
from authz_server.errors import BundleError, SvidError
from authz_server.identity.certificate import Leaf, read_leaf
from authz_server.policy.document import load_policy

ISSUER = "https://idp.factory.example"
BOTH = {"factory.example": "/a.pem", "supplier.example": "/b.pem"}
PROXY = "spiffe://factory.example/ns/inference/sa/triton"

POLICY = """
apiVersion: authz.edge/v1
kind: AccessPolicy
metadata: {{name: test}}
spec:
  trustDomain: factory.example
  federatesWith: [supplier.example]
  upstreams: {{triton: {{kind: triton, hosts: [triton.example]}}}}
  groups:
    engineers:
      users: [{users}]
  roles: {{reader: [{{actions: [health]}}]}}
  grants: [{{role: reader, to: [engineers], on: [triton]}}]
"""


def gaps(
    folder: Path, *users: tuple[str, str, str], identity: Identity | None = None
) -> list[str]:
    members = users or ((ISSUER, "groups", "ml"),)
    file = folder / "access.yaml"
    file.write_text(
        POLICY.format(
            users=", ".join(
                f"{{issuer: '{issuer}', claim: {claim}, value: {value}}}"
                for issuer, claim, value in members
            )
        )
    )
    return find_gaps(load_policy(file), Config(identity=identity or all_given()))


def all_given(
    issuers: Mapping[str, str] | None = None, claims: tuple[str, ...] = ("groups",)
) -> Identity:
    return Identity(
        bundles=dict(BOTH),
        users=Users(
            issuers=dict({ISSUER: "envoy"} if issuers is None else issuers),
            audience=("a",),
            claims=claims,
        ),
    )


def test_a_configuration_that_gives_everything_has_no_gap(tmp_path: Path) -> None:
    assert gaps(tmp_path) == []


def test_an_issuer_that_is_not_configured_is_a_gap_told_once(tmp_path: Path) -> None:
    (gap,) = gaps(
        tmp_path,
        (ISSUER, "groups", "ml"),
        (ISSUER, "groups", "ops"),
        identity=all_given(issuers={}),
    )
    assert gap.startswith(f"group engineers: no token of {ISSUER} is read")
    assert "identity.users.issuers" in gap


def test_a_claim_that_no_policy_sees_is_a_gap_told_once(tmp_path: Path) -> None:
    (gap,) = gaps(
        tmp_path,
        (ISSUER, "groups", "ml"),
        (ISSUER, "team", "a"),
        (ISSUER, "team", "b"),
    )
    assert "the claim 'team'" in gap
    assert "identity.users.claims" in gap


def test_each_trust_domain_without_a_bundle_is_a_gap(tmp_path: Path) -> None:
    identity = all_given()
    identity.bundles.clear()
    first, second = gaps(tmp_path, identity=identity)
    assert first.startswith("trust domain factory.example: has no bundle")
    assert second.startswith("trust domain supplier.example: has no bundle")


@pytest.mark.parametrize(
    "identity",
    [
        Identity(bundle_map="/map.json"),
        Identity(workload_api="unix:///agent.sock"),
        Identity(chain="proxy"),
        Identity(
            bundles={"factory.example": "/a.pem"},
            federation=Federation(endpoints={"supplier.example": "https://s"}),
        ),
    ],
)
def test_bundles_may_come_from_elsewhere_or_not_be_needed(
    tmp_path: Path, identity: Identity
) -> None:
    assert not [gap for gap in gaps(tmp_path, identity=identity) if "bundle" in gap]


def test_the_example_policy_has_its_gaps_told() -> None:
    found = find_gaps(load_policy(EXAMPLE), example_config())
    assert all(gap.startswith("group ") for gap in found)


# Who verifies a proxy


def leaf_of(ca: DevelopmentCa, spiffe_id: str = PROXY) -> Leaf:
    return read_leaf(ca.issue(spiffe_id).certificate_pem)


def config_with(tls: Tls, identity: Identity) -> Config:
    return Config(listen=Listen(tls=tls), identity=identity)


FILES = Tls(proxies=(PROXY,), certificate="c", key="k", client_ca="ca")
WITHOUT_FILES = Tls(proxies=(PROXY,))


def test_a_proxy_is_verified_by_the_bundle_of_its_trust_domain(tmp_path: Path) -> None:
    bundle = str(write_bundle(tmp_path, FACTORY_CA))
    config = config_with(FILES, Identity(bundles={"factory.example": bundle}))
    identities = open_identities(config)
    verify = proxy_verifier(config, identities)
    now_s = system_clock().wall_s
    leaf = leaf_of(FACTORY_CA)
    with pytest.raises(BundleError):  # not read yet: nobody is believed
        verify(leaf, now_s, ())
    identities.reload()
    assert verify(leaf, now_s, ())[1] == leaf.valid_until_s
    with pytest.raises(SvidError):
        verify(leaf_of(SUPPLIER_CA), now_s, ())


def test_a_trust_domain_without_any_bundle_is_left_to_the_handshake(
    tmp_path: Path,
) -> None:
    bundle = str(write_bundle(tmp_path, SUPPLIER_CA))
    config = config_with(FILES, Identity(bundles={"supplier.example": bundle}))
    verify = proxy_verifier(config, open_identities(config))
    leaf = leaf_of(FACTORY_CA)
    assert verify(leaf, 0.0, ()) == (leaf.valid_from_s, leaf.valid_until_s)


@pytest.mark.parametrize("tls", [FILES, WITHOUT_FILES])
def test_a_source_of_any_trust_domain_leaves_nothing_to_the_handshake(
    tmp_path: Path, tls: Tls
) -> None:
    map_file = tmp_path / "map.json"
    config = config_with(tls, Identity(bundle_map=str(map_file)))
    verify = proxy_verifier(config, open_identities(config))
    with pytest.raises(BundleError):
        verify(leaf_of(FACTORY_CA), dt.datetime.now(dt.UTC).timestamp(), ())


def test_who_is_to_be_told_of_a_change_sees_it_already(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path, SUPPLIER_CA)
    keys, revoked = tmp_path / "keys", tmp_path / "revoked"
    secret = tmp_path / "secret"
    config = Config(
        identity=Identity(
            bundles={"supplier.example": str(bundle)},
            revocations=str(revoked),
            users=Users(issuers={ISSUER: str(keys)}, audience=("models",)),
        ),
        triton=Triton(access_secret=str(secret)),
    )

    def in_force() -> tuple[str, str]:
        return identities.current.revision, lock.current.revision

    seen: list[tuple[str, str]] = []
    identities = open_identities(config, lambda: seen.append(in_force()))
    lock = open_second_lock(config, lambda: seen.append(in_force()))
    bundle_of_another = DevelopmentCa("supplier.example").bundle_pem
    for file, content in (
        (bundle, bundle.read_bytes()),
        (bundle, bundle_of_another),
        (keys, b'{"keys": []}'),
        (revoked, b""),
        (revoked, b"trust-domain other.example"),
        (secret, b"a"),
        (secret, b"b"),
        (secret, b""),
    ):
        before = in_force()
        file.write_bytes(content)
        identities.reload()
        lock.reload()
        assert in_force() != before, file
        assert seen[-1] == in_force(), file
