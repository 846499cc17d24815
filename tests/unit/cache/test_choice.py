import os
import subprocess
import sys

import pytest


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {k: v for k, v in os.environ.items() if k != "AUTHZ_SERVER_PURE"}
    return subprocess.run(
        [sys.executable, "-c", code],
        env=inherited | environment,
        capture_output=True,
        text=True,
        check=False,
    )


WHICH = "from authz_server.cache import DecisionCache as c; print(c.__module__)"
NATIVE = "authz_server._native._core"
TWIN = "authz_server.cache.decision_cache"


@pytest.mark.parametrize(
    ("value", "module"), [(None, NATIVE), ("", NATIVE), ("0", NATIVE), ("1", TWIN)]
)
def test_the_native_core_runs_unless_the_twins_are_asked_for(
    value: str | None, module: str
) -> None:
    environment = {} if value is None else {"AUTHZ_SERVER_PURE": value}
    assert run(WHICH, **environment).stdout.strip() == module


def test_another_value_is_no_choice() -> None:
    done = run(WHICH, AUTHZ_SERVER_PURE="yes")
    assert done.returncode != 0
    assert "AUTHZ_SERVER_PURE must be 0 or 1, not 'yes'" in done.stderr


HIDDEN = "import sys; sys.modules['authz_server._native._core'] = None; "


def test_a_missing_core_is_an_error_that_says_how_to_mend_it() -> None:
    done = run(HIDDEN + WHICH)
    assert done.returncode != 0
    assert "ImportError: the native core of authz-server is missing" in done.stderr
    assert "make venv" in done.stderr
    assert "AUTHZ_SERVER_PURE=1" in done.stderr


def test_the_twins_need_no_core() -> None:
    assert run(HIDDEN + WHICH, AUTHZ_SERVER_PURE="1").stdout.strip() == TWIN
