import pytest
from checks import check_request

from authz_server.errors import Reason, RequestError
from authz_server.facts import Facts, Plan, extract
from authz_server.operations.actions import Action
from authz_server.operations.classify import classify
from authz_server.operations.operation import Call, Operation, Scope
from authz_server.operations.s3 import SIGNALS
from authz_server.operations.upstreams import DatasetUpstream, UpstreamIndex

HOST = "data.factory.example"
INDEX = UpstreamIndex(
    triton=frozenset({"triton"}),
    dataset={
        "data": DatasetUpstream(
            datasets={
                "/datasets/line-images": "line-images",
                "/datasets/line-images/private": "private",
                "/datasets/sound/2024": "sound",
                "/whole": "whole",
                "/nested": "nested",
                "/nested/inner": "inner",
            },
            hosts=frozenset({HOST, "both.other.example"}),
            bucket_hosts=frozenset({HOST, "other.example"}),
        ),
        "unlisted": DatasetUpstream(datasets={"/whole": "whole"}, hosts=frozenset()),
    },
)

READ = Action.DATASET_READ
WRITE = Action.DATASET_WRITE
IMAGE = "/datasets/line-images/a.png"


def operation(
    method: str,
    path: str,
    *,
    host: str = HOST,
    headers: dict[str, str] | None = None,
    raw_headers: list[tuple[str, bytes]] | None = None,
    upstream: str = "data",
) -> Operation:
    request = check_request(
        method=method,
        path=path,
        host=host,
        headers=headers,
        raw_headers=raw_headers,
        extensions={"upstream": upstream},
    )
    key, _ = extract(bytes(request), Plan(signals=SIGNALS))
    return classify(Facts.decode(key), INDEX, trust_host=False)


def judged(method: str, path: str, **changes: str) -> tuple[Action, str]:
    """Return action and dataset of a request that does one thing."""
    got = operation(method, path, **changes)  # type: ignore[arg-type]
    assert got.call.scope is Scope.DATASET
    assert got.upstream == "data"
    assert got.also is None
    return got.call.action, got.dataset


def refusal(method: str, path: str, **changes: object) -> Reason:
    with pytest.raises(RequestError) as caught:
        operation(method, path, **changes)  # type: ignore[arg-type]
    return caught.value.reason


def copy(source: str, path: str = IMAGE, method: str = "PUT") -> Operation:
    return operation(method, path, headers={"x-amz-copy-source": source})


@pytest.mark.parametrize(
    ("method", "action"),
    [
        ("GET", READ),
        ("HEAD", READ),
        ("PUT", WRITE),
        ("DELETE", WRITE),
        ("PATCH", WRITE),
    ],
)
def test_a_method_reads_or_writes_the_object_that_the_path_names(
    method: str, action: Action
) -> None:
    assert judged(method, IMAGE) == (action, "line-images")


@pytest.mark.parametrize(
    ("path", "dataset"),
    [
        ("/datasets/sound/2024", "sound"),
        ("/datasets/line-images/2024/07/a.png", "line-images"),
        ("/datasets/line-images/private/a.png", "private"),
        ("/datasets/line-images/privates", "line-images"),
        ("/datasets/sound/2024/", "sound"),
        ("/whole/anything", "whole"),
        ("/nested/inner", "inner"),
        ("/nested/other", "nested"),
    ],
)
def test_the_longest_path_of_whole_segments_is_the_dataset(
    path: str, dataset: str
) -> None:
    assert judged("GET", path) == (READ, dataset)


@pytest.mark.parametrize(
    "path",
    [
        "/datasets/line-images-of-others/a.png",
        "/datasets/line-image",
        "/datasets/sound",
        "/datasets/sound/2023/a.wav",
        "/datasets/Line-Images/a.png",
        "/other/line-images/a.png",
        "/line-images/a.png",
    ],
)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_what_is_in_no_dataset_is_unknown(method: str, path: str) -> None:
    assert refusal(method, path) is Reason.OPERATION_UNKNOWN


