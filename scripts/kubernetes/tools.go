//go:build tools

// Package kubernetes names the programs that this module is there to build. They cannot
// be had with `go install`: k8s.io/kubernetes requires its own parts at v0.0.0, whose
// places its own go.mod gives as folders, so go.mod here gives them as versions.
package kubernetes

import (
	_ "go.etcd.io/etcd/server/v3"
	_ "k8s.io/kubernetes/cmd/kube-apiserver"
	_ "k8s.io/kubernetes/cmd/kubectl"
)
