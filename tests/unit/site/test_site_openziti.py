"""The part of a site that tells of OpenZiti."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from authz_server.demo.pki import DevelopmentCa
from authz_server.policy.document import load_policy
from authz_server.policy.nodes import PolicyDocumentError
from authz_server.site.document import parse_site
from authz_server.site.model import OpenZiti, Site

POLICY = load_policy(Path(__file__).parents[3] / "examples" / "plant-7.yaml")
HEAD = "apiVersion: authz.edge/v1\nkind: Site\nmetadata: {name: s}\nspec:\n"
PEM = DevelopmentCa("factory.example").bundle_pem.decode()
OTHER = DevelopmentCa("factory.example").bundle_pem.decode()


def read(pem: str) -> Site:
    block = textwrap.indent(pem, " " * 6)
    return parse_site(
        f"{HEAD}  openziti:\n    certificateAuthority: |\n{block}", "site.yaml", POLICY
    )


def test_without_the_section_there_is_no_authority() -> None:
    assert parse_site(HEAD + "  {}\n", "site.yaml", POLICY).openziti == OpenZiti()
    site = parse_site(HEAD + "  openziti: {}\n", "site.yaml", POLICY)
    assert site.openziti == OpenZiti()


def test_the_certificate_is_read() -> None:
    assert read(PEM).openziti == OpenZiti(PEM)


def test_what_stands_beside_the_certificate_stays_behind() -> None:
    beside = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n"

    site = read(f"subject=a root\n{beside}{PEM}")

    assert site.openziti == OpenZiti(PEM)


@pytest.mark.parametrize(
    "pem",
    ["paste it here\n", PEM + OTHER, PEM.replace("M", "?"), "root.pem\n"],
    ids=["no PEM", "two", "not base64", "a path"],
)
def test_anything_but_one_certificate_is_refused(pem: str) -> None:
    with pytest.raises(
        PolicyDocumentError, match="certificateAuthority is not one certificate in PEM"
    ) as raised:
        read(pem)

    [problem] = raised.value.problems
    assert problem.line == HEAD.count("\n") + 2
    assert problem.mend


def test_it_must_be_text() -> None:
    with pytest.raises(PolicyDocumentError, match="certificateAuthority"):
        parse_site(
            HEAD + "  openziti: {certificateAuthority: 7}\n", "site.yaml", POLICY
        )
