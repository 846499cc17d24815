"""The policy in force: how it is replaced, and that it never half is."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from authz_server.errors import PolicyError
from authz_server.policy import in_force
from authz_server.policy.in_force import LoadedPolicy
from authz_server.policy.store import PolicyStore

EXAMPLE = Path(__file__).parents[3] / "examples" / "plant-7.yaml"

TEXT = """\
apiVersion: authz.edge/v1
kind: AccessPolicy
metadata: {name: line}
spec:
  trustDomain: a.example
  upstreams: {triton: {kind: triton, hosts: [t.example]}}
  groups: {cams: {spiffe: ["spiffe://a.example/cam"]}}
  roles: {use: [{actions: [inference], models: [m]}]}
  grants: [{role: use, to: [cams], on: [triton]}]
"""
OTHER = TEXT.replace("models: [m]", "models: [k]")


def question(model: str) -> bytes:
    return json.dumps(
        {
            "principal": {
                "id": "spiffe://a.example/cam",
                "trust_domain": "a.example",
                "path": ["cam"],
            },
            "user": None,
            "operation": {
                "action": "inference",
                "scope": "model",
                "model": model,
                "version": "",
                "adapter": "",
                "upstream": "triton",
                "dataset": "",
            },
        }
    ).encode()


def allows(loaded: LoadedPolicy | None, model: str) -> bool:
    assert loaded is not None
    return loaded.engine.evaluate(question(model)).allow


@contextmanager
def open_store(
    file: Path, on_change: Callable[[LoadedPolicy], None] | None = None
) -> Iterator[PolicyStore]:
    store = PolicyStore(file, timeout_s=5.0, instances=1, on_change=on_change)
    try:
        yield store
    finally:
        store.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text(TEXT)
    return path


def wait_for(event: threading.Event) -> None:
    assert event.wait(20), "nothing happened"


def wait_until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        os.sched_yield()


def test_nothing_is_in_force_before_the_first_load(file: Path) -> None:
    with open_store(file) as store:
        assert store.current is None
        assert store.error is None


def test_a_loaded_policy_decides(file: Path) -> None:
    with open_store(file) as store:
        assert store.reload()
        assert allows(store.current, "m")
        assert not allows(store.current, "k")
        assert store.current is not None
        assert store.current.policy.name == "line"
        assert store.current.upstreams.by_host == {"t.example": "triton"}


def test_a_changed_file_replaces_the_policy_and_is_told(file: Path) -> None:
    told: list[LoadedPolicy] = []
    with open_store(file, told.append) as store:
        store.reload()
        file.write_text(OTHER)
        assert store.reload()
        assert allows(store.current, "k")
        assert not allows(store.current, "m")
        assert [loaded is store.current for loaded in told] == [False, True]
        assert told[0].revision != told[1].revision


def test_the_new_policy_is_in_force_when_it_is_told(file: Path) -> None:
    seen: list[bool] = []
    with open_store(file, lambda loaded: seen.append(loaded is store.current)) as store:
        store.reload()
    assert seen == [True]


def test_an_unchanged_policy_is_not_replaced(file: Path) -> None:
    told: list[LoadedPolicy] = []
    with open_store(file, told.append) as store:
        store.reload()
        file.write_text("# a comment more\n" + TEXT)
        assert store.reload()
        assert len(told) == 1


def test_a_policy_that_differs_outside_decisions_is_replaced_too(file: Path) -> None:
    with open_store(file) as store:
        store.reload()
        before = store.current
        workload = "workloads: [{namespace: n}]}}"
        file.write_text(TEXT.replace('/cam"]}}', f'/cam"], {workload}'))
        assert store.reload()
        assert before is not None
        assert store.current is not None
        assert store.current.policy != before.policy
        assert store.current.revision == before.revision


def test_a_bad_file_leaves_the_old_policy_and_says_why(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with open_store(file) as store:
        store.reload()
        before = store.current
        file.write_text(TEXT.replace("role: use,", "role: usee,"))
        with caplog.at_level(logging.ERROR, "authz_server.policy"):
            assert not store.reload()
        assert store.current is before
        assert allows(store.current, "m")
        assert store.error is not None
        assert "did you mean 'use'?" in store.error
        assert "the old one stays" in caplog.text
        file.write_text(TEXT)
        assert store.reload()
        assert store.error is None


def test_a_missing_file_at_the_start_denies_all(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with open_store(tmp_path / "none.yaml") as store:
        assert not store.reload()
        assert store.current is None
        assert "all requests are denied" in caplog.text


def test_wasm_that_cannot_be_loaded_is_an_error_of_the_load(file: Path) -> None:
    store = PolicyStore(file, b"\0asm", timeout_s=1.0, instances=1)
    assert not store.reload()
    assert store.error is not None
    assert "Wasm cannot be loaded" in store.error
    store.close()


def test_the_revision_names_the_rego_too(file: Path) -> None:
    with open_store(file) as store:
        store.reload()
        assert store.current is not None
        from authz_server.policy.compiler import compile_policy

        alone = compile_policy(store.current.policy).revision
        assert store.current.revision != alone


def test_watching_reloads_a_changed_file(file: Path) -> None:
    changed = threading.Event()
    with open_store(file) as store:
        store.reload()
        store._in_force._on_change = lambda _: changed.set()
        store.start_watching(0.01)
        store.start_watching(0.01)
        file.write_text(OTHER)
        wait_for(changed)
        assert allows(store.current, "k")


def test_watching_follows_a_link_that_turns_to_another_folder(tmp_path: Path) -> None:
    # As Kubernetes does with a mounted ConfigMap.
    for name, text in (("one", TEXT), ("two", OTHER)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "policy.yaml").write_text(text)
    (tmp_path / "..data").symlink_to("one")
    file = tmp_path / "policy.yaml"
    file.symlink_to("..data/policy.yaml")
    changed = threading.Event()
    with open_store(file) as store:
        store.reload()
        store._in_force._on_change = lambda _: changed.set()
        store.start_watching(0.01)
        (tmp_path / "..new").symlink_to("two")
        (tmp_path / "..new").replace(tmp_path / "..data")
        wait_for(changed)
        assert allows(store.current, "k")


def test_a_file_that_vanishes_is_an_error_and_the_old_policy_stays(file: Path) -> None:
    with open_store(file) as store:
        store.reload()
        store.start_watching(0.01)
        file.unlink()
        wait_until(lambda: store.error)
        assert store.error is not None
        assert "cannot read" in store.error
        assert allows(store.current, "m")


def test_stopping_ends_the_watching_and_leaves_the_policy(file: Path) -> None:
    with open_store(file) as store:
        store.reload()
        store.start_watching(0.01)
        store.stop()
        file.write_text(OTHER)
        assert not store._watch.is_running
        assert allows(store.current, "m")
        store.start_watching(0.01)
        wait_until(lambda: allows(store.current, "k"))


def test_a_replaced_engine_works_until_the_grace_is_over(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(file) as store:
        store.reload()
        old = store.current
        file.write_text(OTHER)
        store.reload()
        assert allows(old, "m")
        store.stop()
        with pytest.raises(PolicyError, match="was closed"):
            allows(old, "m")
        monkeypatch.setattr(in_force, "_GRACE_S", -10.0)
        file.write_text(TEXT)
        store.reload()
        wait_until(lambda: not store._in_force._retired)


def test_answers_during_reloads_are_of_one_policy_or_the_other(file: Path) -> None:
    done = threading.Event()
    wrong: list[str] = []

    def ask() -> None:
        while not done.is_set():
            loaded = store.current
            assert loaded is not None
            models = loaded.policy.roles["use"].permissions[0].models
            wrong.extend(
                model
                for model in ("m", "k", "x")
                if allows(loaded, model) is not (model in models)
            )

    with open_store(file) as store:
        store.reload()
        askers = [threading.Thread(target=ask) for _ in range(2)]
        for asker in askers:
            asker.start()
        for number in range(6):
            file.write_text(OTHER if number % 2 == 0 else TEXT)
            assert store.reload()
        done.set()
        for asker in askers:
            asker.join()
    assert wrong == []


def test_a_policy_is_rehearsed_before_it_is_in_force_and_remembered_after(
    tmp_path: Path,
) -> None:
    file = tmp_path / "access.yaml"
    file.write_text(EXAMPLE.read_text())
    seen: list[tuple[str, str]] = []

    def in_force() -> str:
        return store.current.revision if store.current else ""

    def rehearse(loaded: LoadedPolicy) -> Callable[[], None]:
        seen.append(("rehearsed", in_force()))
        return lambda: seen.append((loaded.revision, in_force()))

    store = PolicyStore(file, timeout_s=10.0, instances=1)
    store.rehearse_with(rehearse)
    try:
        assert store.reload()
        assert seen == []
        first = in_force()
        file.write_text(EXAMPLE.read_text().replace("plant-7", "plant-8"))
        assert store.reload()
        assert seen == [("rehearsed", first), (in_force(), in_force())]
    finally:
        store.close()


def test_a_file_that_still_changes_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "access.yaml"
    file.write_text(TEXT)
    store = PolicyStore(file, timeout_s=10.0, instances=1)
    try:
        assert store.reload()
        assert store.current is not None
        first = store.current.revision
        file.write_text(OTHER + "# still being written")
        store._look()
        assert store.current.revision == first
        file.write_text(OTHER)
        store._look()
        assert store.current.revision == first
        store._look()
        assert store.current.revision != first
    finally:
        store.close()
