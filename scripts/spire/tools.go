//go:build tools

// Package spire names the programs that this module is there to build. SPIRE cannot be
// had with `go install`, as its go.mod would be taken as it is, and one module that it
// requires is not served everywhere: go.mod here puts the folder stub in its place.
package spire

import (
	_ "github.com/spiffe/spire/cmd/spire-agent"
	_ "github.com/spiffe/spire/cmd/spire-server"
)
