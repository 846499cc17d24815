"""What the demo prints: the table, and how to go on by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from authz_server.demo.scenario import CAMERA

if TYPE_CHECKING:
    from collections.abc import Sequence

    from authz_server.demo.plant import Plant
    from authz_server.demo.scenario import Row

_HEAD: Final = ("", "who", "what", "over", "expected", "got", "reason", "ms")

_WIDEST: Final = 60
"""Errors of other people's libraries can be as long as a page."""


def table(rows: Sequence[Row]) -> str:
    """Return the rows as text, a wrong one marked at its start."""
    lines = [_HEAD, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEAD))]
    lines.insert(1, tuple("-" * width for width in widths))
    return "\n".join(
        "  ".join(
            # The numbers of the last column stand under one another.
            cell.rjust(width) if column == len(_HEAD) - 1 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def summary(rows: Sequence[Row], decisions: int) -> str:
    """Return the last line: how many were right, and how many are on record."""
    right = sum(row.is_right for row in rows)
    return (
        f"{right} of {len(rows)} ended as they must; {decisions} decisions are in the "
        "audit log."
    )


def by_hand(plant: Plant) -> str:
    """Return commands to try while the plant is up."""
    edge, camera = plant.edge, plant.identities[CAMERA]
    url = f"https://localhost:{edge.port}/v2/models"
    curl = f"curl --cacert {edge.bundle} --cert {camera.certificate} --key {camera.key}"
    return f"""\
The plant stays up until Ctrl-C (its SVIDs hold for an hour). As the camera:

  {curl} \\
    {url}/defect-detection/versions/1          # allowed
  {curl} -i \\
    {url}/demand-forecast                      # denied; mind x-authz-reason

Or with tritonclient:

  import tritonclient.grpc as triton
  client = triton.InferenceServerClient(
      "localhost:{edge.port}", ssl=True, root_certificates="{edge.bundle}",
      certificate_chain="{camera.certificate}", private_key="{camera.key}")
  print(client.get_model_metadata("defect-detection", "1"))

Other callers' keys are beside the camera's. The audit log, an event for each decision:

  tail -f {plant.audit}

Logs of the parts: {plant.folder}/*.log, {plant.folder}/triton/triton.log"""


def _cells(row: Row) -> tuple[str, ...]:
    attempt, outcome = row.attempt, row.outcome
    expected = attempt.expected
    got = " ".join(filter(None, (outcome.verdict, outcome.status)))
    if len(got) > _WIDEST:
        got = f"{got[: _WIDEST - 1]}…"
    return (
        "ok" if row.is_right else "WRONG",
        attempt.who,
        attempt.what,
        attempt.protocol,
        str(expected.verdict)
        + (f" ({expected.reason})" if expected.reason is not None else ""),
        got,
        outcome.reason or "-",
        f"{outcome.latency_ms:.1f}",
    )
