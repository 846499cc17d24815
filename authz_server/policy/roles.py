"""Reads the roles of an access policy: which actions on which models and datasets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from authz_server.operations.actions import (
    DATASET_ACTIONS,
    Action,
    is_model_name,
    is_version,
)
from authz_server.policy.model import Permission, Role
from authz_server.policy.nodes import Node, Problems, suggest
from authz_server.policy.references import read_references

if TYPE_CHECKING:
    from collections.abc import Collection

ANY_MODEL: Final = "*"

_LIMITS: Final = ("versions", "adapters")
"""Keys that narrow a permission on models."""

SERVER_ACTIONS: Final = frozenset({Action.HEALTH, Action.METADATA})
"""Actions that the server also answers for itself, so `models` may be left out."""

GATED_ACTIONS: Final = frozenset(
    {
        Action.INFERENCE,
        Action.INFERENCE_STREAM,
        Action.METRICS,
        Action.MODEL_LIST,
        Action.STATISTICS,
    }
)
"""Actions of calls that may begin before it is known which models they concern, since
the gate judges each of their messages, or each model in their answer."""

EVERY_MODEL_ACTIONS: Final = frozenset(
    {
        Action.LOGGING,
        Action.SHARED_MEMORY,
    }
)
"""Actions that always concern every model, so a permission on some gives nothing."""


class RoleReader:
    """Reads roles, whose permissions may name these datasets and upstreams."""

    def __init__(
        self,
        problems: Problems,
        datasets: Collection[str],
        upstreams: Collection[str],
    ) -> None:
        self._problems = problems
        self._datasets = datasets
        self._upstreams = upstreams

    def role(self, name: str, node: Node) -> Role:
        """Return one role."""
        what = f"role {name!r}"
        return Role(
            name=name,
            permissions=tuple(
                self._permission(item, what)
                for item in self._problems.items(node, what, "add a permission")
            ),
        )

    def _permission(self, node: Node, what: str) -> Permission:
        what = f"a permission of {what}"
        fields = self._problems.fields(
            node, what, ("actions",), ("models", *_LIMITS, "datasets", "upstreams")
        )
        actions = self._actions(fields.get("actions"), what)
        model_actions = set(actions) - DATASET_ACTIONS
        for key, of_kind, noun in (
            ("models", model_actions, "model"),
            ("datasets", set(actions) & DATASET_ACTIONS, "dataset"),
        ):
            if key in fields and actions and not of_kind:
                self._problems.add(
                    fields[key],
                    f"{what} has {key} but no {noun} action",
                    f"take {key} out",
                )
            if key not in fields and of_kind - SERVER_ACTIONS:
                shown = ", ".join(sorted(of_kind - SERVER_ACTIONS))
                self._problems.add(
                    node, f"{what} gives {shown} on no {noun}", f"add '{key}:'"
                )
        limits = [key for key in _LIMITS if key in fields]
        if limits and "models" not in fields:
            self._problems.add(
                fields[limits[0]],
                f"{what} has {limits[0]} of no model",
                "add 'models:'",
            )
        if len(limits) > 1:
            self._problems.add(
                fields["adapters"],
                f"{what} has versions and adapters, and no call names both",
                "make two permissions of it",
            )
        models = read_models(self._problems, fields.get("models"), what)
        if "models" in fields and (ANY_MODEL not in models or limits):
            for action in sorted(EVERY_MODEL_ACTIONS & model_actions):
                self._problems.add(
                    fields["models"],
                    f"{action} concerns every model in every version",
                    f'give it in a permission with models: ["{ANY_MODEL}"] and '
                    "no versions or adapters",
                )
        return Permission(
            actions=actions,
            models=models,
            versions=read_versions(self._problems, fields.get("versions"), what),
            adapters=self._adapters(fields.get("adapters"), what),
            datasets=self._dataset_names(fields.get("datasets"), what),
            upstreams=read_references(
                self._problems,
                fields.get("upstreams"),
                f"upstreams of {what}",
                "upstream",
                self._upstreams,
            ),
        )

    def _actions(self, node: Node | None, what: str) -> tuple[Action, ...]:
        actions = []
        for scalar in self._problems.strings(
            node, f"actions of {what}", "name at least one"
        ):
            try:
                actions.append(Action(scalar.text))
            except ValueError:
                self._problems.add(
                    scalar,
                    f"unknown action {scalar.text!r}",
                    suggest(scalar.text, Action),
                )
        return tuple(actions)

    def _adapters(self, node: Node | None, what: str) -> tuple[str, ...]:
        adapters = self._problems.strings(node, f"adapters of {what}")
        for adapter in adapters:
            if not is_model_name(adapter.text):
                self._problems.add(
                    adapter,
                    f"{adapter.text!r} is not an adapter's name",
                    "write a name as of a model, without the upstream's separator",
                )
        return tuple(adapter.text for adapter in adapters)

    def _dataset_names(self, node: Node | None, what: str) -> tuple[str, ...]:
        names = self._problems.strings(node, f"datasets of {what}")
        for name in names:
            if name.text not in self._datasets:
                self._problems.add(
                    name,
                    f"no upstream has a dataset {name.text!r}",
                    suggest(name.text, self._datasets),
                )
        return tuple(name.text for name in names)


def read_models(problems: Problems, node: Node | None, what: str) -> tuple[str, ...]:
    """Return the models of `what`: names, prefixes, or ``*``."""
    models = problems.strings(node, f"models of {what}")
    for model in models:
        if model.text == ANY_MODEL or is_model_name(model.text.removesuffix("*")):
            continue
        problems.add(
            model,
            f"{model.text!r} is not a model name or prefix",
            "write a name, a prefix and '*', or \"*\"",
        )
    return tuple(model.text for model in models)


def read_versions(problems: Problems, node: Node | None, what: str) -> tuple[str, ...]:
    """Return the versions of models that `what` has."""
    versions = problems.strings(node, f"versions of {what}")
    for version in versions:
        if not is_version(version.text):
            problems.add(
                version,
                f"{version.text!r} is not a model version",
                'write a whole number above 0 in quotes, e.g. "1"',
            )
    return tuple(version.text for version in versions)
