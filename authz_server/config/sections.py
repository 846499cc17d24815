"""Every setting, its default and what it means."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Tls:
    """Mutual TLS of the listener, on when `proxies` are listed."""

    proxies: tuple[str, ...] = ()
    """SPIFFE IDs of the proxies that may ask. Nobody else gets an answer."""
    certificate: str = ""
    """PEM file: our certificate, followed by its intermediates. Watched. Without files
    certificate, key and CAs come from the Workload API."""
    key: str = ""
    """PEM file: the private key."""
    client_ca: str = ""
    """PEM file: CAs that proxies' certificates must chain to."""

    @property
    def is_set(self) -> bool:
        """Whether TLS is configured."""
        return bool(self.proxies) or self.has_files

    @property
    def has_files(self) -> bool:
        """Whether any file is configured."""
        return bool(self.certificate or self.key or self.client_ca)


@dataclass(frozen=True, slots=True)
class Listen:
    """Where proxies ask."""

    address: str = "unix:///run/authz-server/check.sock"
    """``unix:///absolute/path`` or ``tcp://host:port``; plain TCP on loopback only."""
    transport: str = "auto"
    """``native`` answers what is remembered without Python; ``grpc`` is grpcio, and has
    TLS. ``auto`` is native where there is no TLS."""
    threads: int = 1
    """Threads that read and write, of the native transport."""
    socket_mode: str = "0660"
    """Octal permissions of the unix socket: who may ask at all."""
    peer_uids: tuple[int, ...] = ()
    """Users whose processes may ask over the unix socket; empty for no such list."""
    peer_gids: tuple[int, ...] = ()
    """Groups, by the primary group of the process, that may ask beside them."""
    metrics: str = ""
    """``tcp://host:port`` for Prometheus to scrape; empty for none."""
    tls: Tls = field(default_factory=Tls)


@dataclass(frozen=True, slots=True)
class Policy:
    """What is allowed."""

    form: str = "access"
    """``access`` for an AccessPolicy; ``opa-envoy`` for Rego that is written for
    opa-envoy-plugin."""
    reads: tuple[str, ...] = ()
    """Of such Rego that was not built here: which parts of its input it reads. It gets
    to see no others."""
    file: str = ""
    """The AccessPolicy, or the folder of its parts. Watched: a good change is in force
    within seconds."""
    bundle: str = ""
    """An own policy from ``authz-server policy build``; empty for the shipped one."""
    reload_interval_s: float = 1.0
    """Seconds between looks at the file."""
    instances: int = 2
    """Instances of the Wasm module, hence evaluations at the same time."""
    shadow: str = ""
    """A candidate AccessPolicy, asked beside the one in force; empty for none."""
    shadow_bundle: str = ""
    """The candidate's own Rego; empty for what ``bundle`` says."""
    shadow_report: str = ""
    """File to which the differences are appended."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """Where the policy comes from, if not from a file of this machine: OPA bundles."""

    url: str = ""
    """``https://…``, ``http://…``, ``s3://bucket/key``, or the path of a file; empty
    for none."""
    name: str = "authz"
    """What the bundle is called in status reports."""
    keys: dict[str, str] = field(default_factory=dict)
    """PEM file of a public key by key ID: whose bundles are taken. Read anew for every
    bundle."""
    scope: str = ""
    """What a signature has to be for; empty if it must not say."""
    unsigned: bool = False
    """Take bundles that nobody signed, deltas too, from whoever is at ``url``."""
    token: str = ""
    """File with a bearer token for the server; read anew for every request."""
    web_ca: str = ""
    """PEM file with CAs of the server; empty for the system's own."""
    poll_s: float = 60.0
    """Seconds between polls."""
    wait_s: float = 0.0
    """Seconds for which the server may hold a request open (long polling); 0 for not
    at all."""
    timeout_s: float = 30.0
    """Seconds for one answer. What has come by then is not lost."""
    max_bytes: int = 32 * 1024 * 1024
    """Largest bundle."""
    keep: str = ""
    """Folder where the last good bundle is kept for a start without the link; empty
    for nowhere."""
    max_age_s: float = 0.0
    """Seconds since a policy was last known to be the newest until it is too old, and
    everything is denied; 0 for never."""
    s3_endpoint: str = ""
    """URL of an object store other than AWS's."""
    s3_region: str = "us-east-1"
    """Region of the bucket."""
    status_url: str = ""
    """Where OPA status reports are posted; empty for nowhere."""
    labels: dict[str, str] = field(default_factory=dict)
    """What this server is known by in them."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a decision may depend on, beside what always counts."""

    headers: tuple[str, ...] = ()
    """Lower-case names of request headers that an own policy reads."""
    trust_host: bool = False
    """Let the Host header name the upstream. Only where Envoy routes by it too."""


@dataclass(frozen=True, slots=True)
class Federation:
    """Bundle endpoints of trust domains, by trust domain."""

    endpoints: dict[str, str] = field(default_factory=dict)
    """HTTPS URL of the endpoint. A file in ``bundles`` is then the first bundle."""
    spiffe_ids: dict[str, str] = field(default_factory=dict)
    """SPIFFE ID of an endpoint that is to be known by it (profile ``https_spiffe``);
    the others are known by their host names (``https_web``)."""
    web_ca: str = ""
    """PEM file with CAs of ``https_web`` endpoints; empty for the system's own."""


