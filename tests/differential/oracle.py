"""Tells from Triton's answers, statistics and models what it did.

An answer names what it describes or ran, but for three kinds:

- Running is read from the counters of each model and version too, so a model that ran
  with no word in the answer is seen.
- Loading and unloading show in the list of what is loaded: the models for that are all
  away before a load, and all there before an unload.
- Trace settings name no model, so each model has another ``log_frequency``.

Which version a description is about, and which model is ready, Triton does not say. The
same bytes are then sent as a question for statistics, which lists name and version.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import Final

import tritonclient.grpc
from differential.acts import EVERY, INFERENCES, LOADS, UNKNOWN, Act
from differential.answers import Twin, act
from differential.grpc_answers import grpc_acts
from differential.http_answers import http_acts
from differential.messages import OVERRIDE_MARK
from differential.repository import DOORS, MEMBERS, NAMES, RUNNING
from differential.wires import Answer

from authz_server.operations.actions import Action

SETTLE_S: Final = 2.0
"""How long counters may lag behind an answer."""

QUIET_S: Final = 0.2
"""After so long without a request nothing is still to be counted."""

Key = tuple[str, str]
"""Model and version."""


class Oracle:
    """Watches a Triton that nobody else talks to."""

    def __init__(self, grpc_port: int) -> None:
        self._client = tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{grpc_port}")
        self._marks: dict[str, str] = {}
        self._are_marks_good = False
        self._counts = self._read()

    def close(self) -> None:
        """End the connection."""
        self._client.close()

    def prepare(self, path: bytes) -> None:
        """Bring Triton to where a request for `path` shows what it does."""
        lower = path.lower()
        want_doors = b"unload" in lower or b"load" not in lower
        loaded = {name for name, _ in self._read()}
        for name in DOORS:
            if want_doors and name not in loaded:
                self._client.load_model(name)
                self._are_marks_good = False
            elif not want_doors and name in loaded:
                self._client.unload_model(name)
        for name in RUNNING.keys() - loaded:
            self._client.load_model(name)
            self._are_marks_good = False
        if b"trace" in lower and not self._are_marks_good:
            self._mark()
        self._counts = self._read()

    def settle(self) -> None:
        """Return when nothing that was begun before is still to be counted."""
        time.sleep(QUIET_S)

    def acts(
        self, *, is_grpc: bool, path: bytes, answer: Answer, twin: Twin
    ) -> list[Act]:
        """Return what Triton did since `prepare`.

        Args:
            path: as Triton got it.
        """
        if is_grpc:
            method = path.rpartition(b"/")[2].decode("latin-1")
            said = list(grpc_acts(method, answer, self._marks, twin))
        else:
            said = list(http_acts(path, answer, self._marks, twin))
        if b"trace" in path.lower():
            self._are_marks_good = False
        before, after = self._counts, self._wait_for(said)
        self._counts = after
        seen = [*_unsaid(said, before, after), *self._moved(before, after)]
        if any(one.what in {"loaded", "unloaded"} for one in seen):
            said = [one for one in said if one.model != UNKNOWN]
        return said + seen

    def _mark(self) -> None:
        for number, name in enumerate(NAMES, 100):
            self._client.update_trace_settings(name, {"log_frequency": str(number)})
            self._marks[str(number)] = name
        self._client.update_trace_settings(None, {"log_frequency": "99"})
        self._marks["99"] = EVERY
        self._are_marks_good = True

    def _wait_for(self, said: list[Act]) -> Counter[Key]:
        """Return the counters once they have what was said to have run."""
        told = _told(said)
        end = time.monotonic() + SETTLE_S
        while True:
            after = self._read()
            if told <= _ran(self._counts, after):
                return after
            if time.monotonic() > end:
                raise AssertionError(f"Triton said that it ran {told}, and counts less")

    def _moved(self, before: Counter[Key], after: Counter[Key]) -> Iterator[Act]:
        """Yield which models came and went."""
        was, now = {name for name, _ in before}, {name for name, _ in after}
        for name in sorted(now - was):
            config = self._client.get_model_config(name).config
            if OVERRIDE_MARK in config.parameters:
                yield act("loaded", Action.MODEL_LOAD_OVERRIDE, name)
            else:
                yield Act("loaded", LOADS, name)
        gone = was - now
        for name in sorted(gone):
            # An ensemble cannot stay when a member goes.
            if not any(member in gone for member, _ in MEMBERS.get(name, ())):
                yield act("unloaded", Action.MODEL_REPOSITORY, name)

    def _read(self) -> Counter[Key]:
        answer = self._client.get_inference_statistics()
        return Counter(
            {
                (one.name, one.version): one.inference_stats.success.count
                + one.inference_stats.fail.count
                for one in answer.model_stats
            }
        )


def _ran(before: Counter[Key], after: Counter[Key]) -> Counter[Key]:
    # One that was loaded anew counts from 0 again.
    return Counter(
        {
            key: count - before[key] if count >= before[key] else count
            for key, count in after.items()
        }
    )


def _told(said: list[Act]) -> Counter[Key]:
    told: Counter[Key] = Counter()
    for one in said:
        if one.what == "ran":
            told[one.model, one.version] += 1
            told.update(MEMBERS.get(one.model, ()))
    return told


def _unsaid(
    said: list[Act], before: Counter[Key], after: Counter[Key]
) -> Iterator[Act]:
    """Yield what ran and is in no answer."""
    untold = _ran(before, after) - _told(said)
    for name in MEMBERS:
        for _ in range(untold[name, "1"]):
            untold -= Counter(MEMBERS[name])
    for name, version in untold:
        yield Act("ran unsaid", INFERENCES, name, version)
