"""``authz-server controller``: keep a cluster as its AccessPolicy objects say."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from authz_server.emit import CLUSTER_TARGETS
from authz_server.errors import ConfigError

if TYPE_CHECKING:
    from authz_server.controller.reconciling import Reconciler
    from authz_server.policy.model import AccessPolicy
    from authz_server.site.model import Site

DEFAULT_RESYNC_S: Final = 300.0

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

# Where Kubernetes puts the namespace of a pod's service account.
_OWN_NAMESPACE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def add_parser(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser],
) -> None:
    """Add the command to `subparsers`."""
    parser = subparsers.add_parser(
        "controller",
        help="keep a Kubernetes cluster as its AccessPolicy objects say",
        description="Watches the AccessPolicy objects of one namespace and the pods "
        "that they name, applies what they give, and reports in their status and in "
        "events. Of several controllers one acts. docs/controller.md says more.",
    )
    parser.add_argument(
        "targets",
        nargs="+",
        choices=CLUSTER_TARGETS,
        metavar="TARGET",
        help=f"what to apply: one or more of {', '.join(CLUSTER_TARGETS)}",
    )
    parser.add_argument(
        "--site", type=Path, metavar="FILE", help="what the policies do not say"
    )
    parser.add_argument(
        "--namespace", metavar="NAME", help="of the AccessPolicies; default: its own"
    )
    parser.add_argument(
        "--resync",
        type=float,
        default=DEFAULT_RESYNC_S,
        metavar="SECONDS",
        help="how often all is looked at again, changed or not (default: %(default)g)",
    )
    parser.add_argument("--context", metavar="NAME", help="context of the kubeconfig")
    parser.add_argument(
        "--kubeconfig", type=Path, metavar="FILE", help="default: the pod's account"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run until SIGTERM or SIGINT.

    Raises:
        ConfigError: if no namespace is named.
        SetupError: if there is no cluster to ask, or what watches it has died.
    """
    from authz_server.cluster.client import connect
    from authz_server.controller.reconciling import Reconciler
    from authz_server.controller.running import Controller

    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(message)s"
    )
    namespace = args.namespace or _own_namespace()
    read_site = _site_reader(args.site)
    with connect(args.context, args.kubeconfig) as cluster:

        def make_reconciler(may_act: Callable[[], bool]) -> Reconciler:
            return Reconciler(cluster, read_site, tuple(args.targets), may_act)

        identity = f"{socket.gethostname()}_{uuid.uuid4()}"
        controller = Controller(
            cluster, namespace, identity, make_reconciler, args.resync
        )

        def end() -> None:
            signal.sigwait(_SIGNALS)
            controller.stop()

        # Waited for by a thread: a handler would run within the main thread's waiting,
        # which holds the locks that `stop` needs.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        threading.Thread(target=end, daemon=True).start()
        controller.run()
    return 0


def _own_namespace() -> str:
    try:
        return _OWN_NAMESPACE.read_text(encoding="utf-8").strip()
    except OSError:
        pass
    namespace = os.environ.get("POD_NAMESPACE", "")
    if not namespace:
        raise ConfigError(
            ["this is no pod with a service account; name one with --namespace"]
        )
    return namespace


def _site_reader(path: Path | None) -> Callable[[AccessPolicy], Site]:
    """Return what reads the site anew: it is held against each policy."""
    from authz_server.site.document import load_site
    from authz_server.site.model import Site

    if path is None:
        return lambda _: Site()
    return lambda policy: load_site(path, policy)
