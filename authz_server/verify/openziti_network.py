"""Identities, services and service policies as OpenZiti documents them.

Roles name ``#attribute``, ``@name`` or ``#all``; with AllOf every attribute must be
there (OpenZiti, "Policies").
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from authz_server.verify.fields import Fields, UnreadableError
from authz_server.verify.objects import Document


@dataclass(frozen=True, slots=True)
class Entity:
    """An identity or a service: what roles go by."""

    name: str
    attributes: frozenset[str]
    external_id: str = ""

    def has(self, roles: Sequence[str], *, is_all: bool) -> bool:
        """Return whether it has one of `roles`, or all of their attributes."""
        # A name is never one of several that all must hold.
        if "#all" in roles or f"@{self.name}" in roles:
            return True
        attributes = [role[1:] for role in roles if role.startswith("#")]
        check = all if is_all else any
        return bool(attributes) and check(
            item in self.attributes for item in attributes
        )


@dataclass(frozen=True, slots=True)
class ServicePolicy:
    """Lets identities dial services, or bind them.

    Attributes:
        is_all: whether all attributes of a role list must be there.
    """

    name: str
    kind: str
    is_all: bool
    identities: tuple[str, ...]
    services: tuple[str, ...]


class Network:
    """What one file says.

    Raises:
        UnreadableError: if it holds what can't be told.
    """

    def __init__(self, document: Document) -> None:
        self.place = document.place
        fields = Fields(document.body, "the file")
        self.services = [_entity(item) for item in fields.children("services")]
        self.identities = [_entity(item) for item in fields.children("identities")]
        self.admins = [
            item.text("name")
            for item in fields.children("identities")
            if item.boolean("isAdmin")
        ]
        self._policies = [_policy(item) for item in fields.children("servicePolicies")]

    def may(
        self, kind: str, service: Entity
    ) -> Iterator[tuple[Entity, tuple[str, ...]]]:
        """Yield the identities that may dial, or bind, and by which policies."""
        policies = [
            item
            for item in self._policies
            if item.kind == kind and service.has(item.services, is_all=item.is_all)
        ]
        for identity in self.identities:
            names = tuple(
                item.name
                for item in policies
                if identity.has(item.identities, is_all=item.is_all)
            )
            if names:
                yield identity, names


def _entity(fields: Fields) -> Entity:
    return Entity(
        fields.text("name"),
        frozenset(fields.texts("roleAttributes")),
        fields.text("externalId"),
    )


def _policy(fields: Fields) -> ServicePolicy:
    kind, semantic = fields.text("type"), fields.text("semantic")
    if kind not in {"Dial", "Bind"} or semantic not in {"AnyOf", "AllOf"}:
        raise UnreadableError(
            f"service policy {fields.text('name')}: type {kind!r} and semantic "
            f"{semantic!r} are not known; a controller's defaults differ"
        )
    return ServicePolicy(
        fields.text("name"),
        kind,
        semantic == "AllOf",
        fields.texts("identityRoles"),
        fields.texts("serviceRoles"),
    )
