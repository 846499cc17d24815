"""Who may change what in a policy."""

from __future__ import annotations

import pytest

from authz_server.identity.spiffe_id import SpiffeId
from authz_server.policy.admins import Author, changes, forbidden
from authz_server.policy.document import PolicyDocumentError, parse_policy
from authz_server.policy.model import UserClaim

OLD = """\
apiVersion: authz.edge/v1
kind: AccessPolicy
metadata: {name: line}
spec:
  trustDomain: a.example
  federatesWith: [b.example]
  upstreams:
    triton: {kind: triton}
    spare: {kind: triton}
  groups:
    platform: {spiffe: ["spiffe://a.example/ns/platform/sa/*"]}
    leads: {users: [{issuer: "https://idp.a.example", claim: groups, value: leads}]}
    line-1: {spiffe: ["spiffe://a.example/ns/l1/sa/cam"]}
    line-2: {spiffe: ["spiffe://a.example/ns/l2/sa/cam"]}
  roles:
    use: [{actions: [inference], models: [m]}]
    run: [{actions: [model-repository], models: [m]}]
  grants:
    - {role: use, to: [line-1], on: [triton]}
  denials:
    - {role: run, to: [line-1], on: [triton]}
  admins:
    - to: [platform]
      change: [trust, upstreams, groups, roles, grants, denials, admins]
    - to: [leads]
      change: [groups, grants]
      groups: [line-1, line-2]
      roles: [use]
      upstreams: [triton]
"""

PLATFORM = Author(SpiffeId.parse("spiffe://a.example/ns/platform/sa/ci"))
LEAD = Author(claims=frozenset({UserClaim("https://idp.a.example", "groups", "leads")}))
NOBODY = Author(SpiffeId.parse("spiffe://a.example/ns/l1/sa/cam"))

GRANT = "    - {role: use, to: [line-1], on: [triton]}\n"


@pytest.mark.parametrize(
    ("old", "new", "said", "lead_may"),
    [
        ("ns/l1/sa/cam", "ns/l1/sa/new", "groups: line-1 changed", True),
        (GRANT, GRANT + GRANT.replace("line-1", "line-2"),
         "grants: use to line-2 on triton added", True),
        (GRANT, GRANT.replace("[line-1]", "[line-1, line-2]"),
         ("grants: use to line-1 on triton removed, "
         "grants: use to line-1, line-2 on triton added"), True),
        (GRANT, GRANT.replace("triton", "spare"),
         ("grants: use to line-1 on triton removed, "
         "grants: use to line-1 on spare added"), False),
        (GRANT, GRANT + GRANT.replace("use", "run"),
         "grants: run to line-1 on triton added", False),
        (GRANT, GRANT + GRANT.replace("line-1", "platform"),
         "grants: use to platform on triton added", False),
        (GRANT, GRANT.replace("]}", "], when: {users: [leads]}}"),
         ("grants: use to line-1 on triton removed, "
         "grants: use to line-1 on triton added"), False),
        ("ns/platform/sa/*", "ns/*/sa/*", "groups: platform changed", False),
        ("    line-2:", "    new: {groups: [line-1]}\n    line-2:",
         "groups: new added", False),
        ("models: [m]}]\n  grants", 'models: ["*"]}]\n  grants',
         "roles: run changed", False),
        ("spare: {kind: triton}", "spare: {kind: openai}",
         "upstreams: spare changed", False),
        ("federatesWith: [b.example]", "federatesWith: [b.example, c.example]",
         "trust: federatesWith changed", False),
        ("  denials:\n    - {role: run, to: [line-1], on: [triton]}\n", "",
         "denials: run to line-1 on triton removed", False),
        ("change: [groups, grants]", "change: [groups, grants, roles]",
         ("admins: groups, grants by leads removed, "
         "admins: groups, grants, roles by leads added"), False),
    ],
)  # fmt: skip
def test_a_change_needs_an_admin_of_the_policy_before_it(
    old: str, new: str, said: str, *, lead_may: bool
) -> None:
    assert OLD.count(old) == 1, old
    before, after = (
        parse_policy(text, "p.yaml") for text in (OLD, OLD.replace(old, new))
    )
    assert ", ".join(map(str, changes(before, after))) == said
    assert forbidden(before, after, PLATFORM) == ()
    assert (forbidden(before, after, LEAD) == ()) is lead_may
    assert forbidden(before, after, NOBODY) == changes(before, after)


def test_equal_policies_have_no_changes() -> None:
    policy = parse_policy(OLD, "p.yaml")
    assert changes(policy, parse_policy("# again\n" + OLD, "q.yaml")) == ()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[groups, grants]", "[groups, grant]", "did you mean 'grants'?"),
        ("[groups, grants]", "[]", "name a section"),
        ("to: [leads]", "to: [lead]", "did you mean 'leads'?"),
        ("roles: [use]", "roles: [used]", "did you mean 'use'?"),
        ("roles: [use]", "role: [use]", "unknown key 'role' in an admin"),
    ],
)
def test_a_fault_is_reported(old: str, new: str, said: str) -> None:
    assert OLD.count(old) == 1
    with pytest.raises(PolicyDocumentError) as caught:
        parse_policy(OLD.replace(old, new), "p.yaml")
    assert said in str(caught.value)
