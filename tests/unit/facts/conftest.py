"""Every suite of this room that extracts runs on the native core and on its twin."""

import pytest

from authz_server.facts import native
from authz_server.facts.extraction import extract as twin

EXTRACTS = {"native": native.extract, "twin": twin}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if hasattr(metafunc.module, "extract"):
        metafunc.parametrize("implementation", EXTRACTS, indirect=True)


@pytest.fixture(autouse=True)
def implementation(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if hasattr(request.module, "extract"):
        monkeypatch.setattr(request.module, "extract", EXTRACTS[request.param])