@pytest.mark.parametrize("path", ["/datasets/line-images/", "/datasets/line-images"])
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_path_with_another_dataset_beneath_it_is_unknown(
    method: str, path: str
) -> None:
    """A file server would list or remove the folder, and the other dataset with it."""
    assert refusal(method, path) is Reason.OPERATION_UNKNOWN


@pytest.mark.parametrize(
    "method",
    ["POST", "COPY", "MOVE", "PROPFIND", "PROPPATCH", "MKCOL", "LOCK", "UNLOCK",
     "OPTIONS", "TRACE", "CONNECT", "LINK", "SEARCH", "REPORT", "get", "Put", ""],
)  # fmt: skip
def test_any_other_method_on_an_object_is_unknown(method: str) -> None:
    assert refusal(method, IMAGE) is Reason.OPERATION_UNKNOWN


def test_a_method_beyond_ascii_is_unknown() -> None:
    request = check_request(method="PUT", path=IMAGE, extensions={"upstream": "data"})
    raw = bytes(request).replace(b"PUT", b"P\xffT")
    with pytest.raises(RequestError):
        classify(Facts.decode(extract(raw, Plan())[0]), INDEX, trust_host=False)


# Names.


@pytest.mark.parametrize(
    "name",
    [
        "a%20b.png",
        "caf%C3%A9.png",
        "%E7%94%BB%E5%83%8F",
        "label%3D1/part%2B1",
        "label=1/a+b@c:d,e!$&'()*",
        "%5B1%5D%7B2%7D%40%3A%2C%22%3C%3E%5E%60%7C%21%24%26%27%28%29%2A",
        "a~b_c-d.e",
        "...",
        "a/",
    ],
)
def test_a_name_may_be_escaped_where_all_decode_it_alike(name: str) -> None:
    assert judged("GET", f"/datasets/line-images/{name}") == (READ, "line-images")


@pytest.mark.parametrize(
    "path",
    [
        "", "datasets/line-images/a", "*", "?", "http://other/whole/a",
        "//datasets/line-images/a", "/datasets//line-images/a", "/whole/a//b",
        "/whole/a//", "/whole/../datasets/x", "/whole/./a", "/whole/..", "/whole/.",
        "/whole/%2e%2e/x", "/whole/%2E%2E/x", "/whole/.%2E/x", "/whole%2Fa",
        "/whole/a%2Fb", "/whole/a%2fb", "/whole/a%5Cb", "/whole/a\\b", "/whole/a%25b",
        "/whole/a%252e", "/whole/a%3Fb", "/whole/a%3fb", "/whole/a%23b", "/whole/a#b",
        "/whole/a%3Bb", "/whole/a;b", "/whole/a%00b", "/whole/a%0Ab", "/whole/a%7F",
        "/whole/%61", "/%77hole/a", "/whole/%7E", "/whole/%2D", "/whole/%5F",
        "/whole/%c3%a9", "/whole/%C3", "/whole/%FF", "/whole/%C0%AE", "/whole/a%",
        "/whole/a%2", "/whole/a%zz", "/whole/a%u0041", "/whole/a b", "/whole/a\tb",
        "/whole/a\n", "/whole/\u00e9", "/whole/a\x00", "/whole/%C2%80",
        "/whole/%E2%80%A8", "/whole/%E2%80%8B", "/whole/%ED%A0%80", "/whole/%EF%BF%BF",
    ],
)  # fmt: skip
def test_a_name_that_can_be_read_in_two_ways_is_refused(path: str) -> None:
    assert refusal("GET", path) is Reason.PATH_INVALID


# Hosts.


@pytest.mark.parametrize("host", [HOST, HOST.upper(), f"{HOST}:9000", f"{HOST}.:80"])
def test_in_path_style_the_first_segment_is_the_bucket(host: str) -> None:
    assert judged("GET", IMAGE, host=host) == (READ, "line-images")


