"""Evaluates a policy: Wasm and data go in once, then each input gives a verdict.

It believes nothing of what comes back. An answer counts only if it has exactly the
form that docs/policy.md describes; all else is an error with a reason code, which the
caller turns into a denial. The module knows neither requests nor policy files.
"""

from __future__ import annotations

import functools
import json
import math
import queue
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, NoReturn

from authz_server.errors import PolicyError, Reason
from authz_server.policy.building import ENTRYPOINT
from authz_server.policy.builtins.table import HOST_FUNCTIONS
from authz_server.policy.wasm import Instance, Module, WasmError, WasmTimeoutError

MAX_DATA_BYTES: Final = 256 * 1024 * 1024
MAX_MEMORY_PAGES: Final = 2 * 1024 * 1024 * 1024 // 65536
"""2 GiB an instance: four times what a million subjects take."""

_MAX_INPUT_BYTES: Final = 1024 * 1024
_MAX_RESULT_BYTES: Final = 64 * 1024

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


class JsonObject(bytes):
    """A JSON object in ASCII, as an encoder wrote it: OPA reads the same in it."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """The policy's answer to one input.

    Attributes:
        allow: whether the operation is permitted.
        reason: GRANTED, NOT_GRANTED, EXPLICITLY_DENIED or PRINCIPAL_UNKNOWN.
        role: the role that gave it, or by which it is denied, for the audit; empty if
            none did or none is known.
        ttl_s: for how long at most the answer may be reused; None for no bound of the
            policy's own. 0 if the policy looked at the clock.
    """

    allow: bool
    reason: Reason
    role: str
    ttl_s: float | None


@dataclass(frozen=True, slots=True)
class Form:
    """What a kind of policy is asked, and how it answers.

    Attributes:
        entrypoint: the rule that is asked, where the policy offers several.
        warm_up: an input that no policy knows anything of.
        read: raises `PolicyError` for what is no answer.
    """

    entrypoint: str
    warm_up: bytes
    read: Callable[[object], object]


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
        form: of policy; None for one that `evaluate` can ask.

    Raises:
        PolicyError: if the policy cannot be loaded, lacks something, or fails on a
            caller that no policy knows.
    """

    def __init__(
        self,
        wasm: bytes,
        data: bytes,
        *,
        timeout_s: float,
        instances: int,
        form: Form | None = None,
    ) -> None:
        if len(data) > MAX_DATA_BYTES:
            raise PolicyError(f"the policy's data has more than {MAX_DATA_BYTES} bytes")
        self._module = _compile(wasm)
        self._data = data
        self._timeout_s = timeout_s
        self._is_closed = False
        self._form = form or _ACCESS
        self._entrypoint = self._find_entrypoint()
        # None stands for an instance that is to be made.
        self._idle: queue.SimpleQueue[Instance | None] = queue.SimpleQueue()
        try:
            for _ in range(instances):
                self._idle.put(self._make())
            self._try_out()
        except PolicyError:
            self.close()
            raise

    def evaluate(self, document: bytes) -> Verdict:
        """Return the policy's verdict on `document`, the input as JSON.

        Not checked: that the document says what was really asked.

        Raises:
            PolicyError: as `ask`, and with POLICY_RESULT_INVALID.
        """
        results, is_fixed = self._evaluate(document)
        verdict = _verdict_in(results)
        # What the clock had a part in may be otherwise a moment later.
        return verdict if is_fixed else replace(verdict, ttl_s=0.0)

    def ask(self, document: bytes) -> tuple[object, bool]:
        """Return what the policy says of `document`, and whether by that alone.

        It is JSON as Python reads it. A policy that has read the clock may say
        something else of the same document a moment later.

        Raises:
            PolicyError: with reason POLICY_UNDEFINED, DEADLINE_EXCEEDED (it ran too
                long), OVERLOADED (no instance came free in time) or POLICY_ERROR (all
                else).
        """
        results, is_fixed = self._evaluate(document)
        return _read_result(results), is_fixed

    def close(self) -> None:
        """Free the instances; evaluations under way end well, later ones are errors."""
        self._is_closed = True
        self._close_idle()

    def _evaluate(self, document: bytes) -> tuple[bytes, bool]:
        """Return the result set, and whether it depends on the input alone."""
        _check_input(document)
        instance = self._borrow()
        is_good = False
        try:
            if instance is None:
                instance = self._make()
            result = instance.evaluate(
                document,
                self._entrypoint,
                timeout_s=self._timeout_s,
                max_bytes=_MAX_RESULT_BYTES,
            )
            is_fixed = not instance.has_read_clock
            is_good = True
        except WasmTimeoutError as error:
            raise PolicyError(
                "the policy ran too long and was cut off", Reason.DEADLINE_EXCEEDED
            ) from error
        except (WasmError, PolicyError) as error:
            raise PolicyError(f"the policy failed: {error}") from error
        finally:
            # Whatever was raised: its place must not be lost.
            if is_good:
                self._give_back(instance)
            else:
                self._throw_away(instance)
        return result, is_fixed

    def _borrow(self) -> Instance | None:
        if self._is_closed:
            raise PolicyError("the policy was closed")
        try:
            return self._idle.get(timeout=self._timeout_s)
        except queue.Empty as error:
            if self._is_closed:
                raise PolicyError("the policy was closed") from error
            raise PolicyError(
                "no instance of the policy came free in time", Reason.OVERLOADED
            ) from error

    def _give_back(self, instance: Instance | None) -> None:
        self._idle.put(instance)
        if self._is_closed:
            # It was closed while this one was out.
            self._close_idle()

    def _throw_away(self, instance: Instance | None) -> None:
        if instance is not None:
            instance.close()
        self._give_back(None)

    def _close_idle(self) -> None:
        while True:
            try:
                instance = self._idle.get_nowait()
            except queue.Empty:
                return
            if instance is not None:
                instance.close()

    def _make(self) -> Instance:
        try:
            return Instance(self._module, self._data, max_pages=MAX_MEMORY_PAGES)
        except WasmError as error:
            raise PolicyError(f"the policy's data cannot be loaded: {error}") from error

    def _find_entrypoint(self) -> int:
        entrypoints, wanted = self._module.entrypoints, self._form.entrypoint
        if wanted in entrypoints:
            return entrypoints[wanted]
        if len(entrypoints) == 1:
            return next(iter(entrypoints.values()))
        raise PolicyError(
            f"the policy has entrypoints {', '.join(sorted(entrypoints)) or 'none'}: "
            f"build it with {wanted}, or with one only"
        )

    def _try_out(self) -> None:
        """Ask once, so that what can't answer at all does not come into force."""
        try:
            self._form.read(self.ask(self._form.warm_up)[0])
        except PolicyError as error:
            # A policy of one's own may leave undefined what it does not allow.
            if error.reason is not Reason.POLICY_UNDEFINED:
                raise


