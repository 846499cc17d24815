"""What tests of emitters share."""

from __future__ import annotations

PARTS = {"policy.yaml": "kind: AccessPolicy\n"}
"""A policy's files, where their content does not matter."""
