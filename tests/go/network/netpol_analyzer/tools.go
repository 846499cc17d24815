//go:build tools

// Package tools names what is built here, so that go.mod and go.sum stay complete.
package tools

import _ "github.com/np-guard/netpol-analyzer/cmd/netpolicy"