@pytest.mark.parametrize("host", ["datasets." + HOST, f"DATASETS.{HOST}:9000"])
def test_in_virtual_host_style_the_host_names_the_bucket(host: str) -> None:
    assert judged("GET", "/line-images/a.png", host=host) == (READ, "line-images")


def test_in_virtual_host_style_the_path_names_no_bucket() -> None:
    assert refusal("GET", IMAGE, host=f"elsewhere.{HOST}") is Reason.OPERATION_UNKNOWN


def test_in_virtual_host_style_the_root_is_the_bucket() -> None:
    listing = judged("GET", "/?list-type=2", host=f"whole.{HOST}")
    assert listing == (READ, "whole")
    assert judged("GET", "/a", host=f"whole.{HOST}") == (READ, "whole")


@pytest.mark.parametrize(
    "host",
    [
        "", "elsewhere.example", "example", "10.0.0.1", "factory.example",
        f"a.datasets.{HOST}", f"a..{HOST}", f".{HOST}", f"*.{HOST}", f"ab.{HOST}",
        f"a_b.{HOST}", f"-ab.{HOST}", f"ab-.{HOST}", f"{'a' * 64}.{HOST}",
        f"{HOST}, {HOST}", f"evil{HOST}", f"datasets.{HOST}.evil", f"whole/x.{HOST}",
        f"whole@{HOST}", f"whole%2E{HOST}", "data.\u212afactory.example",
        f"\u212ahole.{HOST}",
    ],
)  # fmt: skip
def test_a_host_that_the_policy_does_not_list_is_refused(host: str) -> None:
    """To the store its first label may be a bucket, whatever the route says."""
    assert refusal("GET", "/whole/a", host=host) is Reason.OPERATION_UNKNOWN


def test_a_host_that_may_or_may_not_name_a_bucket_is_refused() -> None:
    host = "both.other.example"
    assert refusal("GET", "/whole/a", host=host) is Reason.OPERATION_UNKNOWN


def test_without_hosts_in_the_policy_no_request_can_be_judged() -> None:
    reason = refusal("GET", "/whole/a", upstream="unlisted")
    assert reason is Reason.OPERATION_UNKNOWN


# Listings.


@pytest.mark.parametrize(
    "query",
    [
        "list-type=2&prefix=sound/2024/",
        "list-type=2&prefix=sound%2F2024%2F",
        "list-type=2&prefix=sound/2024/a",
        "list-type=2&prefix=sound/2024/a/b/",
        "prefix=sound/2024/&marker=x&max-keys=1&delimiter=%2F&encoding-type=url",
        "list-type=2&prefix=sound/2024/&start-after=x&fetch-owner=true",
        "list-type=2&prefix=sound/2024/&continuation-token=a%2Bb%3D&delimiter=/",
        "versions&prefix=sound/2024/&key-marker=x&version-id-marker=y",
        "versions=&prefix=sound/2024/",
        "uploads&prefix=sound/2024/&key-marker=a&upload-id-marker=b&max-uploads=9",
        "list-type=2&prefix=sound/2024/&x-id=ListObjectsV2",
    ],
)
@pytest.mark.parametrize("bucket", ["/datasets", "/datasets/"])
def test_a_listing_within_a_dataset_reads_it(bucket: str, query: str) -> None:
    assert judged("GET", f"{bucket}?{query}") == (READ, "sound")


@pytest.mark.parametrize(
    "query",
    [
        "", "list-type=2", "list-type=2&prefix=", "list-type=2&prefix", "prefix=sound",
        "prefix=sound/", "prefix=sound/2024", "prefix=sound/20", "prefix=sound/20240/",
        "prefix=s", "prefix=elsewhere/", "prefix=line-images",
        "versions&prefix=sound/", "versions", "uploads", "uploads&prefix=sound/2024",
        "list-type=2&delimiter=/",
    ],
)  # fmt: skip
def test_a_listing_that_would_disclose_more_than_a_dataset_is_unknown(
    query: str,
) -> None:
    assert refusal("GET", f"/datasets?{query}") is Reason.OPERATION_UNKNOWN


