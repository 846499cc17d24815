from pathlib import Path

from authz_server.folders import cache_folder


def test_the_cache_follows_the_desktop_convention() -> None:
    assert cache_folder({"AUTHZ_SERVER_CACHE": "/own", "XDG_CACHE_HOME": "/c"}) == Path(
        "/own"
    )
    assert cache_folder({"XDG_CACHE_HOME": "/c"}) == Path("/c/authz-server")
    assert cache_folder({"HOME": "/h"}) == Path("/h/.cache/authz-server")
    assert cache_folder({}) == Path.home() / ".cache" / "authz-server"
