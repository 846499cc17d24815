"""The models that a differential run plays with: cheap, and with confusable names."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Final

RUNNING: Final[Mapping[str, tuple[str, ...]]] = {
    "echo": ("1", "2"),
    "echo2": ("1",),
    "Echo": ("1",),
    "public": ("1",),
    "secret": ("1", "2"),
    # GET /v2/models/stats is not about this one.
    "stats": ("1",),
    "pipeline": ("1",),
}
"""Models that are always loaded, with their versions."""

DOORS: Final = ("door", "Door", "door.2")
"""Models that load and unload in no time, for calls that do this."""

MEMBERS: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "pipeline": (("echo", "1"), ("public", "1")),
    **dict.fromkeys(DOORS, (("public", "1"),)),
}
"""What each ensemble runs."""

NAMES: Final = (*RUNNING, *DOORS)

# Says who ran in the answer; numpy comes with the backend.
_MODEL: Final = textwrap.dedent("""\
    import numpy as np
    import triton_python_backend_utils as pb_utils


    class TritonPythonModel:
        def initialize(self, args):
            who = args["model_name"] + ":" + args["model_version"]
            self._who = np.array([who.encode()], dtype=np.object_)

        def execute(self, requests):
            out = pb_utils.Tensor("WHO", self._who)
            return [pb_utils.InferenceResponse([out]) for _ in requests]
    """)

_CONFIG: Final = """\
name: "{name}"
backend: "python"
input [{{name: "IN", data_type: TYPE_INT32, dims: [1]}}]
output [{{name: "WHO", data_type: TYPE_STRING, dims: [1]}}]
version_policy: {{all: {{}}}}
instance_group [{{count: 1, kind: KIND_CPU}}]
"""

_ENSEMBLE: Final = """\
name: "{name}"
platform: "ensemble"
input [{{name: "IN", data_type: TYPE_INT32, dims: [1]}}]
output [{outputs}]
ensemble_scheduling {{step [{steps}]}}
"""


def write_repository(folder: Path) -> Path:
    """Return a model repository in `folder` that holds all of `NAMES`."""
    repository = folder / "source"
    for name in NAMES:
        versions = RUNNING.get(name, ("1",))
        for version in versions:
            (repository / name / version).mkdir(parents=True)
        members = MEMBERS.get(name)
        if members is None:
            for version in versions:
                (repository / name / version / "model.py").write_text(_MODEL)
            text = _CONFIG.format(name=name)
        else:
            text = _ensemble(name, members)
        (repository / name / "config.pbtxt").write_text(text)
    return repository


def _ensemble(name: str, members: tuple[tuple[str, str], ...]) -> str:
    # Asks each member the same.
    outputs = ", ".join(
        f'{{name: "WHO{i}", data_type: TYPE_STRING, dims: [1]}}'
        for i in range(len(members))
    )
    steps = ", ".join(
        f'{{model_name: "{member}", model_version: {version}, '
        f'input_map {{key: "IN", value: "IN"}}, '
        f'output_map {{key: "WHO", value: "WHO{i}"}}}}'
        for i, (member, version) in enumerate(members)
    )
    return _ENSEMBLE.format(name=name, outputs=outputs, steps=steps)
