import subprocess
import sys

import pytest

from authz_server import __version__
from authz_server.cli import COMMANDS, main


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    for name in COMMANDS:
        assert name in out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(
    capsys: pytest.CaptureFixture[str], command: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert command in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["serve", "--nonsense"]])
def test_wrong_use_is_exit_code_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_every_problem_of_the_configuration_is_printed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["serve", "--limits-workers", "0", "--log-level", "loud"]) == 1
    err = capsys.readouterr().err
    assert "policy.file: missing" in err
    assert "limits.workers: must be more than 0" in err
    assert "log_level: expected one of" in err


def test_the_module_runs_as_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "authz_server", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"authz-server {__version__}\n"
