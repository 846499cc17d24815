"""What a loaded policy says of all that a request does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from authz_server.facts import Facts
from authz_server.identity.identify import Identity
from authz_server.operations.operation import Operation
from authz_server.policy.engine import Verdict
from authz_server.policy.envoy_decision import read_decision
from authz_server.policy.in_force import LoadedPolicy, OpaEnvoyPolicy
from authz_server.policy.question import build_question
from authz_server.response import Passage, Refusal


def judge_document(
    policy: OpaEnvoyPolicy, document: bytes
) -> tuple[Passage | Refusal, float | None]:
    """Return the ruling of a policy of opa-envoy-plugin's form, and for how long.

    The time is in seconds, None for no bound. What the policy saw is all of `document`,
    so the same document gets the same ruling; unless it has looked at the clock. Where
    it may see what no two requests have in common, remembering would be of no use.

    Raises:
        PolicyError: as `Engine.ask`, and for what is no decision.
    """
    result, is_fixed = policy.engine.ask(document)
    is_lasting = is_fixed and not policy.reads.is_volatile
    return read_decision(result), None if is_lasting else 0.0


def judge(
    policy: LoadedPolicy,
    identity: Identity,
    operation: Operation,
    facts: Facts,
    open_times: Sequence[str],
) -> Verdict:
    """Return the policy's verdict on all that a request does; no, if one part is.

    Args:
        open_times: names of the policy's time limits that hold.

    Raises:
        PolicyError: as `Engine.evaluate`.
        RequestError: if the question cannot be asked.
    """
    question = build_question(identity, operation, facts, open_times)
    verdict = policy.engine.evaluate(question)
    if verdict.allow is not True or operation.also is None:
        return verdict
    other = judge(policy, identity, operation.also, facts, open_times)
    if other.allow is not True:
        return other
    ttls = [item.ttl_s for item in (verdict, other) if item.ttl_s is not None]
    return replace(verdict, ttl_s=min(ttls, default=None))
