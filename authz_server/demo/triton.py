"""The real Triton server, out of the nvidia-pytriton wheel, with the demo's models.

The wheel lives in an environment of its own (``make triton``), because it needs an
older numpy than this package. Only its binary and its Python backend are used.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from authz_server.demo.process import Command, Process, free_ports
from authz_server.errors import SetupError
from authz_server.folders import cache_folder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MODELS: Final = Path(__file__).parent / "models"

READY_S: Final = 60.0

_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - where Triton puts its regions

# Asked of Triton's interpreter, since only it knows.
_LAYOUT_PROGRAM: Final = """
import json, sys, sysconfig
print(json.dumps({
    "site_packages": sysconfig.get_path("platlib"),
    "libpython": sysconfig.get_config_var("LIBDIR"),
    "version": "%d.%d" % sys.version_info[:2],
}))
"""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the parts of the wheel's environment are."""

    python: Path
    site_packages: Path
    libpython: Path
    version: str

    @property
    def tree(self) -> Path:
        """The folder that the wheel keeps Triton's files in."""
        return self.site_packages / "pytriton" / "tritonserver"


def triton_python(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the interpreter of Triton's environment.

    ``AUTHZ_SERVER_TRITON_PYTHON`` names it; else it is where ``make triton`` puts it.

    Raises:
        SetupError: if there is none.
    """
    named = environment.get("AUTHZ_SERVER_TRITON_PYTHON")
    if named:
        python = Path(named)
    else:
        python = cache_folder(environment) / "triton-0.7.0" / "bin" / "python"
    if not python.is_file():
        raise SetupError(
            f"no Triton at {python}: run `make triton`, or name the Python of an "
            "environment that holds nvidia-pytriton in AUTHZ_SERVER_TRITON_PYTHON"
        )
    return python


def read_layout(python: Path) -> Layout:
    """Return the layout of the environment that `python` belongs to.

    Raises:
        SetupError: if it does not hold nvidia-pytriton.
    """
    try:
        answer = subprocess.run(
            [python, "-c", _LAYOUT_PROGRAM],
            capture_output=True,
            check=True,
            timeout=30,
            text=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise SetupError(f"{python} does not run as a Python: {error}") from error
    found = json.loads(answer.stdout)
    layout = Layout(
        python=python,
        site_packages=Path(found["site_packages"]),
        libpython=Path(found["libpython"]),
        version=found["version"],
    )
    if not (layout.tree / "bin" / "tritonserver").is_file():
        raise SetupError(
            f"{python} has no nvidia-pytriton: run `make triton`, or point "
            "AUTHZ_SERVER_TRITON_PYTHON at an environment that has"
        )
    return layout


class Triton(Process):
    """A context manager: Triton runs, with every model loaded once `wait` returned.

    Attributes:
        http_port: KServe v2 over HTTP, on 127.0.0.1.
        grpc_port: KServe v2 over gRPC, on 127.0.0.1.
    """

    def __init__(
        self, folder: Path, models: Path = MODELS, arguments: Sequence[str] = ()
    ) -> None:
        """Prepare to run in `folder`, which is the caller's to remove.

        Args:
            arguments: further ones of Triton's command line.
        """
        self.http_port, self.grpc_port, metrics_port = free_ports(3)
        self._prefix = f"authz-server-demo-{os.getpid()}-{self.http_port}-"
        layout = read_layout(triton_python())
        backends = _place_backend(layout, folder)
        # A copy, because the backend writes compiled files beside the models.
        repository = folder / "models"
        shutil.copytree(
            models, repository, ignore=shutil.ignore_patterns("__pycache__")
        )
        libraries = [layout.site_packages / "nvidia_pytriton.libs", layout.libpython]
        super().__init__(
            Command(
                name="Triton",
                argv=[
                    str(layout.tree / "bin" / "tritonserver"),
                    f"--model-repository={repository}",
                    "--model-control-mode=explicit",
                    "--load-model=*",
                    f"--backend-directory={backends}",
                    f"--backend-config=python,shm-region-prefix-name={self._prefix}",
                    # Loopback only: the way in is through Envoy.
                    "--http-address=127.0.0.1",
                    f"--http-port={self.http_port}",
                    "--grpc-address=127.0.0.1",
                    f"--grpc-port={self.grpc_port}",
                    "--metrics-address=127.0.0.1",
                    f"--metrics-port={metrics_port}",
                    "--allow-gpu-metrics=false",
                    "--exit-timeout-secs=3",
                    *arguments,
                ],
                log=folder / "triton.log",
                env={
                    **os.environ,
                    "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
                    # The backend's stub takes the first python in PATH for its own.
                    "PATH": f"{layout.python.parent}:{os.environ.get('PATH', '')}",
                },
                cwd=folder,
                stop_with=signal.SIGINT,
                grace_s=8.0,
            )
        )

    def stop(self) -> None:
        """End Triton and remove what it leaves in shared memory when it is killed."""
        try:
            super().stop()
        finally:
            for region in _SHARED_MEMORY.glob(f"{self._prefix}*"):
                region.unlink(missing_ok=True)

    def wait(self) -> None:
        """Return once all models are ready.

        Raises:
            SetupError: if Triton ends or takes too long.
        """
        self.wait_until(self._is_ready, READY_S)

    def _is_ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=1)
        with contextlib.closing(connection):
            try:
                connection.request("GET", "/v2/health/ready")
                return connection.getresponse().status == http.HTTPStatus.OK
            except (OSError, http.client.HTTPException):
                return False


def _place_backend(layout: Layout, folder: Path) -> Path:
    """Put the Python backend with the stub for this Python together, by links."""
    backends = folder / "backends"
    backend = backends / "python"
    backend.mkdir(parents=True)
    for part in (layout.tree / "backends" / "python").iterdir():
        (backend / part.name).symlink_to(part)
    stub = "triton_python_backend_stub"
    shutil.copy2(
        layout.tree / "python_backend_stubs" / layout.version / stub, backend / stub
    )
    return backends
