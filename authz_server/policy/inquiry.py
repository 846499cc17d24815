"""A question to a policy as people write it: on a command line, or in a table of tests.

It becomes the very input that a request would become, so what is answered is what the
server would answer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from authz_server.errors import AuthzError, PolicyError
from authz_server.facts import Body, BodyState, Facts
from authz_server.identity.identify import Identity
from authz_server.identity.spiffe_id import SpiffeId
from authz_server.identity.user_token import User
from authz_server.operations.actions import DATASET_ACTIONS, Action
from authz_server.operations.operation import Call, Operation, Scope
from authz_server.policy.engine import Engine, Verdict
from authz_server.policy.model import AccessPolicy, Upstream
from authz_server.policy.nodes import suggest
from authz_server.policy.question import build_question
from authz_server.policy.roles import EVERY_MODEL_ACTIONS
from authz_server.policy.time_limit import Schedule

_LISTED: Final = frozenset({Action.MODEL_LIST, Action.METRICS, *EVERY_MODEL_ACTIONS})
"""Actions that, where no model is named, concern every model and not the server."""


class InquiryError(PolicyError):
    """The question cannot be asked of this policy."""


@dataclass(frozen=True, slots=True)
class Inquiry:
    """Who wants to do what, and when.

    Attributes:
        at_s: seconds since the epoch.
        headers: lower-case names to values, for own Rego that reads them.
    """

    spiffe_id: SpiffeId
    user: User | None
    operation: Operation
    at_s: float
    headers: Mapping[str, str] = field(default_factory=dict)

    def ask(self, policy: AccessPolicy, engine: Engine) -> Verdict:
        """Return the verdict of `engine`, which has `policy` loaded.

        Raises:
            PolicyError: as `Engine.evaluate`.
        """
        return engine.evaluate(self.question(open_at(policy, self.at_s)))

    def question(self, open_times: tuple[str, ...]) -> bytes:
        """Return the policy's input."""
        return build_question(
            Identity(self.spiffe_id, self.user),
            self.operation,
            Facts(
                principal=b"",
                certificate=b"",
                destination=b"",
                upstream=b"",
                method=b"GET",
                path=b"/",
                host=b"",
                is_grpc=False,
                headers=tuple(
                    (name, (value.encode(),))
                    for name, value in sorted(self.headers.items())
                ),
                body=Body(BodyState.UNREAD),
            ),
            open_times,
        )


def open_at(policy: AccessPolicy, at_s: float) -> tuple[str, ...]:
    """Return the names of the time limits of `policy` that hold at `at_s`."""
    return Schedule(policy.time_limits).at(at_s).open


def make_user(issuer: str, claims: Mapping[str, Any]) -> User:
    """Return a user as a verified token would make one."""
    return User(
        issuer=issuer,
        subject=str(claims.get("sub", "")),
        claims=dict(claims),
        valid_from_s=-math.inf,
        valid_until_s=math.inf,
        token_id="",
    )


def make_operation(
    policy: AccessPolicy,
    *,
    on: str,
    action: str,
    model: str = "",
    version: str = "",
    adapter: str = "",
    dataset: str = "",
) -> Operation:
    """Return the operation that these words mean on an upstream of `policy`.

    Without a model it is one on every model, or on the server itself.

    Raises:
        InquiryError: if there is no such operation.
    """
    upstream = policy.upstreams.get(on)
    if upstream is None:
        raise InquiryError(
            f"upstream {on!r} is not defined; {suggest(on, policy.upstreams)}"
        )
    try:
        known = Action(action)
    except ValueError as error:
        raise InquiryError(
            f"unknown action {action!r}; {suggest(action, Action)}"
        ) from error
    scope = _scope(known, upstream, model, dataset)
    try:
        call = Call(known, scope, model, version, adapter)
    except AuthzError as error:
        raise InquiryError(str(error)) from error
    return Operation(call, on, dataset)


def _scope(action: Action, upstream: Upstream, model: str, dataset: str) -> Scope:
    if action in DATASET_ACTIONS:
        if model or dataset not in upstream.datasets:
            raise InquiryError(
                f"{action} is on a dataset of {upstream.name}; "
                + suggest(dataset, upstream.datasets)
            )
        return Scope.DATASET
    if dataset:
        raise InquiryError(f"{action} is on models, not on a dataset")
    if model:
        return Scope.MODEL
    return Scope.EVERY_MODEL if action in _LISTED else Scope.SERVER
