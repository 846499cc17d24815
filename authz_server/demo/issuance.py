"""Who gives the plant's parts and callers their identities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from authz_server.demo.pki import DevelopmentCa, write_bundle, write_svid
from authz_server.demo.scenario import EDGE_ID, FACTORY, SUPPLIER, issue_all

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Mapping

    from authz_server.demo.pki import SvidFiles

Part = TypeVar("Part")


class Enter(Protocol):
    """Takes charge of a part: it ends with the plant."""

    def __call__(self, part: contextlib.AbstractContextManager[Part]) -> Part:
        """Return the part, running."""


def unchanged(configuration: dict[str, Any]) -> dict[str, Any]:
    """Return Envoy's configuration as it is."""
    return configuration


@dataclass(frozen=True, slots=True)
class Issued:
    """Identities, and what the parts need to know of who issued them.

    Attributes:
        identities: the SVID of each caller that has one.
        bundle: by which callers know Envoy.
        settings: ``identity`` in authz-server's configuration.
        adapt: makes of Envoy's configuration one that gets its identity there.
        pids: of the parts that were started for it.
    """

    identities: Mapping[str, SvidFiles]
    bundle: Path
    settings: Mapping[str, object]
    adapt: Callable[[dict[str, Any]], dict[str, Any]] = unchanged
    pids: Mapping[str, int] = field(default_factory=dict)


Issue = Callable[[Path, Enter, Callable[[str], None]], Issued]
"""Gets the plant's folder, what takes charge of parts, and what gets each step."""


def by_development_cas(
    folder: Path, enter: Enter, say: Callable[[str], None]
) -> Issued:
    """Return identities from two CAs in memory, as files."""
    del enter
    factory, supplier = DevelopmentCa(FACTORY), DevelopmentCa(SUPPLIER)
    write_svid(folder, "server", factory.issue(EDGE_ID, ["localhost"]))
    bundles = {ca.trust_domain: write_bundle(folder, ca) for ca in (factory, supplier)}
    identities = {
        who: write_svid(folder, who.replace(" ", "-"), svid)
        for who, svid in issue_all(factory, supplier).items()
    }
    say(f"two CAs and {len(identities)} callers' SVIDs are made")
    return Issued(
        identities=identities,
        bundle=bundles[FACTORY],
        settings={"bundles": {name: str(path) for name, path in bundles.items()}},
    )
