from pathlib import Path

import pytest
from parts import EXAMPLE, eventually, example_config

from authz_server.assembly import open_policies
from authz_server.watch import Watch, fingerprint


def test_a_watch_looks_until_it_is_stopped() -> None:
    looks: list[int] = []
    watch = Watch(lambda: looks.append(1), "test")
    watch.start(0.001)
    watch.start(0.001)
    assert watch.is_running
    assert eventually(lambda: len(looks) > 2)
    watch.stop()
    count = len(looks)
    assert not watch.is_running
    assert not watch.has_died
    assert len(looks) == count


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_watch_that_died_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Path) -> None:
        raise RuntimeError("boom")

    policies = open_policies(example_config())
    try:
        assert policies.reload()
        assert policies.error is None
        monkeypatch.setattr("authz_server.policy.store.fingerprint", fail)
        policies.start_watching(0.001)
        assert eventually(lambda: policies.error is not None)
        assert "no longer watched" in str(policies.error)
    finally:
        policies.close()


def test_a_fingerprint_changes_with_the_file(tmp_path: Path) -> None:
    file = tmp_path / "a"
    assert fingerprint(file) is None
    file.write_text("x")
    first = fingerprint(file)
    file.write_text("xy")
    assert fingerprint(file) != first
    assert fingerprint(EXAMPLE) is not None
