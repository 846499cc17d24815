from collections.abc import Mapping

from authz_server.identity.spiffe_id import TrustDomain
from authz_server.operations.upstreams import DatasetUpstream
from authz_server.policy.model import AccessPolicy, Upstream, UpstreamKind
from authz_server.policy.upstream_index import index_upstreams


def upstream(
    name: str,
    kind: UpstreamKind = UpstreamKind.TRITON,
    *,
    account: str = "",
    hosts: tuple[str, ...] = (),
    datasets: Mapping[str, str] | None = None,
) -> Upstream:
    return Upstream(name, kind, "ns", {}, account, hosts, datasets or {})


def policy(*upstreams: Upstream) -> AccessPolicy:
    return AccessPolicy(
        name="p",
        trust_domain=TrustDomain("td"),
        federates_with=(),
        upstreams={item.name: item for item in upstreams},
        groups={},
        roles={},
        grants=(),
    )


def test_each_upstream_is_known_by_its_kind() -> None:
    index = index_upstreams(
        policy(upstream("t"), upstream("d", UpstreamKind.DATASET, datasets={"a": "/a"}))
    )
    assert index.triton == {"t"}
    assert set(index.dataset) == {"d"}


def test_datasets_are_found_by_path_and_buckets_by_the_hosts_that_may_name_them() -> (
    None
):
    index = index_upstreams(
        policy(
            upstream(
                "d",
                UpstreamKind.DATASET,
                hosts=("a.test", "*.a.test", "b.test"),
                datasets={"images": "/d/images", "sound": "/sound"},
            )
        )
    )
    assert index.dataset["d"] == DatasetUpstream(
        datasets={"/d/images": "images", "/sound": "sound"},
        hosts=frozenset({"a.test", "b.test"}),
        bucket_hosts=frozenset({"a.test"}),
    )


def test_what_two_upstreams_share_names_neither() -> None:
    index = index_upstreams(
        policy(
            upstream("one", account="sa", hosts=("a.test", "b.test")),
            upstream("two", account="sa", hosts=("a.test",)),
            upstream("three", account="other"),
        )
    )
    assert index.by_principal == {"spiffe://td/ns/ns/sa/other": "three"}
    assert index.by_host == {"b.test": "one"}
