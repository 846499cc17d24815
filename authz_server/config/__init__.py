"""The configuration: one frozen value, from file, environment and flags."""

from authz_server.config.loading import environment_name, load_config, settings
from authz_server.config.sections import (
    Audit,
    Cache,
    Config,
    Distribution,
    Federation,
    Identity,
    Inputs,
    JwtSvids,
    Limits,
    Listen,
    Policy,
    Tls,
    Triton,
    Users,
)

__all__ = [
    "Audit",
    "Cache",
    "Config",
    "Distribution",
    "Federation",
    "Identity",
    "Inputs",
    "JwtSvids",
    "Limits",
    "Listen",
    "Policy",
    "Tls",
    "Triton",
    "Users",
    "environment_name",
    "load_config",
    "settings",
]
