"""The real Helm, built by ``make helm``, with a home of its own at each call."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from judges import program


def helm(
    *arguments: str | Path, kubeconfig: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Return what Helm said, whatever that was.

    `template` and `lint` ask no cluster; `kubeconfig` is for what does.
    """
    with tempfile.TemporaryDirectory(prefix="helm-") as home:
        environment = {"PATH": "/usr/bin:/bin", "HOME": home}
        if kubeconfig is not None:
            environment["KUBECONFIG"] = str(kubeconfig)
        return subprocess.run(
            [program("HELM"), *arguments],
            stdin=subprocess.DEVNULL,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
