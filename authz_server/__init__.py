"""Zero-trust access control for model servers behind Envoy and Istio."""

__version__ = "0.1.0"
