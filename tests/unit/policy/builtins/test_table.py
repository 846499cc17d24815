"""The functions that are offered, and what the documentation says of them."""

from __future__ import annotations

import re
from pathlib import Path

from authz_server.policy.builtins.table import HOST_FUNCTIONS

DOCUMENT = Path(__file__).parents[4] / "docs" / "policy.md"
NEVER = (
    *("http.send", "net.lookup_ip_addr", "rand.intn", "uuid.rfc4122", "opa.runtime"),
    *("rego.parse_module", "providers.aws.sign_req", "io.jwt.encode_sign"),
)


def test_what_must_not_be_offered_is_not() -> None:
    assert not HOST_FUNCTIONS.keys() & set(NEVER)


def test_the_documentation_lists_what_is_offered_and_nothing_else() -> None:
    section = DOCUMENT.read_text().partition("### Built-in functions")[2]
    table = section.partition("leaves to its host, these are:")[2]
    table = table.partition("A policy that uses any other")[0]
    assert sorted(re.findall("`([^`]+)`", table)) == sorted(HOST_FUNCTIONS)
