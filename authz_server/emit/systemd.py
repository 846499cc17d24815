"""Units that run Envoy and the server on a box, hardened, and the users they have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from authz_server.emit import notes, yaml_text
from authz_server.emit.box import (
    CONFIG_FILE,
    ENVOY_FILE,
    POLICY_FOLDER,
    RUN_FOLDER,
    TLS_FOLDER,
    Serving,
)
from authz_server.emit.manifest import Manifest
from authz_server.emit.spire_entries import ENVOY
from authz_server.site.model import SERVER, Ports

GROUP: Final = "authz-check"
"""Who is in it may open the check socket."""

_FIRST_FREE_PORT: Final = 1024
_BIND: Final = "CAP_NET_BIND_SERVICE"

Settings = Mapping[str, str | tuple[str, ...]]
"""A section of a unit; a key with several values is written once for each."""

_SEALED: Final[Settings] = {
    "NoNewPrivileges": "yes",
    "UMask": "0077",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "PrivateDevices": "yes",
    "PrivateIPC": "yes",
    "PrivateMounts": "yes",
    "ProtectClock": "yes",
    "ProtectControlGroups": "yes",
    "ProtectHostname": "yes",
    "ProtectKernelLogs": "yes",
    "ProtectKernelModules": "yes",
    "ProtectKernelTunables": "yes",
    "ProtectProc": "invisible",
    "ProcSubset": "pid",
    "KeyringMode": "private",
    "LockPersonality": "yes",
    "RemoveIPC": "yes",
    "RestrictNamespaces": "yes",
    "RestrictRealtime": "yes",
    "RestrictSUIDSGID": "yes",
    "SystemCallArchitectures": "native",
    "SystemCallFilter": ("@system-service", "~@privileged @resources"),
    # An error rather than a dead process: libraries try, and go on without.
    "SystemCallErrorNumber": "EPERM",
}

_RESTARTED: Final[Settings] = {
    "Restart": "on-failure",
    "RestartSec": "2",
}

_NO_LIMIT: Final = {
    # A box in a plant has nobody who starts it again.
    "StartLimitIntervalSec": "0",
}

_SERVER_COMMENT: Final = (
    """
Put it to /etc/systemd/system. authz-server must be in /usr/local/bin or /usr/bin.
""",
    """
No MemoryDenyWriteExecute: the policy is WebAssembly, which wasmtime compiles here to
machine code and then makes executable.
""",
    """
The network is closed but for loopback, where the metrics are. A policy from a bundle
server, or keys of users from an issuer, need a drop-in with IPAddressAllow.
""",
)

_ENVOY_COMMENT: Final = (
    """
Put it to /etc/systemd/system. envoy must be in /usr/local/bin or /usr/bin. A
configuration that Envoy refuses does not start it.
""",
    """
Starts behind authz-server, and does not need it: without an answer every call is
denied.
""",
)

_SYSUSERS_COMMENT: Final = f"""
Put it to /etc/sysusers.d. The check socket is the group {GROUP}'s: nobody else may ask
who is allowed what.
"""

_TMPFILES_COMMENT: Final = f"""
Put it to /etc/tmpfiles.d. systemd makes {RUN_FOLDER} and the log's folder itself, with
the unit.
"""


def units(serving: Serving, ports: Ports) -> tuple[Manifest, ...]:
    """Return both units, and the files that make users and folders."""
    return (
        Manifest(f"systemd/{SERVER}.service", _server_unit(serving)),
        Manifest(f"systemd/{ENVOY}.service", _envoy_unit(serving, ports)),
        Manifest(f"sysusers.d/{SERVER}.conf", _sysusers()),
        Manifest(f"tmpfiles.d/{SERVER}.conf", _tmpfiles(serving)),
    )


def _server_unit(serving: Serving) -> str:
    return _unit(
        _SERVER_COMMENT,
        {
            "Description": "authz-server, which decides about every call to the models",
            **_order(serving),
            **_NO_LIMIT,
        },
        {
            "Type": "exec",
            "User": SERVER,
            # The socket gets the group of the process that makes it.
            "Group": GROUP,
            "ExecStart": f"{SERVER} serve --config {CONFIG_FILE}",
            **_RESTARTED,
            "RuntimeDirectory": SERVER,
            "RuntimeDirectoryMode": "0750",
            "LogsDirectory": SERVER,
            "LogsDirectoryMode": "0700",
            "LimitNOFILE": "8192",
            "RestrictAddressFamilies": "AF_UNIX AF_INET",
            "IPAddressDeny": "any",
            "IPAddressAllow": "localhost",
            **_sealed(""),
        },
    )


def _envoy_unit(serving: Serving, ports: Ports) -> str:
    capability = _BIND if ports.envoy < _FIRST_FREE_PORT else ""
    return _unit(
        _ENVOY_COMMENT,
        {
            "Description": "Envoy in front of the models",
            **_order(serving, f"{SERVER}.service"),
            **_NO_LIMIT,
        },
        {
            "Type": "exec",
            "User": ENVOY,
            "Group": ENVOY,
            "SupplementaryGroups": GROUP,
            "ExecStartPre": f"{ENVOY} --mode validate -c {ENVOY_FILE}",
            # No shared memory, and no second Envoy that takes over.
            "ExecStart": f"{ENVOY} -c {ENVOY_FILE} --disable-hot-restart "
            "--log-level warning",
            **_RESTARTED,
            "LimitNOFILE": "65536",
            "RestrictAddressFamilies": "AF_UNIX AF_INET AF_INET6",
            "MemoryDenyWriteExecute": "yes",
            **_sealed(capability),
        },
    )


def _order(serving: Serving, *others: str) -> Settings:
    """Return behind what a unit starts; none of it has to be there."""
    before = [*others, *(["spire-agent.service"] if serving.agent_socket else [])]
    if not before:
        return {}
    return {"Wants": " ".join(before), "After": " ".join(before)}


def _sealed(capability: str) -> Settings:
    return {
        "CapabilityBoundingSet": capability,
        "AmbientCapabilities": capability,
        **_SEALED,
    }


def _unit(comment: tuple[str, ...], unit: Settings, service: Settings) -> str:
    sections = {
        "Unit": unit,
        "Service": service,
        "Install": {"WantedBy": "multi-user.target"},
    }
    return yaml_text.comment((notes.GENERATED, *comment)) + "".join(
        f"\n[{name}]\n{_lines(section)}" for name, section in sections.items()
    )


def _lines(section: Settings) -> str:
    return "".join(
        f"{key}={item}\n"
        for key, value in section.items()
        for item in ((value,) if isinstance(value, str) else value)
    )


def _sysusers() -> str:
    return yaml_text.comment((notes.GENERATED, _SYSUSERS_COMMENT)) + (
        f"g {GROUP} -\n"
        f'u {SERVER} - "authz-server"\n'
        f'u {ENVOY} - "Envoy"\n'
        f"m {SERVER} {GROUP}\n"
        f"m {ENVOY} {GROUP}\n"
    )


def _tmpfiles(serving: Serving) -> str:
    text = yaml_text.comment((notes.GENERATED, _TMPFILES_COMMENT)) + (
        f"d /etc/{SERVER} 0755 root root -\n"
        f"d {POLICY_FOLDER} 0750 root {GROUP} -\n"
        "d /etc/envoy 0755 root root -\n"
    )
    if serving.agent_socket:
        return text
    return text + (
        f"d {TLS_FOLDER} 0755 root root -\n"
        f"z {TLS_FOLDER}/server.key 0640 root {ENVOY} -\n"
    )