@pytest.mark.parametrize("prefix", ["", "a", "a/b/", "caf%C3%A9/", "a%20b"])
def test_a_dataset_that_is_a_whole_bucket_may_be_listed_as_a_whole(prefix: str) -> None:
    assert judged("GET", f"/whole?list-type=2&prefix={prefix}") == (READ, "whole")
    assert judged("GET", "/whole") == (READ, "whole")


@pytest.mark.parametrize(
    "query",
    ["prefix=line-images/", "prefix=line-images/p", "prefix=line-images/private"],
)
def test_a_listing_with_another_dataset_in_it_is_unknown(query: str) -> None:
    assert refusal("GET", f"/datasets?{query}") is Reason.OPERATION_UNKNOWN
    assert refusal("GET", "/nested?list-type=2") is Reason.OPERATION_UNKNOWN


def test_a_listing_beside_or_within_the_inner_dataset_is_known() -> None:
    path = "/datasets?list-type=2&prefix=line-images/"
    assert judged("GET", path + "q") == (READ, "line-images")
    assert judged("GET", path + "private/") == (READ, "private")


@pytest.mark.parametrize(
    "prefix",
    [
        "/sound/2024/", "sound//2024/", "sound/2024//", "sound/2024/../x",
        "sound/2024/..", "sound/2024/.", "./sound/2024/", "sound/2024/%2E%2E/",
        "sound/2024/a+b", "sound/2024/%00", "sound/2024/%2f", "sound/2024/%FF",
        "sound%5C2024/", "sound/2024/a%25", "sound/2024/%61", "sound/2024/?",
        "sound/2024/a,b", "sound/2024/a;b",
    ],
)  # fmt: skip
def test_a_prefix_that_can_be_read_in_two_ways_is_refused(prefix: str) -> None:
    path = f"/datasets?list-type=2&prefix={prefix}"
    assert refusal("GET", path) is Reason.PATH_INVALID


@pytest.mark.parametrize("query", ["", "?", "?list-type=2", "?prefix=whole/a"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT"])
def test_what_concerns_all_buckets_is_unknown(method: str, query: str) -> None:
    assert refusal(method, "/" + query) is Reason.OPERATION_UNKNOWN


# Buckets.


def test_asking_whether_a_bucket_is_there_reads_the_whole_of_it() -> None:
    assert judged("HEAD", "/whole") == (READ, "whole")
    assert refusal("HEAD", "/datasets") is Reason.OPERATION_UNKNOWN


@pytest.mark.parametrize("query", ["?delete", "?delete=", "?delete&x-id=D", ""])
def test_objects_named_in_the_body_may_be_any_of_the_bucket(query: str) -> None:
    assert judged("POST", f"/whole{query}") == (WRITE, "whole")
    assert refusal("POST", f"/datasets{query}") is Reason.OPERATION_UNKNOWN
    assert refusal("POST", f"/nested{query}") is Reason.OPERATION_UNKNOWN


def test_a_prefix_does_not_limit_what_a_body_names() -> None:
    path = "/datasets?delete&prefix=sound/2024/"
    assert refusal("POST", path) is Reason.OPERATION_UNKNOWN


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "MKCOL", "OPTIONS"])
def test_making_and_removing_a_bucket_is_unknown(method: str) -> None:
    assert refusal(method, "/whole") is Reason.OPERATION_UNKNOWN
    assert refusal(method, "/whole/") is Reason.OPERATION_UNKNOWN


