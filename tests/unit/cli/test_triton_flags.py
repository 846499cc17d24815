from pathlib import Path

import pytest

from authz_server.cli import main

SECRET = "not-to-be-seen"


def configure(folder: Path, triton: str) -> str:
    (folder / "secret").write_text(SECRET + "\n")
    file = folder / "config.yaml"
    file.write_text(
        f"policy: {{file: access.yaml}}\nidentity: {{chain: proxy}}\n{triton}"
    )
    return str(file)


def test_the_flags_match_the_configuration_and_keep_the_secret(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = configure(
        tmp_path,
        f"triton:\n  access_secret: {tmp_path}/secret\n"
        "  access_header: x-key\n  principal_header: x-who\n",
    )
    assert main(["triton-flags", "--config", file]) == 0
    shown = capsys.readouterr().out
    locked = (
        "metadata,inference,shared-memory,model-config,model-repository,"
        "statistics,trace,logging"
    )
    assert shown.splitlines() == [
        f"--http-restricted-api={locked}:x-key=$(TRITON_ACCESS_SECRET)",
        f"--grpc-restricted-protocol={locked}:x-key=$(TRITON_ACCESS_SECRET)",
        "--http-header-forward-pattern=x-who",
        "--grpc-header-forward-pattern=x-who",
    ]
    assert main(["triton-flags", "--reveal", "--config", file]) == 0
    revealed = capsys.readouterr().out
    assert revealed == shown.replace("$(TRITON_ACCESS_SECRET)", SECRET)


def test_a_header_is_matched_as_it_stands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = configure(tmp_path, "triton: {principal_header: x.who}\n")
    assert main(["triton-flags", "--config", file]) == 0
    assert capsys.readouterr().out.splitlines() == [
        r"--http-header-forward-pattern=x\.who",
        r"--grpc-header-forward-pattern=x\.who",
    ]


def test_without_a_lock_there_are_no_flags(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["triton-flags", "--config", configure(tmp_path, "")]) == 1
    assert "for flags to match" in capsys.readouterr().err


def test_a_secret_that_is_gone_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = configure(tmp_path, f"triton: {{access_secret: {tmp_path}/gone}}\n")
    assert main(["triton-flags", "--reveal", "--config", file]) == 1
    assert str(tmp_path / "gone") in capsys.readouterr().err
