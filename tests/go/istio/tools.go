//go:build tools

// Package tools names what is built here beside istiod_config, so that go.mod and go.sum
// stay complete. Istio's tags carry no `v`, so its version is a pseudo-version.
package tools

import _ "istio.io/istio/istioctl/cmd/istioctl"
