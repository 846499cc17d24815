"""What agents and server are configured with, so that nodes can be attested.

Paths of files that the operator provides are those of ``docs/emit.md``. Options are
named as in SPIRE's plugin documents (``doc/plugin_*_nodeattestor_*.md``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from authz_server.emit import yaml_text
from authz_server.emit.manifest import Manifest
from authz_server.emit.notes import GENERATED
from authz_server.errors import PolicyError
from authz_server.policy.model import AccessPolicy
from authz_server.site.model import Attestor, Box, Spire

_Value = str | int | bool | list[str] | dict[str, "_Value"]
_Block = dict[str, _Value]

_AGENT: Final = """
For spire-agent run -config. The operator provides {files}; {path}
"""
_ROOT: Final = """
the agent has to run as root, since workloads are told by their programs.
"""
_NO_ROOT: Final = """
the agent may run as a user of its own.
"""
_SERVER: Final = """
Not a whole configuration: plugins for that of the SPIRE server, which attest every kind
of node that the site has. The operator provides {files}.
"""

DATA: Final = "/var/lib/spire/agent"
BUNDLE: Final = "/etc/spire/bootstrap.pem"
JOIN_TOKEN: Final = "/etc/spire/join-token"  # noqa: S105 - a file's name
SERVER_FILES: Final = "/etc/spire/server"

# By type of selector.
_WORKLOAD_ATTESTORS: Final = ("unix", "docker", "systemd")

# Selectors of these kinds exist only for keys that the server was told to look at.
_AZURE_TAG: Final = "azure_imds:vm-tag:"
_GCP_TAG: Final = "gcp_iit:tag:"
_GCP_LABEL: Final = "gcp_iit:label:"
_GCP_METADATA: Final = "gcp_iit:metadata:"


def agent_file(policy: AccessPolicy, spire: Spire, box: Box) -> Manifest:
    """Return the configuration of the agent on `box`.

    Raises:
        PolicyError: if the site does not say where the SPIRE server is, or which cloud
            the box is in, or a selector is of a type that no attestor on a box finds.
    """
    if not spire.address:
        raise PolicyError(
            "spec.spire of the site has no address, so the agent of box "
            f"{box.name} could not find its server; add address: HOST:8081"
        )
    host, _, port = spire.address.rpartition(":")
    agent: _Block = {
        "trust_domain =": str(policy.trust_domain),
        "server_address =": host.strip("[]"),
        "server_port =": int(port),
        "socket_path =": spire.agent_socket,
        "data_dir =": DATA,
        "trust_bundle_path =": BUNDLE,
    }
    if box.attestor is Attestor.JOIN_TOKEN:
        agent["join_token_file ="] = JOIN_TOKEN
    attestor = _agent_attestor(spire, box)
    workloads = _workload_attestors(box)
    files = [BUNDLE, *([JOIN_TOKEN] if box.attestor is Attestor.JOIN_TOKEN else [])]
    files += [str(value) for value in attestor.values() if _is_path(value)]
    needs_root = any(workloads.values())
    comment = _AGENT.format(
        files=_listed(files), path=(_ROOT if needs_root else _NO_ROOT).strip()
    )
    return _file(
        f"agents/{box.name}.conf",
        comment,
        {
            "agent": agent,
            "plugins": {
                'KeyManager "disk"': _plugin({"directory =": DATA}),
                f'NodeAttestor "{box.attestor}"': _plugin(attestor),
                **{
                    f'WorkloadAttestor "{name}"': _plugin(data)
                    for name, data in workloads.items()
                },
            },
        },
    )


def _agent_attestor(spire: Spire, box: Box) -> _Block:
    match box.attestor:
        case Attestor.X509POP:
            return {
                "private_key_path =": "/etc/spire/node.key",
                "certificate_path =": "/etc/spire/node.crt",
            }
        case Attestor.TPM_DEVID:
            return {
                "devid_cert_path =": "/etc/spire/devid.crt",
                "devid_priv_path =": "/etc/spire/devid.priv",
                "devid_pub_path =": "/etc/spire/devid.pub",
            }
        case Attestor.AZURE_IMDS:
            return {"tenant_domain =": _azure_tenant(spire, box)}
        case Attestor.JOIN_TOKEN | Attestor.AWS_IID | Attestor.GCP_IIT:
            return {}


def _azure_tenant(spire: Spire, box: Box) -> str:
    if not spire.azure_tenant:
        raise PolicyError(
            f"spec.spire of the site has no azureTenant, which box {box.name} is "
            "attested by; add the tenant's domain"
        )
    return spire.azure_tenant


def _workload_attestors(box: Box) -> dict[str, _Block]:
    selectors = [one for item in box.workloads for one in item.selectors]
    # The box's own parts are told by their users.
    types = {one.partition(":")[0] for one in selectors} | {"unix"}
    for kind in sorted(types.difference(_WORKLOAD_ATTESTORS)):
        raise PolicyError(
            f"spec.boxes.{box.name}.workloads of the site: nothing on a box finds "
            f"selectors of type {kind!r}; write {', '.join(_WORKLOAD_ATTESTORS)}"
        )
    by_program = any(
        one.startswith(("unix:path:", "unix:sha256:")) for one in selectors
    )
    attestors: dict[str, _Block] = {name: {} for name in sorted(types)}
    if by_program:
        attestors["unix"]["discover_workload_path ="] = True
    return attestors


def server_file(spire: Spire, boxes: tuple[Box, ...]) -> Manifest | None:
    """Return the server's plugins for all kinds of nodes; None if there are no nodes.

    Raises:
        PolicyError: if the site does not say which cloud a box is in.
    """
    kinds: dict[Attestor, list[Box]] = {}
    for box in boxes:
        kinds.setdefault(box.attestor, []).append(box)
    plugins = {
        str(kind): _server_attestor(spire, kind, of_kind)
        for kind, of_kind in kinds.items()
    }
    files = sorted(
        str(value)
        for plugin in plugins.values()
        for value in plugin.values()
        if _is_path(value)
    )
    if spire.cluster_name:
        cluster: _Block = {
            "service_account_allow_list =": [
                f"{spire.agent_namespace}:{spire.agent_account}"
            ]
        }
        if spire.server is None:
            # Not in the cluster, so it needs to be told how to reach its API server.
            kubeconfig = f"{SERVER_FILES}/{spire.cluster_name}.kubeconfig"
            cluster["kube_config_file ="] = kubeconfig
            files.append(kubeconfig)
        plugins["k8s_psat"] = {
            "clusters =": {f"{json.dumps(spire.cluster_name)} =": cluster}
        }
    if not plugins:
        return None
    return _file(
        "server.conf",
        _SERVER.format(files=_listed(files)),
        {
            "plugins": {
                f'NodeAttestor "{name}"': _plugin(plugin)
                for name, plugin in sorted(plugins.items())
            }
        },
    )


def _server_attestor(spire: Spire, kind: Attestor, boxes: list[Box]) -> _Block:
    selectors = [one for box in boxes for one in box.node_selectors]
    match kind:
        case Attestor.X509POP:
            return {"ca_bundle_path =": f"{SERVER_FILES}/nodes-ca.pem"}
        case Attestor.TPM_DEVID:
            return {
                "devid_ca_path =": f"{SERVER_FILES}/devid-ca.pem",
                "endorsement_ca_path =": f"{SERVER_FILES}/endorsement-ca.pem",
            }
        case Attestor.AZURE_IMDS:
            tags = _keys(selectors, _AZURE_TAG)
            tenant: _Block = {"allowed_vm_tags =": tags} if tags else {}
            name = json.dumps(_azure_tenant(spire, boxes[0]))
            return {"tenants =": {f"{name} =": tenant}}
        case Attestor.GCP_IIT:
            return _gcp(spire, boxes[0], selectors)
        case Attestor.JOIN_TOKEN | Attestor.AWS_IID:
            return {}


def _gcp(spire: Spire, box: Box, selectors: list[str]) -> _Block:
    if not spire.gcp_projects:
        raise PolicyError(
            f"spec.spire of the site has no gcpProjects, which box {box.name} is "
            "attested by; list the projects' IDs"
        )
    plugin: _Block = {"projectid_allow_list =": list(spire.gcp_projects)}
    labels, metadata = _keys(selectors, _GCP_LABEL), _keys(selectors, _GCP_METADATA)
    if labels or metadata or any(one.startswith(_GCP_TAG) for one in selectors):
        plugin["use_instance_metadata ="] = True
    if labels:
        plugin["allowed_label_keys ="] = labels
    if metadata:
        plugin["allowed_metadata_keys ="] = metadata
    return plugin


def _keys(selectors: list[str], prefix: str) -> list[str]:
    return sorted(
        {
            one.removeprefix(prefix).partition(":")[0]
            for one in selectors
            if one.startswith(prefix)
        }
    )


def _is_path(value: object) -> bool:
    return isinstance(value, str) and value.startswith("/")


def _listed(files: list[_Value] | list[str]) -> str:
    return ", ".join(map(str, files)) or "no file"


# HCL: a key that ends in "=" is assigned to, any other heads a block.


def _plugin(data: _Block) -> _Block:
    return {"plugin_data": data}


def _file(name: str, comment: str, blocks: _Block) -> Manifest:
    lines = [line for head, block in blocks.items() for line in _lines(head, block)]
    return Manifest(
        name, yaml_text.comment((GENERATED, comment)) + "\n".join(lines) + "\n"
    )


def _lines(head: str, value: _Value) -> list[str]:
    if not isinstance(value, Mapping):
        return [f"{head} {json.dumps(value)}"]
    if not value:
        return [f"{head} {{}}"]
    inner = [line for key, item in value.items() for line in _lines(key, item)]
    return [f"{head} {{", *(f"  {line}" for line in inner), "}"]