@dataclass(frozen=True, slots=True)
class JwtSvids:
    """JWT-SVIDs: what a workload shows where TLS ends before our proxy."""

    audience: tuple[str, ...] = ()
    """Our names, one of which a token must be meant for; empty reads no JWT-SVIDs."""
    header: str = "authorization"
    """Header that carries it; in ``authorization`` as a bearer token."""
    without_certificate: bool = False
    """Accept it from a peer that has no client certificate."""


@dataclass(frozen=True, slots=True)
class Users:
    """Tokens of the users for whom workloads call."""

    issuers: dict[str, str] = field(default_factory=dict)
    """Issuer, as tokens spell it, to the file or HTTPS URL of its JWK Set; or to
    ``envoy``, whose jwt_authn filter then verifies that issuer's tokens."""
    audience: tuple[str, ...] = ()
    """One of which a token must be meant for."""
    claims: tuple[str, ...] = ()
    """Claims that a policy may see, beside issuer and subject."""
    header: str = "authorization"
    """Header that carries the token; in ``authorization`` as a bearer token."""
    payload_in_metadata: str = ""
    """The name of the same setting of Envoy's jwt_authn filter."""
    web_ca: str = ""
    """PEM file with CAs of the issuers' web servers; empty for the system's own."""
    max_key_age_s: float = 86_400.0
    """Seconds since keys were last asked for with success until they are too old; 0 for
    never."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a caller is believed to be."""

    chain: str = "bundle"
    """``bundle`` verifies each caller's certificate again, by our own bundles;
    ``proxy`` relies on Envoy's verification and checks the leaf alone."""
    bundles: dict[str, str] = field(default_factory=dict)
    """Trust domain to file: PEM certificates or a SPIFFE bundle. Watched."""
    bundle_map: str = ""
    """File with the bundles of further trust domains, a SPIFFE bundle map. Watched."""
    workload_api: str = ""
    """``unix:///path`` or ``tcp://ip:port`` of the SPIFFE Workload API, which gives the
    bundles of all other trust domains. ``SPIFFE_ENDPOINT_SOCKET`` sets it too."""
    max_bundle_age_s: float = 0.0
    """Seconds since a bundle was last known to be the newest until it is too old; 0 for
    never."""
    revocations: str = ""
    """File of what is revoked; empty for none. Watched."""
    require_certificate: bool = True
    """Deny when Envoy sends no peer certificate (``include_peer_certificate``)."""
    xfcc: str = "none"
    """Who writes the x-forwarded-client-cert header that is believed: ``none``,
    ``proxy``, ``hop`` or ``waypoint``."""
    hops: tuple[str, ...] = ()
    """SPIFFE IDs of proxies in front of ours, which call for others only."""
    max_token_lifetime_s: float = 86_400.0
    """A token that is good for longer than this is refused."""
    federation: Federation = field(default_factory=Federation)
    jwt_svid: JwtSvids = field(default_factory=JwtSvids)
    users: Users = field(default_factory=Users)


@dataclass(frozen=True, slots=True)
class Triton:
    """What an allowed call to Triton is sent along with."""

    access_secret: str = ""
    """File with the secret that Triton's restricted APIs want; empty for none. Watched.
    While it cannot be read, everything is denied."""
    access_header: str = "triton-access-token"
    """Its header, as in ``--http-restricted-api``; gRPC has the same one behind
    ``triton-grpc-protocol-``."""
    principal_header: str = ""
    """Header that tells Triton the caller's SPIFFE ID; empty for none."""


@dataclass(frozen=True, slots=True)
class Cache:
    """The decision cache."""

    max_entries: int = 100_000
    """Entries at most; 0 turns it off."""
    max_bytes: int = 128 * 1024 * 1024
    """Bytes at most."""
    ttl_s: float = 60.0
    """Seconds for which a decision is remembered at most."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client cannot take from the others."""

    deadline_s: float = 0.25
    """Seconds a decision may take; keep it below the timeout in Envoy."""
    max_pending: int = 256
    """Decisions that may wait or be in the making; further ones are denied at once."""
    workers: int = 2
    """Threads that decide."""
    max_message_bytes: int = 8 * 1024 * 1024
    """Largest CheckRequest; keep it above Envoy's ``max_request_bytes``."""
    drain_s: float = 5.0
    """Seconds that open calls get to finish after SIGTERM."""


@dataclass(frozen=True, slots=True)
class Audit:
    """The audit trail."""

    file: str = "-"
    """File to append events to; ``-`` is standard output."""


@dataclass(frozen=True, slots=True)
class Config:
    """All settings of ``authz-server serve``."""

    listen: Listen = field(default_factory=Listen)
    policy: Policy = field(default_factory=Policy)
    distribution: Distribution = field(default_factory=Distribution)
    identity: Identity = field(default_factory=Identity)
    inputs: Inputs = field(default_factory=Inputs)
    cache: Cache = field(default_factory=Cache)
    limits: Limits = field(default_factory=Limits)
    audit: Audit = field(default_factory=Audit)
    triton: Triton = field(default_factory=Triton)
    log_level: str = "info"
    """debug, info, warning or error."""
