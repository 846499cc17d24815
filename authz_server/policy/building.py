"""Builds Rego into a bundle with the pinned OPA, and reads the Wasm out of one.

OPA is needed to build and to test Rego only; the server runs the Wasm that is in the
package. Its version is pinned because the bytes of the Wasm are checked in.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

from authz_server.errors import PolicyError, SetupError
from authz_server.folders import cache_folder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

OPA_VERSION: Final = "1.22.2"
ENTRYPOINT: Final = "authz/decision"

REGO_DIR: Final = Path(__file__).parent / "rego"
LIBRARY: Final = REGO_DIR / "access.rego"
"""What a policy of one's own imports."""
SHIPPED_POLICY: Final = REGO_DIR / "authz.rego"
"""What a policy of one's own replaces."""
SHIPPED_BUNDLE: Final = REGO_DIR / "bundle.tar.gz"

MAX_WASM_BYTES: Final = 64 * 1024 * 1024

_WASM_MEMBER: Final = "/policy.wasm"
_PLAN_MEMBER: Final = "/plan.json"
_TIMEOUT_S: Final = 120.0
_HOW_TO_GET_OPA: Final = (
    f"get it with 'go install github.com/open-policy-agent/opa@v{OPA_VERSION}' or "
    "'make opa', or let AUTHZ_SERVER_OPA name the program"
)


def find_opa(environment: Mapping[str, str] | None = None) -> Path:
    """Return the path of an OPA program that has the pinned version.

    Looked for in ``AUTHZ_SERVER_OPA``, then in the cache folder that ``make opa``
    fills, then on ``PATH``. A place that was named must hold: no second guess.

    Args:
        environment: read instead of the process's own.

    Raises:
        SetupError: if there is none, or the first found has another version.
    """
    environment = os.environ if environment is None else environment
    named = environment.get("AUTHZ_SERVER_OPA")
    if named:
        return _checked(Path(named))
    cached = cache_folder(environment) / f"opa-{OPA_VERSION}" / "opa"
    if cached.is_file():
        return _checked(cached)
    on_path = shutil.which("opa", path=environment.get("PATH", ""))
    if on_path is None:
        raise SetupError(f"OPA {OPA_VERSION} was not found: {_HOW_TO_GET_OPA}")
    return _checked(Path(on_path))


def _checked(opa: Path) -> Path:
    output = _run([str(opa), "version"], cwd=None)
    if output.returncode != 0 or f"Version: {OPA_VERSION}" not in (
        output.stdout.splitlines()
    ):
        raise SetupError(f"{opa} is not OPA {OPA_VERSION}: {_HOW_TO_GET_OPA}")
    return opa


