"""Requests to an S3-compatible object store, signed by AWS Signature Version 4.

Credentials come from wherever AWS's own tools find them: the environment, a profile, a
web identity, the machine's role.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Mapping

from authz_server.errors import ConfigError, FetchError
from authz_server.policy.bundles.source import Headers


def object_url(location: str, endpoint: str, region: str) -> str:
    """Return the URL of the object at ``s3://bucket/key``.

    Args:
        endpoint: of another store than AWS's, which then has the bucket in its path.

    Raises:
        ValueError: if `location` names no object.
    """
    bucket, _, key = location.removeprefix("s3://").partition("/")
    if not bucket or not key:
        raise ValueError("expected s3://bucket/key")
    path = urllib.parse.quote(key, safe="/~")
    if endpoint:
        return f"{endpoint.rstrip('/')}/{bucket}/{path}"
    return f"https://{bucket}.s3.{region}.amazonaws.com/{path}"


def signing_headers(url: str, region: str) -> Headers:
    """Return what signs each request for `url`.

    Raises:
        ConfigError: if the library for it is not installed.
    """
    try:
        from botocore.auth import S3SigV4Auth  # noqa: PLC0415 - optional
        from botocore.awsrequest import AWSRequest  # noqa: PLC0415
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415
        from botocore.session import Session  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(
            ["distribution.url: s3:// needs the extra: pip install 'authz-server[s3]'"]
        ) from error
    session = Session()

    def headers() -> Mapping[str, str]:
        request = AWSRequest(method="GET", url=url)
        try:
            credentials = session.get_credentials()
            if credentials is not None:
                # Which gets new ones, where those of a role have expired.
                S3SigV4Auth(credentials, "s3", region).add_auth(request)
        except (BotoCoreError, ClientError) as error:
            raise FetchError(f"no credentials for the object store: {error}") from error
        if credentials is None:
            raise FetchError(
                "no credentials for the object store; set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or a profile"
            )
        return dict(request.headers.items())

    return headers
