"""A trust store, and whose authorities may be put into it."""

import dataclasses
import time

from checks import CAMERA

from authz_server.clock import Instant
from authz_server.demo.pki import DevelopmentCa, Svid
from authz_server.errors import AuthzError
from authz_server.identity.certificate import read_leaf
from authz_server.identity.spiffe_id import TrustDomain
from authz_server.identity.trust import TrustStore

FACTORY, SUPPLIER = TrustDomain("factory.example"), TrustDomain("supplier.example")
CA, OTHER = DevelopmentCa(FACTORY.name), DevelopmentCa(SUPPLIER.name)
ROBOT = "spiffe://supplier.example/ns/parts/sa/robot"
MAX_AGE_S = 600.0


def believes(store: TrustStore, svid: Svid, now_s: float) -> bool:
    """Return whether what is in force vouches for `svid`."""
    try:
        store.current.verify(read_leaf(svid.certificate_pem), now_s)
    except AuthzError:
        return False
    return True


@dataclasses.dataclass
class Trusting:
    """A store on a clock that a test moves."""

    expected: tuple[TrustDomain, ...] = ()
    now_s: float = dataclasses.field(default_factory=time.time)
    store: TrustStore = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.store = TrustStore(
            self.expected, max_age_s=MAX_AGE_S, clock=lambda: Instant(self.now_s, 0.0)
        )

    def clock(self) -> Instant:
        return Instant(self.now_s, 0.0)

    def believes(self, ca: DevelopmentCa, spiffe_id: str = CAMERA) -> bool:
        return believes(self.store, ca.issue(spiffe_id), self.now_s)

    def age_s(self, name: TrustDomain = FACTORY) -> float:
        return self.store.standings()[name].age_s