SUB_RESOURCES = [
    "accelerate", "acl", "analytics", "attributes", "cors", "encryption",
    "intelligent-tiering", "inventory", "legal-hold", "lifecycle", "location",
    "logging", "metadataTable", "metrics", "notification", "object-lock",
    "ownershipControls", "policy", "policyStatus", "publicAccessBlock", "renameObject",
    "replication", "requestPayment", "restore", "retention", "select",
    "select&select-type=2", "session", "tagging", "torrent", "versioning", "website",
    "append&position=0", "events", "metadata=true", "lambdaArn=x", "x", "Prefix=a",
    "versionid=1", "x-amz-copy-source=whole%2Fa", "X-Amz-Copy-Source=whole%2Fa",
    "x-amz-acl=public-read", "X-Amz-Acl=public-read", "x-amz-grant-read=x",
    "x-amz-meta-snowball-auto-extract=true", "x-amz-tagging=a",
    "X-Amz-Signature=1&x-amz-copy-source=whole%2Fa",
]  # fmt: skip


@pytest.mark.parametrize("query", SUB_RESOURCES)
@pytest.mark.parametrize("path", ["/whole", "/whole/a"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "POST", "DELETE"])
def test_a_query_parameter_that_is_not_known_makes_the_request_unknown(
    method: str, path: str, query: str
) -> None:
    assert refusal(method, f"{path}?{query}") is Reason.OPERATION_UNKNOWN


# Objects with parameters.


@pytest.mark.parametrize(
    ("method", "query", "action"),
    [
        ("POST", "uploads", WRITE),
        ("POST", "uploads=&x-id=CreateMultipartUpload", WRITE),
        ("PUT", "partNumber=1&uploadId=2~x.Y_z-1", WRITE),
        ("PUT", "uploadId=u&partNumber=10000&x-id=UploadPart", WRITE),
        ("PUT", "x-id=PutObject", WRITE),
        ("POST", "uploadId=u", WRITE),
        ("DELETE", "uploadId=u", WRITE),
        ("DELETE", "versionId=null", WRITE),
        ("GET", "uploadId=u&max-parts=9&part-number-marker=3&encoding-type=url", READ),
        ("GET", "versionId=3sL4kqtJlcpXroDTDmJ.rmSpXd3dIbrHY-MTRCxf3vjVBH40Nr8X", READ),
        ("GET", "partNumber=2&versionId=v", READ),
        ("HEAD", "partNumber=2&versionId=v", READ),
        (
            "GET",
            "response-content-disposition=attachment%3B%20filename%3D%22a%22",
            READ,
        ),
        (
            "GET",
            "response-content-language=de&response-content-type=image%2fpng",
            READ,
        ),
        ("GET", "response-cache-control=no-cache&response-expires=0", READ),
        ("GET", "response-content-encoding=gzip", READ),
        ("GET", "", READ),
    ],
)
def test_a_request_on_an_object_is_told_by_its_parameters(
    method: str, query: str, action: Action
) -> None:
    assert judged(method, f"{IMAGE}?{query}") == (action, "line-images")


@pytest.mark.parametrize(
    ("method", "query"),
    [
        ("GET", "uploads"),
        ("GET", "uploadId=u&versionId=v"),
        ("GET", "prefix=a"),
        ("GET", "list-type=2"),
        ("GET", "delete"),
        ("HEAD", "uploadId=u"),
        ("PUT", "uploadId=u"),
        ("PUT", "partNumber=1"),
        ("PUT", "versionId=v"),
        ("PUT", "uploads"),
        ("PATCH", "uploadId=u"),
        ("POST", "uploads&uploadId=u"),
        ("POST", "delete"),
        ("DELETE", "uploads"),
        ("DELETE", "uploadId=u&versionId=v"),
        ("DELETE", "response-expires=0"),
        ("POST", "x-id=PutObject"),
    ],
)
def test_parameters_that_make_no_request_together_are_unknown(
    method: str, query: str
) -> None:
    assert refusal(method, f"/whole/a?{query}") is Reason.OPERATION_UNKNOWN


