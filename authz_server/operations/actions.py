"""The vocabulary of actions, and the names a model, a version or a dataset may have.

The first nine actions are the categories of Triton's own restricted-API flags, which
operators know; the others split off what must be granted apart.
"""

from __future__ import annotations

import enum
import re
from typing import Final


class Action(enum.StrEnum):
    """What a call does."""

    HEALTH = "health"
    METADATA = "metadata"
    INFERENCE = "inference"
    SHARED_MEMORY = "shared-memory"
    MODEL_CONFIG = "model-config"
    MODEL_REPOSITORY = "model-repository"
    STATISTICS = "statistics"
    TRACE = "trace"
    LOGGING = "logging"

    INFERENCE_STREAM = "inference-stream"
    """A gRPC stream, in which each message may name another model."""
    MODEL_LIST = "model-list"
    """Reading the names of all models."""
    MODEL_LOAD_OVERRIDE = "model-load-override"
    """Loading a model with a configuration or files of the caller's: code execution."""
    METRICS = "metrics"

    DATASET_READ = "dataset-read"
    DATASET_WRITE = "dataset-write"


DATASET_ACTIONS: Final = frozenset({Action.DATASET_READ, Action.DATASET_WRITE})

OPENAI_ACTIONS: Final = frozenset(
    {
        Action.HEALTH,
        Action.METADATA,
        Action.INFERENCE,
        Action.MODEL_REPOSITORY,
        Action.MODEL_LIST,
        Action.METRICS,
    }
)
"""What there is to do at the OpenAI-compatible frontend."""

# Triton itself accepts names that have misled it: NUL cuts a gRPC name short, '..' and
# '/' walked out of the repository, a space broke the Python backend's command line.
_MODEL_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}", re.ASCII)

# Triton reads a gRPC version with std::stol, so ' 1', '+1', '01' and '1abc' would all
# run version 1. One spelling for one version.
_VERSION: Final = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)


def is_model_name(text: str) -> bool:
    """Return whether `text` may name a model, in a request and in a policy."""
    return _MODEL_NAME.fullmatch(text) is not None


def is_version(text: str) -> bool:
    """Return whether `text` is a model version number in its only spelling."""
    return _VERSION.fullmatch(text) is not None
