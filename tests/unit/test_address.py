import pytest

from authz_server.address import Address


@pytest.mark.parametrize(
    ("text", "target", "is_loopback"),
    [
        ("unix:///run/a.sock", "unix:/run/a.sock", False),
        ("tcp://127.0.0.1:9191", "127.0.0.1:9191", True),
        ("tcp://127.8.9.1:0", "127.8.9.1:0", True),
        ("tcp://[::1]:9191", "[::1]:9191", True),
        ("tcp://0.0.0.0:9191", "0.0.0.0:9191", False),
        ("tcp://[::]:9191", "[::]:9191", False),
        ("tcp://10.0.0.1:65535", "10.0.0.1:65535", False),
    ],
)
def test_an_address_is_read(text: str, target: str, is_loopback: bool) -> None:
    address = Address.parse(text)
    assert address.target == target
    assert address.is_loopback is is_loopback
    assert address.is_unix is text.startswith("unix")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "check.sock",
        "unix://check.sock",
        "unix://",
        "unix:///" + "a" * 107,
        "tcp://localhost:1",
        "tcp://127.0.0.1",
        "tcp://127.0.0.1:",
        "tcp://127.0.0.1:65536",
        "tcp://127.0.0.1:-1",
        "tcp://127.0.0.1:\u0661",
        "http://127.0.0.1:1",
    ],
)
def test_anything_else_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Address.parse(text)
