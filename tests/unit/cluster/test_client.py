from __future__ import annotations

import builtins
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from api_stand_in import Answer, Asked, StandIn

from authz_server.cluster.answers import RefusedError
from authz_server.cluster.client import Cluster, connect
from authz_server.cluster.kinds import Key
from authz_server.errors import SetupError

CONFIG_MAP = ("v1", "ConfigMap")
KEY = Key("v1", "ConfigMap", "n", "a")


def config_map(name: str = "a", **data: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"namespace": "n", "name": name},
        "data": data,
    }


@pytest.fixture
def cluster(stand_in: StandIn, kubeconfig: Path) -> Iterator[Cluster]:
    stand_in.namespaces("n")
    with connect(None, kubeconfig) as found:
        yield found


def test_an_object_is_applied_on_the_servers_side_and_strictly(
    cluster: Cluster, stand_in: StandIn
) -> None:
    assert cluster.apply(config_map(x="1"), force=False)[1]
    assert not cluster.apply(config_map(x="1"), force=True, dry_run=True)[1]

    first, second = (item for item in stand_in.asked if item.method == "PATCH")
    assert first.path == "/api/v1/namespaces/n/configmaps/a"
    assert first.headers["Content-Type"] == "application/apply-patch+yaml"
    assert first.body == config_map(x="1")
    asked = {"fieldManager": "authz-server", "fieldValidation": "Strict"}
    assert first.query == {**asked, "force": "false"}
    assert second.query == {**asked, "force": "true", "dryRun": "All"}


def test_an_object_is_found_or_not(cluster: Cluster, stand_in: StandIn) -> None:
    assert cluster.find(KEY) is None
    cluster.apply(config_map(), force=False)
    found = cluster.find(KEY)
    assert found is not None
    assert found["metadata"]["name"] == "a"

    stand_in.odd = lambda _: (500, {})
    with pytest.raises(RefusedError, match="answered with HTTP 500"):
        cluster.find(KEY)


def test_all_pages_of_a_list_are_read(cluster: Cluster, stand_in: StandIn) -> None:
    for name in "abcde":
        cluster.apply(config_map(name), force=False)

    found = list(cluster.objects(CONFIG_MAP, "x=y"))

    assert [Key.of(item).name for item in found] == list("abcde")
    lists = [item.query for item in stand_in.asked if "labelSelector" in item.query]
    assert [item.get("continue") for item in lists] == [None, "2", "4"]
    assert {item["labelSelector"] for item in lists} == {"x=y"}
    assert {item["limit"] for item in lists} == {"500"}


def test_a_list_whose_pages_expired_is_read_again_from_the_start(
    cluster: Cluster, stand_in: StandIn
) -> None:
    for name in "abc":
        cluster.apply(config_map(name), force=False)
    expired = [(410, {"message": "too old"})]

    def odd(asked: Asked) -> Answer | None:
        return expired.pop() if "continue" in asked.query and expired else None

    stand_in.odd = odd

    found = list(cluster.objects(CONFIG_MAP, "x=y"))

    assert [Key.of(item).name for item in found] == ["a", "b", "c"]


def test_a_list_that_fails_otherwise_fails(cluster: Cluster, stand_in: StandIn) -> None:
    stand_in.odd = lambda asked: (403, {}) if "limit" in asked.query else None

    with pytest.raises(RefusedError):
        list(cluster.objects(CONFIG_MAP, "x=y"))


def test_of_a_group_that_is_not_served_there_is_nothing(
    cluster: Cluster, stand_in: StandIn
) -> None:
    stand_in.without.add("security.istio.io")
    kind = ("security.istio.io/v1", "PeerAuthentication")

    assert cluster.resource(kind) is None
    assert not list(cluster.objects(kind, "x=y"))
    assert cluster.find(Key(*kind, "n", "x")) is None


def test_a_group_that_can_not_be_asked_about_is_no_missing_group(
    cluster: Cluster, stand_in: StandIn
) -> None:
    stand_in.odd = lambda _: (401, {"message": "Unauthorized"})

    with pytest.raises(RefusedError, match="doesn't accept your credentials"):
        cluster.resource(CONFIG_MAP)


def test_only_the_object_that_was_looked_at_is_deleted(
    cluster: Cluster, stand_in: StandIn
) -> None:
    made, _ = cluster.apply(config_map(), force=False)
    uid, version = (made["metadata"][name] for name in ("uid", "resourceVersion"))

    with pytest.raises(RefusedError, match="changed since the plan was made; run ag"):
        cluster.delete(KEY, uid, "another")
    cluster.delete(KEY, uid, version, dry_run=True)
    assert cluster.find(KEY) is not None
    cluster.delete(KEY, uid, version)
    assert cluster.find(KEY) is None
    cluster.delete(KEY, uid, version)  # what is gone is gone

    stand_in.odd = lambda asked: (403, {}) if asked.method == "DELETE" else None
    with pytest.raises(RefusedError, match="403"):
        cluster.delete(KEY, uid, version)


def test_a_server_that_has_too_much_to_do_is_asked_again(
    cluster: Cluster, stand_in: StandIn
) -> None:
    busy: list[Answer] = [(429, "later"), (429, "later")]

    def odd(asked: Asked) -> Answer | None:
        return busy.pop() if asked.method == "PATCH" and busy else None

    stand_in.odd = odd

    assert cluster.apply(config_map(), force=False)[1]
    assert not busy


@pytest.mark.parametrize("answer", ["<html>", "[1]"])
def test_an_answer_of_something_else_is_no_answer(
    cluster: Cluster, stand_in: StandIn, answer: str
) -> None:
    stand_in.odd = lambda _: (503, answer)

    with pytest.raises(RefusedError, match="answered with HTTP 503"):
        cluster.find(KEY)


def test_a_server_that_is_not_there_is_named_with_the_mend(
    stand_in: StandIn, kubeconfig: Path
) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # nobody listens
        port = held.getsockname()[1]
        text = kubeconfig.read_text().replace(stand_in.url, f"http://127.0.0.1:{port}")
        kubeconfig.write_text(text)
        with (
            connect(None, kubeconfig) as cluster,
            pytest.raises(
                SetupError, match=rf"{port}: can't be reached: .*refused"
            ) as caught,
        ):
            cluster.find(KEY)
    assert "--context, --kubeconfig" in str(caught.value)


def test_a_context_that_is_not_there_is_named(kubeconfig: Path) -> None:
    with pytest.raises(SetupError, match=r"kubeconfig: names no cluster .*other"):
        connect("other", kubeconfig)


def test_a_kubeconfig_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="none: names no cluster"):
        connect(None, tmp_path / "none")


def test_a_kubeconfig_that_is_something_else_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text("[]")

    with pytest.raises(SetupError, match="config: "):
        connect(None, path)


def test_without_any_configuration_the_mend_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from kubernetes.config import kube_config

    monkeypatch.setattr(
        kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none")
    )
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)

    with pytest.raises(SetupError, match="no cluster: there is no kubeconfig"):
        connect(None, None)


def test_without_the_library_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "kubernetes":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "authz_server.cluster.client")
    monkeypatch.setattr(builtins, "__import__", without)

    with pytest.raises(SetupError, match=r"pip install 'authz-server\[kubernetes\]'"):
        __import__("authz_server.cluster.client")
