import dataclasses
from pathlib import Path

import pytest

from authz_server.config import Config, environment_name, load_config, settings
from authz_server.errors import ConfigError

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "configuration.md"

DEFAULTS = {
    "listen.address": "unix:///run/authz-server/check.sock",
    "listen.transport": "auto",
    "listen.threads": 1,
    "listen.socket_mode": "0660",
    "listen.peer_uids": (),
    "listen.peer_gids": (),
    "listen.metrics": "",
    "listen.tls.proxies": (),
    "listen.tls.certificate": "",
    "listen.tls.key": "",
    "listen.tls.client_ca": "",
    "policy.file": "",
    "policy.form": "access",
    "policy.reads": (),
    "policy.bundle": "",
    "policy.reload_interval_s": 1.0,
    "policy.instances": 2,
    "policy.shadow": "",
    "policy.shadow_bundle": "",
    "policy.shadow_report": "",
    "distribution.url": "",
    "distribution.name": "authz",
    "distribution.keys": {},
    "distribution.scope": "",
    "distribution.unsigned": False,
    "distribution.token": "",
    "distribution.web_ca": "",
    "distribution.poll_s": 60.0,
    "distribution.wait_s": 0.0,
    "distribution.timeout_s": 30.0,
    "distribution.max_bytes": 33_554_432,
    "distribution.keep": "",
    "distribution.max_age_s": 0.0,
    "distribution.s3_endpoint": "",
    "distribution.s3_region": "us-east-1",
    "distribution.status_url": "",
    "distribution.labels": {},
    "identity.chain": "bundle",
    "identity.bundles": {},
    "identity.bundle_map": "",
    "identity.workload_api": "",
    "identity.max_bundle_age_s": 0.0,
    "identity.revocations": "",
    "identity.require_certificate": True,
    "identity.xfcc": "none",
    "identity.hops": (),
    "identity.max_token_lifetime_s": 86_400.0,
    "identity.federation.endpoints": {},
    "identity.federation.spiffe_ids": {},
    "identity.federation.web_ca": "",
    "identity.jwt_svid.audience": (),
    "identity.jwt_svid.header": "authorization",
    "identity.jwt_svid.without_certificate": False,
    "identity.users.issuers": {},
    "identity.users.audience": (),
    "identity.users.claims": (),
    "identity.users.header": "authorization",
    "identity.users.payload_in_metadata": "",
    "identity.users.web_ca": "",
    "identity.users.max_key_age_s": 86_400.0,
    "inputs.headers": (),
    "inputs.trust_host": False,
    "cache.max_entries": 100_000,
    "cache.max_bytes": 134_217_728,
    "cache.ttl_s": 60.0,
    "limits.deadline_s": 0.25,
    "limits.max_pending": 256,
    "limits.workers": 2,
    "limits.max_message_bytes": 8_388_608,
    "limits.drain_s": 5.0,
    "audit.file": "-",
    "triton.access_secret": "",
    "triton.access_header": "triton-access-token",
    "triton.principal_header": "",
    "log_level": "info",
}


def value_of(config: object, name: str) -> object:
    for part in name.split("."):
        config = getattr(config, part)
    return config


def load(text: str = "policy: {file: p.yaml}", **flags: str) -> Config:
    environment: dict[str, str] = {}
    return _load(text, environment, flags)


def _load(text: str, environment: dict[str, str], flags: dict[str, str]) -> Config:
    import tempfile

    environment = {"AUTHZ_SERVER_IDENTITY_CHAIN": "proxy", **environment}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.yaml"
        file.write_text(text, encoding="utf-8")
        return load_config(file, environment, flags)