@pytest.mark.parametrize(
    "query",
    [
        "&", "versionId=1&", "&versionId=1", "versionId=1&&partNumber=1", "=1",
        "versionId=1&versionId=1", "versionId=1&versionId=2", "uploads&uploads=",
        "version%49d=1", "version Id=1", "versionId=1;uploads", "x-id=a;b",
        "versionId=", "versionId", "versionId=..", "versionId=a/../b",
        "versionId=a%2Fb",
        "versionId=.", "versionId=a..b", "uploadId=../x", "uploadId=%00",
        "partNumber=x", "partNumber=", "partNumber=123456", "partNumber=-1",
        "uploads=1", "delete=1", "versions=x", "list-type=1", "list-type=02",
        "response-expires=%0D%0Ax", "response-expires=%00", "response-expires=%7F",
        "response-expires=%7f", "response-expires=%", "response-expires=%g1",
        "response-expires=a#b", "response-expires=a\\b", "response-expires=\u00e9",
        "response-expires=a b",
    ],
)  # fmt: skip
def test_a_query_that_can_be_read_in_two_ways_is_refused(query: str) -> None:
    assert refusal("GET", f"/whole/a?{query}") is Reason.PATH_INVALID


PRESIGNED = (
    "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIA%2F20240101%2Fus-east-1%2Fs3"
    "%2Faws4_request&X-Amz-Date=20240101T000000Z&X-Amz-Expires=60"
    "&X-Amz-SignedHeaders=host%3Bx-amz-date&X-Amz-Signature=0a1b"
    "&X-Amz-Security-Token=a%2Bb%3D&X-Amz-Content-Sha256=UNSIGNED-PAYLOAD"
)


def test_a_presigned_request_is_judged_like_any_other() -> None:
    assert judged("GET", f"{IMAGE}?{PRESIGNED}") == (READ, "line-images")
    assert judged("PUT", f"{IMAGE}?{PRESIGNED}") == (WRITE, "line-images")
    listing = f"/datasets?{PRESIGNED}&list-type=2&prefix=sound%2F2024%2F"
    assert judged("GET", listing) == (READ, "sound")
    for more in ("acl", "x-amz-acl=public-read", "x-amz-copy-source=whole%2Fa"):
        refused = refusal("PUT", f"{IMAGE}?{PRESIGNED}&{more}")
        assert refused is Reason.OPERATION_UNKNOWN


def test_the_old_form_of_presigning_is_known_too() -> None:
    query = "AWSAccessKeyId=AKIA&Signature=a%2Bb%3D&Expires=1&x-amz-security-token=t"
    assert judged("GET", f"{IMAGE}?{query}") == (READ, "line-images")


# Copies.


@pytest.mark.parametrize(
    "source",
    [
        "datasets/sound/2024/a.wav",
        "/datasets/sound/2024/a.wav",
        "/datasets/sound/2024/a%20b.wav",
        "datasets%2Fsound%2F2024%2Fa.wav",
        "/datasets/sound/2024/a.wav?versionId=v.1",
        "datasets/sound/2024",
    ],
)
@pytest.mark.parametrize("query", ["", "?x-id=CopyObject", "?partNumber=1&uploadId=u"])
def test_a_copy_writes_its_target_and_reads_its_source(source: str, query: str) -> None:
    assert copy(source, IMAGE + query) == Operation(
        Call(WRITE, Scope.DATASET),
        "data",
        "line-images",
        Operation(Call(READ, Scope.DATASET), "data", "sound"),
    )


def test_a_copy_within_one_dataset_reads_it_too() -> None:
    also = copy("datasets/line-images/b.png").also
    assert also is not None
    assert (also.call.action, also.dataset) == (READ, "line-images")


def test_the_source_of_a_copy_names_its_bucket_in_virtual_host_style_too() -> None:
    got = operation(
        "PUT",
        "/line-images/a.png",
        host=f"datasets.{HOST}",
        headers={"x-amz-copy-source": "/whole/a"},
    )
    assert got.dataset == "line-images"
    assert got.also is not None
    assert got.also.dataset == "whole"


