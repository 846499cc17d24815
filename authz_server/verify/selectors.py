"""Label selectors (Kubernetes API, LabelSelector), and what they need to match."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from authz_server.verify.fields import Fields, UnreadableError

Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Requirement:
    """One of ``matchExpressions``."""

    key: str
    operator: str
    values: tuple[str, ...]

    def matches(self, labels: Labels) -> bool:
        """Return whether `labels` meet it."""
        if self.operator == "Exists":
            return self.key in labels
        if self.operator == "DoesNotExist":
            return self.key not in labels
        # NotIn holds of what has no such label, too.
        return (labels.get(self.key) in self.values) is (self.operator == "In")


@dataclass(frozen=True, slots=True)
class Selector:
    """All of its parts must match; without any, everything does."""

    labels: tuple[tuple[str, str], ...] = ()
    requirements: tuple[Requirement, ...] = field(default=())

    def matches(self, labels: Labels) -> bool:
        """Return whether it selects what has `labels`."""
        return all(labels.get(key) == value for key, value in self.labels) and all(
            item.matches(labels) for item in self.requirements
        )

    def witness(self) -> dict[str, str]:
        """Return labels that it selects, as few as may be; if nothing can be, any."""
        found = dict(self.labels)
        for item in self.requirements:
            if item.operator in {"In", "Exists"}:
                found.setdefault(item.key, (*item.values, "any")[0])
        return found


def read_selector(fields: Fields | None) -> Selector:
    """Return the selector that `fields` spell; without any, one of everything.

    Raises:
        UnreadableError: if it is none.
    """
    if fields is None:
        return Selector()
    fields.only("matchLabels", "matchExpressions")
    return Selector(
        tuple(sorted(fields.labels("matchLabels").items())),
        tuple(_requirement(item) for item in fields.children("matchExpressions")),
    )


def _requirement(fields: Fields) -> Requirement:
    fields.only("key", "operator", "values")
    found = Requirement(
        fields.text("key"), fields.text("operator"), fields.texts("values")
    )
    needs_values = {"In": True, "NotIn": True, "Exists": False, "DoesNotExist": False}
    if needs_values.get(found.operator) is not bool(found.values):
        raise UnreadableError(
            f"{found.operator or 'no operator'} with {len(found.values)} values is no "
            "expression of a selector"
        )
    return found