@functools.lru_cache(maxsize=4)
def _compile(wasm: bytes) -> Module:
    """Return the code in `wasm`, compiled once however often its data change.

    Built-in functions that nobody answers are refused here, before a request finds out.
    That also keeps out those without a fixed answer (network, random numbers): a
    verdict depends on its input alone, unless the policy reads the clock.
    """
    try:
        module = Module(wasm, HOST_FUNCTIONS)
    except WasmError as error:
        raise PolicyError(f"the policy's Wasm cannot be loaded: {error}") from error
    if module.missing:
        raise PolicyError(
            "the policy uses built-in functions that Wasm does not offer here: "
            + ", ".join(module.missing)
        )
    return module


def _read_result(results: bytes) -> object:
    """Return what the entrypoint is.

    Raises:
        PolicyError: with POLICY_UNDEFINED, if it is nothing.
    """
    found = json.loads(results)
    if not found:
        raise PolicyError("the policy gave no answer", Reason.POLICY_UNDEFINED)
    result: object = found[0]["result"]
    return result


def _check_input(document: bytes) -> None:
    """Raise unless `document` is a JSON object to OPA too.

    OPA takes an input that it cannot parse for no input at all and evaluates all the
    same, so a rule with `not` in it could come true. Python's parser differs from it
    in what it lets by: NaN, and encodings other than UTF-8.
    """
    if len(document) > _MAX_INPUT_BYTES:
        raise PolicyError(f"the policy's input has more than {_MAX_INPUT_BYTES} bytes")
    if isinstance(document, JsonObject):
        return
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


@functools.lru_cache(maxsize=512)
def _verdict_in(results: bytes) -> Verdict:
    """Return the verdict that a result set spells; a policy has few different ones."""
    return _read_verdict(_read_result(results))


def _read_verdict(result: object) -> Verdict:
    if isinstance(result, bool):
        result = {"allow": result}
    if not isinstance(result, dict):
        raise unusable("it is neither an object nor true or false")
    unknown = result.keys() - _KEYS
    if unknown:
        raise unusable(f"it has unknown keys: {', '.join(sorted(unknown))}")
    allow = result.get("allow")
    # Not truthiness: a policy that answers "false" must not allow.
    if not isinstance(allow, bool):
        raise unusable("'allow' is not true or false")
    role = result.get("role", "")
    if not isinstance(role, str):
        raise unusable("'role' is not a string")
    return Verdict(
        allow=allow,
        reason=_read_reason(result, allow=allow),
        role=role,
        ttl_s=_read_ttl(result),
    )


def _read_reason(result: dict[str, Any], *, allow: bool) -> Reason:
    default = Reason.GRANTED if allow else Reason.NOT_GRANTED
    text = result.get("reason", default)
    allowed = {Reason.GRANTED} if allow else _DENIALS
    for reason in allowed:
        if text == reason:
            return reason
    raise unusable(
        f"'reason' beside allow {str(allow).lower()} is not one of: "
        + ", ".join(sorted(allowed))
    )


def _read_ttl(result: dict[str, Any]) -> float | None:
    if "ttl_seconds" not in result:
        return None
    ttl = result["ttl_seconds"]
    if isinstance(ttl, bool) or not isinstance(ttl, int | float):
        raise unusable("'ttl_seconds' is not a number")
    try:
        seconds = float(ttl)
    except OverflowError as error:
        raise unusable("'ttl_seconds' is too large") from error
    if not math.isfinite(seconds) or seconds < 0:
        raise unusable("'ttl_seconds' is not a number from 0 on")
    return seconds


def unusable(why: str) -> PolicyError:
    """Return the error for an answer that is none."""
    return PolicyError(
        f"the policy's answer is unusable: {why}", Reason.POLICY_RESULT_INVALID
    )


_ACCESS: Final = Form(ENTRYPOINT, _WARM_UP, _read_verdict)