def problems(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(text)
    return "\n".join(caught.value.problems)


def test_the_defaults_are_these() -> None:
    assert {name: value_of(Config(), name) for name, _ in settings()} == DEFAULTS


def test_the_documentation_lists_every_setting() -> None:
    text = DOCUMENTATION.read_text(encoding="utf-8")
    for name in DEFAULTS:
        assert f"`{name}`" in text, name


def test_file_environment_and_flags_win_in_this_order() -> None:
    text = "policy: {file: a, bundle: a, instances: 3}"
    config = _load(
        text,
        {"AUTHZ_SERVER_POLICY_FILE": "b", "AUTHZ_SERVER_POLICY_BUNDLE": "b"},
        {"policy.file": "c"},
    )
    assert config.policy.file == "c"
    assert config.policy.bundle == "b"
    assert config.policy.instances == 3


def test_text_is_read_as_the_settings_own_type() -> None:
    config = _load(
        "{}",
        {
            environment_name("policy.file"): "1",
            environment_name("inputs.headers"): "[x-a, x-b]",
            environment_name("inputs.trust_host"): "true",
            environment_name("listen.socket_mode"): "0600",
            environment_name("limits.deadline_s"): "1",
        },
        {},
    )
    assert config.policy.file == "1"
    assert config.inputs.headers == ("x-a", "x-b")
    assert config.inputs.trust_host is True
    assert config.listen.socket_mode == "0600"
    assert config.limits.deadline_s == 1.0


def test_one_header_needs_no_list() -> None:
    text = "{policy: {file: p}, inputs: {headers: x-a}}"
    assert load(text).inputs.headers == ("x-a",)


def test_without_a_file_the_environment_is_enough() -> None:
    bundles = "{td: b.pem}"
    config = load_config(
        None,
        {
            "AUTHZ_SERVER_POLICY_FILE": "p",
            "AUTHZ_SERVER_IDENTITY_BUNDLES": bundles,
        },
        {},
    )
    assert config.policy.file == "p"
    assert config.identity.bundles == {"td": "b.pem"}


def test_other_variables_are_none_of_ours() -> None:
    config = load_config(
        None,
        {"AUTHZ_SERVER_POLICY_FILE": "p", "AUTHZ_SERVER_CACHE": "/x"},
        {"identity.chain": "proxy"},
    )
    assert config.cache == Config().cache


def test_the_configuration_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        load().policy.file = "x"  # type: ignore[misc]


def bundled(identity: str) -> str:
    return f"{{policy: {{file: p}}, identity: {{{identity}}}}}"


BAD_IDENTITY = {
    "identity.chain: expected one of": "chain: maybe",
    "identity.bundles: missing": "chain: bundle",
    "identity.bundles: expected a mapping": "bundles: [a]",
    "identity.bundles: expected a mapping of strings, got {1": "bundles: {1: a}",
    "identity.bundles: trust domain 'TD'": "bundles: {TD: a}",
    "identity.max_bundle_age_s: must not be negative": (
        "bundles: {td: a}, max_bundle_age_s: -1"
    ),
    "identity.require_certificate: without a certificate": (
        "bundles: {td: a}, require_certificate: false"
    ),
    "identity.bundle_map: excludes workload_api": (
        "bundle_map: m, workload_api: 'unix:///s'"
    ),
    "identity.workload_api: expected unix:///absolute/path": "workload_api: /s",
    "identity.jwt_svid: a JWT-SVID is verified": (
        "chain: proxy, jwt_svid: {audience: a}"
    ),
    "identity.jwt_svid.audience: missing": (
        "bundles: {td: a}, jwt_svid: {without_certificate: true}"
    ),
    "identity.jwt_svid.audience: an empty name": (
        "bundles: {td: a}, jwt_svid: {audience: ['']}"
    ),
    "identity.jwt_svid.header: 'X'": "bundles: {td: a}, jwt_svid: {header: X}",
    "x-forwarded-client-cert carries no tokens": (
        "bundles: {td: a}, users: {header: x-forwarded-client-cert}"
    ),
    "identity.federation.endpoints: trust domain 'TD'": (
        "federation: {endpoints: {TD: 'https://a'}}"
    ),
    "identity.federation.endpoints: td: 'http://a' is no": (
        "federation: {endpoints: {td: 'http://a'}}"
    ),
    "identity.federation.endpoints: td: Port": (
        "federation: {endpoints: {td: 'https://a:x'}}"
    ),
    "td: a URL must not hold a password": (
        "federation: {endpoints: {td: 'https://u:p@a'}}"
    ),
    "identity.federation.spiffe_ids: td has no endpoint": (
        "bundles: {td: a}, federation: {spiffe_ids: {td: 'spiffe://td/x'}}"
    ),
    "identity.federation.spiffe_ids: td: SPIFFE ID names": (
        "federation: {endpoints: {td: 'https://a'}, spiffe_ids: {td: 'spiffe://td'}}"
    ),
    "identity.xfcc: expected one of none, proxy": "bundles: {td: a}, xfcc: all",
    "identity.hops: missing": "bundles: {td: a}, xfcc: hop",
    "identity.hops: 'x': SPIFFE ID": "bundles: {td: a}, xfcc: hop, hops: x",
    "identity.hops: nothing tells": "bundles: {td: a}, hops: 'spiffe://td/gw'",
    "identity.xfcc: a waypoint sends no": "bundles: {td: a}, xfcc: waypoint",
    "identity.users.audience: missing": (
        "bundles: {td: a}, users: {issuers: {i: /keys}}"
    ),
    "identity.users.issuers: i: expected an absolute path": (
        "bundles: {td: a}, users: {audience: a, issuers: {i: keys}}"
    ),
    "payload_in_metadata: missing; Envoy verifies i": (
        "bundles: {td: a}, users: {audience: a, issuers: {i: envoy}}"
    ),
    "payload_in_metadata: no issuer is set": (
        "bundles: {td: a}, users: {payload_in_metadata: p}"
    ),
    "identity.users.max_key_age_s: must not": (
        "bundles: {td: a}, users: {max_key_age_s: -1}"
    ),
    "identity.max_token_lifetime_s: must be more": (
        "bundles: {td: a}, max_token_lifetime_s: 0"
    ),
}


@pytest.mark.parametrize(
    ("message", "text"), BAD_IDENTITY.items(), ids=BAD_IDENTITY.keys()
)
def test_a_bad_identity_setting_is_named_with_its_mend(
    message: str, text: str, tmp_path: Path
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(bundled(text))
    with pytest.raises(ConfigError) as caught:
        load_config(file, {}, {})
    assert message in "\n".join(caught.value.problems)


BAD = {
    "policy.file: missing": "{}",
    "policiy: unknown setting; known here: audit": "policiy: {}",
    "listen.tsl: unknown setting; known here: address": "listen: {tsl: {}}",
    "policy: expected a mapping": "{policy: x}",
    "file: expected a mapping": "[]",
    "not YAML": "{",
    "a key comes twice": "{log_level: info, log_level: debug}",
    "policy.file: expected a string, got 1; put it in quotes": "policy: {file: 1}",
    "policy.instances: expected a whole number": "policy: {file: p, instances: x}",
    "policy.instances: expected a whole number, got True": (
        "policy: {file: p, instances: true}"
    ),
    "policy.instances: must be more than 0": "policy: {file: p, instances: 0}",
    "cache.ttl_s: must not be negative": "{policy: {file: p}, cache: {ttl_s: -1}}",
    "limits.deadline_s: must be more than 0": (
        "{policy: {file: p}, limits: {deadline_s: .nan}}"
    ),
    "inputs.trust_host: expected true or false": (
        "{policy: {file: p}, inputs: {trust_host: 1}}"
    ),
    "inputs.headers: expected a list": "{policy: {file: p}, inputs: {headers: 1}}",
    "inputs.headers: 'X-A'": "{policy: {file: p}, inputs: {headers: [X-A]}}",
    "inputs.headers: authorization carries tokens": (
        "{policy: {file: p}, inputs: {headers: [authorization]}}"
    ),
    "log_level: expected one of": "{policy: {file: p}, log_level: loud}",
    'expected octal digits such as "0660"': (
        '{policy: {file: p}, listen: {socket_mode: "0888"}}'
    ),
    "lets everybody on this machine ask": (
        '{policy: {file: p}, listen: {socket_mode: "0666"}}'
    ),
    "listen.address: 'x' is neither": "{policy: {file: p}, listen: {address: x}}",
    "plaintext beyond loopback": (
        '{policy: {file: p}, listen: {address: "tcp://0.0.0.0:9191"}}'
    ),
    "listen.tls.key: missing": (
        '{policy: {file: p}, listen: {address: "tcp://0.0.0.0:1", '
        "tls: {certificate: c}}}"
    ),
    "listen.tls.proxies: missing": (
        '{policy: {file: p}, listen: {address: "tcp://0.0.0.0:1", '
        "tls: {certificate: c, key: k, client_ca: a}}}"
    ),
    "listen.peer_uids: expected a list of whole": (
        "{policy: {file: p}, listen: {peer_uids: envoy}}"
    ),
    "only a unix socket tells who connects": (
        '{policy: {file: p}, listen: {address: "tcp://127.0.0.1:1", peer_uids: 1}}'
    ),
    "listen.metrics: 'x' is neither": "{policy: {file: p}, listen: {metrics: x}}",
    "listen.metrics: expected tcp": (
        "{policy: {file: p}, listen: {metrics: 'unix:///m'}}"
    ),
    "listen.tls: is for TCP": (
        "{policy: {file: p}, listen: {tls: {certificate: c, key: k, client_ca: a, "
        'proxies: ["spiffe://td/a"]}}}'
    ),
    "triton.access_header: 'X'": "{policy: {file: p}, triton: {access_header: X}}",
    "triton.access_header: '' is not": (
        "{policy: {file: p}, triton: {access_header: ''}}"
    ),
    "triton.principal_header: ':path'": (
        "{policy: {file: p}, triton: {principal_header: ':path'}}"
    ),
    "triton.principal_header: host already means": (
        "{policy: {file: p}, triton: {principal_header: host}}"
    ),
    "triton.principal_header: is access_header too": (
        "{policy: {file: p}, triton: {principal_header: a, access_header: a}}"
    ),
    "policy.shadow: set policy.shadow_report": "{policy: {file: p, shadow: q}}",
    "policy.shadow_report: are for policy.shadow": (
        "{policy: {file: p, shadow_report: r}}"
    ),
    "listen.tls.proxies: 'x'": (
        '{policy: {file: p}, listen: {address: "tcp://0.0.0.0:1", '
        "tls: {certificate: c, key: k, client_ca: a, proxies: [x]}}}"
    ),
}


@pytest.mark.parametrize(("message", "text"), BAD.items(), ids=BAD.keys())
def test_a_bad_setting_is_named_with_its_mend(message: str, text: str) -> None:
    assert message in problems(text)


def test_every_problem_is_reported_at_once() -> None:
    found = problems("{policy: {file: 1, instances: x}, nonsense: 1}")
    assert "policy.file" in found
    assert "policy.instances" in found
    assert "nonsense" in found


def test_a_bad_variable_is_named() -> None:
    with pytest.raises(ConfigError, match="AUTHZ_SERVER_POLICY_INSTANCES"):
        load_config(None, {"AUTHZ_SERVER_POLICY_INSTANCES": "x"}, {})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.yaml: cannot be read"):
        load_config(tmp_path / "gone.yaml", {}, {})


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:0", "tcp://[::1]:9191"])
def test_plaintext_on_loopback_is_allowed(address: str) -> None:
    text = f'{{policy: {{file: p}}, listen: {{address: "{address}"}}}}'
    assert load(text).listen.address == address


def test_mutual_tls_beyond_loopback_is_allowed() -> None:
    text = (
        '{policy: {file: p}, listen: {address: "tcp://0.0.0.0:9191", tls: '
        "{certificate: c, key: k, client_ca: a, proxies: ['spiffe://td/a']}}}"
    )
    assert load(text).listen.tls.proxies == ("spiffe://td/a",)


def test_the_workload_api_gives_the_certificate_where_no_file_does() -> None:
    text = (
        '{policy: {file: p}, listen: {address: "tcp://0.0.0.0:9191", tls: '
        "{proxies: ['spiffe://td/a']}}, identity: {workload_api: 'unix:///s'}}"
    )
    assert not load(text).listen.tls.has_files


def test_the_standard_variable_names_the_workload_api_unless_a_setting_does() -> None:
    standard = {"SPIFFE_ENDPOINT_SOCKET": "unix:///standard"}
    text = "policy: {file: p}"
    assert _load(text, standard, {}).identity.workload_api == "unix:///standard"
    own = "{policy: {file: p}, identity: {workload_api: 'unix:///own'}}"
    assert _load(own, standard, {}).identity.workload_api == "unix:///own"


def test_numbers_may_come_as_a_list_or_alone() -> None:
    one = "{policy: {file: p}, listen: {peer_uids: 1337, peer_gids: [1, 2]}}"
    assert load(one).listen.peer_uids == (1337,)
    assert load(one).listen.peer_gids == (1, 2)


def test_waypoints_and_users_of_envoy_are_possible() -> None:
    text = (
        "{policy: {file: p}, identity: {chain: proxy, require_certificate: false, "
        "xfcc: waypoint, users: {audience: a, issuers: {i: envoy, j: 'https://j/k'}, "
        "payload_in_metadata: jwt}}}"
    )
    assert load(text).identity.users.issuers == {"i": "envoy", "j": "https://j/k"}


def distributed(distribution: str, policy: str = "") -> str:
    return (
        f"{{policy: {{{policy}}}, distribution: {{{distribution}}}, "
        "identity: {chain: proxy, require_certificate: false}}"
    )


BAD_DISTRIBUTION = {
    "policy.file: missing; name the AccessPolicy file, or set distribution.url": "",
    "distribution: is for distribution.url": "keep: k",
    "distribution.keys: name the keys": "url: 'https://a/b'",
    "distribution.unsigned: excludes": (
        "url: 'https://a/b', keys: {k: p}, unsigned: true"
    ),
    "distribution.scope: is for distribution.keys": "url: /b, scope: s",
    "distribution.url: over plain http:// anybody": "url: 'http://a/b', unsigned: true",
    "distribution.url: over plain http:// anybody on": (
        "url: 'http://127.0.0.1.example/b', unsigned: true"
    ),
    "distribution.url: over plain http:// anybody on the": (
        "url: 'http://127.0.0.1@a/b', unsigned: true"
    ),
    "distribution.url: over plain http:// anybody on the way": (
        "url: 's3://a/b', s3_endpoint: 'http://a', unsigned: true"
    ),
    "distribution.url: expected https://": "url: 'ftp://a/b', keys: {k: p}",
    "distribution.url: expected https://, http": "url: 'HTTP://a/b', keys: {k: p}",
    "distribution.url: expected s3://bucket/key": "url: 's3://a', keys: {k: p}",
    "distribution.s3_endpoint: is for s3://": (
        "url: 'https://a/b', keys: {k: p}, s3_endpoint: 'https://c'"
    ),
    "distribution.url: the token would go over": (
        "url: 'http://a/b', keys: {k: p}, token: t"
    ),
    "distribution.status_url: the token would go over": (
        "url: 'https://a/b', keys: {k: p}, token: t, status_url: 'http://a/s'"
    ),
    "distribution.poll_s: must be more": "url: /b, poll_s: 0",
    "distribution.timeout_s: must be more": "url: /b, timeout_s: 0",
    "distribution.max_bytes: must be more": "url: /b, max_bytes: 0",
    "distribution.wait_s: must not be negative": "url: /b, wait_s: -1",
    "distribution.max_age_s: must not be negative": "url: /b, max_age_s: -1",
    "distribution.keys: expected a mapping": "url: /b, keys: [k]",
}


@pytest.mark.parametrize(
    ("message", "text"), BAD_DISTRIBUTION.items(), ids=BAD_DISTRIBUTION.keys()
)
def test_a_bad_distribution_is_named_with_its_mend(message: str, text: str) -> None:
    assert message in problems(distributed(text))


def test_a_policy_comes_from_one_place() -> None:
    found = problems(distributed("url: /b", "file: p"))
    assert "policy.file: the policy comes from distribution.url already" in found


@pytest.mark.parametrize(
    "text",
    [
        "url: 'https://a/b', keys: {k: p}, scope: s, token: t",
        "url: 'https://a/b', unsigned: true, token: t",
        "url: 'http://a/b', keys: {k: p}, status_url: 'http://a/s'",
        "url: 'http://127.0.0.1:8080/b', unsigned: true, token: t",
        "url: 'http://[::1]/b', unsigned: true",
        "url: 'http://localhost/b', unsigned: true",
        "url: 's3://a/b', keys: {k: p}",
        "url: 's3://a/b', unsigned: true, s3_endpoint: 'https://c'",
        "url: /b",
        "url: b.tar.gz, keys: {k: p}",
    ],
)
def test_bundles_may_come_like_this(text: str) -> None:
    assert load(distributed(text)).distribution.url