def build_bundle(
    sources: Sequence[Path], entrypoint: str, out: Path, opa: Path
) -> None:
    """Write to `out` a bundle with the Wasm of `sources` for `entrypoint`.

    Equal sources give equal bytes, wherever they lie: OPA writes file names into the
    Wasm, so it gets to see a copy under names that do not depend on this machine. Files
    named ``*_test.rego`` are left out. An existing `out` is replaced at once, or not.

    Args:
        sources: Rego files, or folders of which all Rego and data files are taken.

    Raises:
        PolicyError: if OPA refuses the sources; the message is OPA's.
        SetupError: if OPA cannot be run, or `out` cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="authz-server-build-") as folder:
        replace_file(_built(sources, entrypoint, "wasm", Path(folder), opa), out)


def build_plan(sources: Sequence[Path], entrypoint: str, opa: Path) -> bytes:
    """Return the plan of `sources` for `entrypoint`, of which OPA makes the Wasm.

    Args:
        sources: as for `build_bundle`.

    Raises:
        PolicyError: if OPA refuses the sources; the message is OPA's.
        SetupError: if OPA cannot be run.
    """
    with tempfile.TemporaryDirectory(prefix="authz-server-plan-") as folder:
        bundle = _built(sources, entrypoint, "plan", Path(folder), opa)
        return _member(bundle, _PLAN_MEMBER)


def _built(
    sources: Sequence[Path], entrypoint: str, target: str, folder: Path, opa: Path
) -> Path:
    """Return where in `folder` a bundle of `sources` for `target` now lies."""
    stage = folder / "stage"
    stage_sources(sources, stage)
    built = folder / "bundle.tar.gz"
    output = _run(
        [
            *(str(opa), "build", "--target", target, "--entrypoint", entrypoint),
            *("--ignore", "*_test.rego", "--output", str(built), "."),
        ],
        cwd=stage,
    )
    if output.returncode != 0:
        raise PolicyError(f"OPA cannot build the policy:\n{_said(output)}")
    return built


def replace_file(new: Path, out: Path) -> None:
    """Give `out` the content of `new`, all of it or nothing.

    Raises:
        SetupError: if `out` cannot be written.
    """
    partial = out.with_name(out.name + ".partial")
    try:
        shutil.copyfile(new, partial)
        partial.replace(out)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise SetupError(f"cannot write {out}: {error.strerror}") from error


def check_rego(
    sources: Sequence[Path], opa: Path, threshold: float
) -> tuple[bool, str]:
    """Run the tests among `sources`; return whether all passed, and OPA's report.

    Args:
        threshold: percentage of lines that the tests must reach, 0 to ask for none.

    Raises:
        SetupError: if OPA cannot be run.
    """
    with tempfile.TemporaryDirectory(prefix="authz-server-test-") as folder:
        stage = Path(folder, "stage")
        stage_sources(sources, stage)
        tests = _run([str(opa), "test", "--verbose", "."], cwd=stage)
        # OPA counts no test as a pass.
        if tests.returncode != 0 or "PASS: " not in tests.stdout:
            return False, _said(tests) or "no tests were found"
        if not threshold:
            return True, _said(tests)
        coverage = _run(
            [str(opa), "test", "--coverage", "--threshold", str(threshold), "."],
            cwd=stage,
        )
        if coverage.returncode != 0:
            return False, f"{_said(tests)}\n{_said(coverage)}"
        return True, f"{_said(tests)}\ncoverage is at least {threshold:g} %"


def stage_sources(sources: Sequence[Path], stage: Path) -> None:
    """Copy `sources` below `stage`, under names that say nothing of where they were.

    Raises:
        SetupError: if a source cannot be read.
    """
    stage.mkdir()
    for number, source in enumerate(sources):
        try:
            if source.is_dir():
                shutil.copytree(source, stage / str(number))
            else:
                shutil.copyfile(source, stage / source.name)
        except (OSError, shutil.Error) as error:
            raise SetupError(f"cannot read {source}: {error}") from error


def read_wasm(path: Path) -> bytes:
    """Return the Wasm in the file at `path`, a bundle or the bare module.

    Neither format is checked further: `authz_server.policy.engine` does that.

    Raises:
        PolicyError: if the file cannot be read, or is a bundle without Wasm.
    """
    try:
        with path.open("rb") as file:
            head = file.read(4)
        wasm = path.read_bytes() if head == b"\0asm" else _member(path, _WASM_MEMBER)
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise PolicyError(
            f"cannot read a policy bundle from {path}: {error}"
        ) from error
    if len(wasm) > MAX_WASM_BYTES:
        raise PolicyError(f"the Wasm in {path} is larger than {MAX_WASM_BYTES} bytes")
    return wasm


def shipped_wasm() -> bytes:
    """Return the Wasm of the shipped policy.

    Raises:
        PolicyError: if the installation is damaged.
    """
    return read_wasm(SHIPPED_BUNDLE)


def _member(bundle: Path, name: str) -> bytes:
    """Return what bundle `bundle` has under `name`, or a little more than allowed."""
    with tarfile.open(bundle, mode="r:gz") as members:
        for member in members:
            if "/" + member.name.lstrip("/") != name:
                continue
            content = members.extractfile(member)
            if content is not None:
                with content:
                    return content.read(MAX_WASM_BYTES + 1)
    raise PolicyError(
        f"bundle {bundle} has no {name}: build it with target "
        f"{'wasm' if name == _WASM_MEMBER else 'plan'}"
    )


def _run(
    command: Sequence[str], *, cwd: Path | None
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(  # noqa: S603 -- OPA by path, arguments without a shell
            command,
            cwd=cwd,
            capture_output=True,
            check=False,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
        )
    except OSError as error:
        raise SetupError(
            f"cannot run {command[0]}: {error.strerror}; {_HOW_TO_GET_OPA}"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise SetupError(f"{command[0]} did not end in {_TIMEOUT_S:g} s") from error


def _said(output: subprocess.CompletedProcess[str]) -> str:
    return "\n".join(
        part for part in (output.stdout.strip(), output.stderr.strip()) if part
    )
