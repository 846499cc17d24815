"""Evaluates a policy: Wasm and data go in once, then each input gives a verdict.

It believes nothing of what comes back. An answer counts only if it has exactly the
form that docs/policy.md describes; all else is an error with a reason code, which the
caller turns into a denial. The module knows neither requests nor policy files.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Final, NoReturn

import wasmtime
from opapywasm import (
    UNDEFINED,
    JSONValue,
    OpaPolicyClosedError,
    OpaPoolTimeoutError,
    OpaWasmError,
    OpaWasmPolicy,
    PolicyConfig,
    Undefined,
)

from authz_server.errors import PolicyError, Reason
from authz_server.policy.building import ENTRYPOINT

MAX_DATA_BYTES: Final = 256 * 1024 * 1024
MAX_MEMORY_PAGES: Final = 2 * 1024 * 1024 * 1024 // 65536
"""2 GiB an instance: four times what a million subjects take."""

_MAX_INPUT_BYTES: Final = 1024 * 1024
_MAX_RESULT_BYTES: Final = 64 * 1024

# The runtime's clock ticks every 10 ms and an evaluation can begin just before a tick,
# so without one tick more it could be cut off that much too early.
_TICK_S: Final = 0.01

_KEYS: Final = frozenset({"allow", "reason", "role", "ttl_seconds"})
_DENIALS: Final = frozenset(
    {Reason.NOT_GRANTED, Reason.EXPLICITLY_DENIED, Reason.PRINCIPAL_UNKNOWN}
)

# Not a caller that could exist: the trust domain is reserved (RFC 2606 §2).
_WARM_UP: Final = json.dumps(
    {
        "principal": {
            "id": "spiffe://authz-server.invalid/warm-up",
            "trust_domain": "authz-server.invalid",
            "path": ["warm-up"],
        },
        "user": None,
        "operation": dict.fromkeys(
            ("action", "scope", "model", "version", "adapter", "upstream", "dataset"),
            "",
        ),
        "http": {"method": "GET", "path": "/", "host": "", "headers": {}},
        "time": {"open": []},
    }
).encode()


@dataclass(frozen=True, slots=True)
class Verdict:
    """The policy's answer to one input.

    Attributes:
        allow: whether the operation is permitted.
        reason: GRANTED, NOT_GRANTED, EXPLICITLY_DENIED or PRINCIPAL_UNKNOWN.
        role: the role that gave it, or by which it is denied, for the audit; empty if
            none did or none is known.
        ttl_s: for how long at most the answer may be reused; None for no bound of the
            policy's own.
    """

    allow: bool
    reason: Reason
    role: str
    ttl_s: float | None


class Engine:
    """One policy, loaded into a fixed number of Wasm instances.

    Any number of threads may evaluate; as many as there are instances do so at the
    same time. An instance that failed is thrown away, and the next evaluation that
    needs it pays for a new one.

    Args:
        wasm: a policy built by OPA for Wasm.
        data: the data document, JSON.
        timeout_s: how long an evaluation may wait for an instance, and again how long
            it may run. Enforced in steps of 10 ms.
        instances: each holds a copy of the data.

    Raises:
        PolicyError: if the policy cannot be loaded, lacks something, or fails on a
            caller that no policy knows.
    """

    def __init__(
        self, wasm: bytes, data: bytes, *, timeout_s: float, instances: int
    ) -> None:
        try:
            self._policy = OpaWasmPolicy.from_wasm_bytes(
                wasm,
                PolicyConfig(
                    pool_size=instances,
                    borrow_timeout_seconds=timeout_s,
                    eval_timeout_seconds=timeout_s + _TICK_S,
                    max_input_bytes=_MAX_INPUT_BYTES,
                    max_data_bytes=MAX_DATA_BYTES,
                    max_result_bytes=_MAX_RESULT_BYTES,
                    max_cstring_scan_bytes=_MAX_RESULT_BYTES,
                    max_memory_pages=MAX_MEMORY_PAGES,
                    parse_raw_json_input=False,  # `_check_input` is stricter.
                ),
            )
        except (OpaWasmError, wasmtime.WasmtimeError, wasmtime.Trap) as error:
            raise PolicyError(f"the policy's Wasm cannot be loaded: {error}") from error
        try:
            self._check_builtins()
            self._entrypoint = self._find_entrypoint()
            self._load(data, instances)
        except PolicyError:
            self.close()
            raise

    def evaluate(self, document: bytes) -> Verdict:
        """Return the policy's verdict on `document`, the input as JSON.

        Not checked: that the document says what was really asked.

        Raises:
            PolicyError: with reason POLICY_UNDEFINED, POLICY_RESULT_INVALID,
                DEADLINE_EXCEEDED (it ran too long), OVERLOADED (no instance came
                free in time) or POLICY_ERROR (all else).
        """
        _check_input(document)
        return _read_verdict(self._evaluate(document))

    def close(self) -> None:
        """Free the instances; evaluations under way end well, later ones are errors."""
        self._policy.close()

    def _evaluate(self, document: bytes) -> JSONValue | Undefined:
        try:
            return self._policy.evaluate(document, self._entrypoint)
        except OpaPoolTimeoutError as error:
            raise PolicyError(str(error), Reason.OVERLOADED) from error
        except OpaPolicyClosedError as error:
            raise PolicyError("the policy was closed") from error
        except (OpaWasmError, wasmtime.WasmtimeError, wasmtime.Trap) as error:
            if _is_interrupt(error):
                raise PolicyError(
                    "the policy ran too long and was cut off", Reason.DEADLINE_EXCEEDED
                ) from error
            raise PolicyError(f"the policy failed: {_first_line(error)}") from error

    def _check_builtins(self) -> None:
        """Refuse a policy that calls what no one answers, before a request finds out.

        This also keeps out built-ins without a fixed answer (clock, network, random
        numbers): the runtime offers none, so a verdict depends on its input alone.
        """
        missing = set(self._policy.builtins) - set(self._policy.registered_builtins)
        if missing:
            raise PolicyError(
                "the policy uses built-in functions that Wasm does not offer here: "
                + ", ".join(sorted(missing))
            )

    def _find_entrypoint(self) -> str:
        names = sorted(self._policy.entrypoints)
        if ENTRYPOINT in names:
            return ENTRYPOINT
        if len(names) == 1:
            return names[0]
        raise PolicyError(
            f"the policy has entrypoints {', '.join(names) or 'none'}: build it with "
            f"{ENTRYPOINT}, or with one only"
        )

    def _load(self, data: bytes, instances: int) -> None:
        try:
            self._policy.set_data(data)
        except OpaWasmError as error:
            raise PolicyError(f"the policy's data cannot be loaded: {error}") from error
        # The pool is a queue that makes an instance when its turn comes first: so many
        # evaluations make them all, and none is made while a request waits.
        for _ in range(instances):
            try:
                self.evaluate(_WARM_UP)
            except PolicyError as error:
                # A policy of one's own may leave undefined what it does not allow.
                if error.reason is not Reason.POLICY_UNDEFINED:
                    raise


def _check_input(document: bytes) -> None:
    """Raise unless `document` is a JSON object to OPA too.

    OPA takes an input that it cannot parse for no input at all and evaluates all the
    same, so a rule with `not` in it could come true. Python's parser differs from it
    in what it lets by: NaN, and encodings other than UTF-8.
    """
    try:
        parsed: object = json.loads(
            document.decode("utf-8"), parse_constant=_refuse_constant
        )
    except (ValueError, RecursionError) as error:
        raise PolicyError("the policy's input is not JSON") from error
    if not isinstance(parsed, dict):
        raise PolicyError("the policy's input is not a JSON object")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _read_verdict(result: JSONValue | Undefined) -> Verdict:
    if result is UNDEFINED:
        raise PolicyError("the policy gave no answer", Reason.POLICY_UNDEFINED)
    if isinstance(result, bool):
        result = {"allow": result}
    if not isinstance(result, dict):
        raise _invalid("it is neither an object nor true or false")
    unknown = result.keys() - _KEYS
    if unknown:
        raise _invalid(f"it has unknown keys: {', '.join(sorted(unknown))}")
    allow = result.get("allow")
    # Not truthiness: a policy that answers "false" must not allow.
    if not isinstance(allow, bool):
        raise _invalid("'allow' is not true or false")
    role = result.get("role", "")
    if not isinstance(role, str):
        raise _invalid("'role' is not a string")
    return Verdict(
        allow=allow,
        reason=_read_reason(result, allow=allow),
        role=role,
        ttl_s=_read_ttl(result),
    )


def _read_reason(result: dict[str, JSONValue], *, allow: bool) -> Reason:
    default = Reason.GRANTED if allow else Reason.NOT_GRANTED
    text = result.get("reason", default)
    allowed = {Reason.GRANTED} if allow else _DENIALS
    for reason in allowed:
        if text == reason:
            return reason
    raise _invalid(
        f"'reason' beside allow {str(allow).lower()} is not one of: "
        + ", ".join(sorted(allowed))
    )


def _read_ttl(result: dict[str, JSONValue]) -> float | None:
    if "ttl_seconds" not in result:
        return None
    ttl = result["ttl_seconds"]
    if isinstance(ttl, bool) or not isinstance(ttl, int | float):
        raise _invalid("'ttl_seconds' is not a number")
    try:
        seconds = float(ttl)
    except OverflowError as error:
        raise _invalid("'ttl_seconds' is too large") from error
    if not math.isfinite(seconds) or seconds < 0:
        raise _invalid("'ttl_seconds' is not a number from 0 on")
    return seconds


def _invalid(why: str) -> PolicyError:
    return PolicyError(
        f"the policy's answer is unusable: {why}", Reason.POLICY_RESULT_INVALID
    )


def _is_interrupt(error: BaseException) -> bool:
    # One step and no walk: after an abort the chain of causes is a ring.
    return any(
        isinstance(link, wasmtime.Trap)
        and link.trap_code is wasmtime.TrapCode.INTERRUPT
        for link in (error, error.__cause__)
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
