"""Real parts that several files of this suite share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from kube_api import KubeApi


@pytest.fixture(scope="session")
def kube_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeApi]:
    """One API server for all who have names of their own, as what they make stays.

    Who needs an empty one starts it with `running_kube_api`.
    """
    # Late, as its client takes half a second that only few runs need.
    from kube_api import running_kube_api

    with running_kube_api(tmp_path_factory.mktemp("kube")) as api:
        yield api