@pytest.mark.parametrize(
    "source",
    ["secret/a", "/datasets/secret/a", "datasets/line-images-of-others/a",
     "datasets/sound/a", "nested",
     "arn:aws:s3:us-east-1:123456789012:accesspoint/ap/object/whole/a",
     "arn%3Aaws%3As3%3Aus-east-1%3A123456789012%3Aaccesspoint%2Fap%2Fobject%2Fa",
     "/arn:aws:s3:::whole/a", "line-images.data/a"],
)  # fmt: skip
def test_a_copy_from_outside_every_dataset_is_refused(source: str) -> None:
    with pytest.raises(RequestError):
        copy(source)


@pytest.mark.parametrize(
    "source",
    [
        "", "/", "whole", "/whole", "/whole/", "whole/", "//whole/a", "whole//a",
        "/whole/../secret/a", "whole/..", "whole/%2E%2E/secret/a", "whole/a+b",
        "whole/a,/secret/b", "whole/a, whole/b", "whole/a b", "whole/a%2fb",
        "whole/a%00", "whole/a%25", "whole\\a", "whole/a#b", "%2Fwhole%2Fa",
        "whole/a?", "whole/a?versionId", "whole/a?versionId=", "whole/a?versionid=1",
        "whole/a?versionId=1&x=2", "whole/a?x=1", "whole/a?versionId=1?versionId=2",
        "whole/a%3FversionId=1", "whole/a?versionId=../b", "http://h/whole/a",
    ],
)  # fmt: skip
def test_a_copy_source_that_is_not_one_clear_object_is_refused(source: str) -> None:
    with pytest.raises(RequestError) as caught:
        copy(source)
    assert caught.value.reason is Reason.PATH_INVALID


def test_two_copy_sources_are_refused() -> None:
    headers = [("x-amz-copy-source", b"whole/a"), ("x-amz-copy-source", b"whole/a")]
    assert refusal("PUT", IMAGE, raw_headers=headers) is Reason.HEADER_DUPLICATE


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", IMAGE),
        ("DELETE", IMAGE),
        ("PATCH", IMAGE),
        ("POST", IMAGE + "?uploads"),
        ("POST", "/whole?delete"),
        ("GET", "/whole"),
    ],
)
def test_only_an_object_that_is_put_can_be_a_copy(method: str, path: str) -> None:
    with pytest.raises(RequestError):
        copy("whole/a", path, method)


# Headers that change what a request does.


@pytest.mark.parametrize(
    "name", sorted(set(SIGNALS) - {"x-amz-copy-source", "x-amz-acl"})
)
@pytest.mark.parametrize("value", ["", "true", "whole/a"])
def test_a_header_that_asks_for_more_is_refused(name: str, value: str) -> None:
    reason = refusal("PUT", IMAGE, headers={name: value})
    assert reason is Reason.OPERATION_UNKNOWN


def test_an_object_may_be_put_as_private_and_no_other_way() -> None:
    private = operation("PUT", IMAGE, headers={"x-amz-acl": "private"})
    assert private.dataset == "line-images"
    for acl in ("public-read", "authenticated-read", "", "private,public-read"):
        refused = refusal("PUT", IMAGE, headers={"x-amz-acl": acl})
        assert refused is Reason.OPERATION_UNKNOWN


def test_headers_that_change_nothing_are_not_looked_at() -> None:
    headers = {
        "authorization": "AWS4-HMAC-SHA256 x",
        "x-amz-content-sha256": "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
        "x-amz-decoded-content-length": "5",
        "content-encoding": "aws-chunked",
        "x-amz-meta-line": "1",
        "x-amz-copy-source-if-match": "x",
    }
    assert operation("PUT", IMAGE, headers=headers) == operation("PUT", IMAGE)
