"""An API server that is none, for the rooms that ask one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from api_stand_in import StandIn, kubeconfig_for, running_stand_in


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    with running_stand_in() as found:
        yield found


@pytest.fixture
def kubeconfig(stand_in: StandIn, tmp_path: Path) -> Path:
    return kubeconfig_for(stand_in, tmp_path)
