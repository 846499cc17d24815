"""From the access policy to what other enforcement points need: pure functions.

`targets.emit` turns a policy and the site that it is enforced in into files. Nothing
here reads a file, a clock or the environment, so the same policy gives the same bytes
on every machine.
"""

from typing import Final

TARGET_NAMES: Final = (
    "kubernetes",
    "istio",
    "spire",
    "envoy",
    "cilium",
    "openziti",
    "controller",
    "helm",
)
"""In the order in which they are to be applied."""

CLUSTER_TARGETS: Final = ("kubernetes", "istio", "spire", "cilium")
"""Those whose files are objects that a cluster holds."""
