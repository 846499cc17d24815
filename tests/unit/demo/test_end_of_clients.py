"""A client that is collected in another thread than its own must not complain."""

from __future__ import annotations

import threading

import tritonclient.http

from authz_server.demo.calls import end


def test_what_was_closed_may_be_collected_in_any_thread() -> None:
    client = tritonclient.http.InferenceServerClient("127.0.0.1:1")
    end(client)
    raised: list[BaseException] = []

    def collect() -> None:
        try:
            client.__del__()
        except BaseException as error:  # noqa: BLE001 - whatever it is
            raised.append(error)

    thread = threading.Thread(target=collect)
    thread.start()
    thread.join(timeout=10)

    assert not thread.is_alive()
    assert raised == []
