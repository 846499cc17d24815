# One entry for people and CI. `make help` lists the targets.
#
# Everything that is fetched or built lands in .venv or in the cache folder outside the
# tree, keyed by version, so a second run costs nothing.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
CACHE := $(or $(AUTHZ_SERVER_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/authz-server)
export AUTHZ_SERVER_CACHE := $(CACHE)

TRITON_VERSION := 0.7.0
TRITON := $(CACHE)/triton-$(TRITON_VERSION)
OPA_VERSION := 1.22.2
OPA := $(CACHE)/opa-$(OPA_VERSION)/opa
MINIO_VERSION := v0.0.0-20260212201848-7aac2a2c5b7c
MINIO := $(CACHE)/minio-$(MINIO_VERSION)/minio
REGAL_VERSION := 0.42.0
REGAL := $(CACHE)/regal-$(REGAL_VERSION)/regal
H2SPEC_VERSION := 2.2.1
H2SPEC := $(CACHE)/h2spec-$(H2SPEC_VERSION)/h2spec
GRPC_CLIENT := $(CACHE)/grpc-client/grpc_client
SPIRE_VERSION := 1.15.3
SPIRE := $(CACHE)/spire-$(SPIRE_VERSION)/spire-server
# Judges of what is emitted. Each one's version is in the go.mod of its folder as well.
ISTIO_VERSION := v0.0.0-20260827124520-eed52ebb66ad
ISTIOCTL := $(CACHE)/istio-$(ISTIO_VERSION)/istioctl
ISTIOD_CONFIG := $(CACHE)/istio-$(ISTIO_VERSION)/istiod_config
NETPOL_ANALYZER_VERSION := 1.4.4
NETPOL_ANALYZER := $(CACHE)/netpol-analyzer-$(NETPOL_ANALYZER_VERSION)/netpolicy
CONNECTIVITY_VERSION := 1.1.1
CONNECTIVITY := $(CACHE)/connectivity-$(CONNECTIVITY_VERSION)/connectivity
SPIRE_CONTROLLER_VERSION := 0.6.3
SPIRE_CONTROLLER := $(CACHE)/spire-controller-$(SPIRE_CONTROLLER_VERSION)/spire_controller
KUBERNETES_VERSION := 1.36.3
KUBERNETES := $(CACHE)/kubernetes-$(KUBERNETES_VERSION)/kube-apiserver
HELM_VERSION := 4.3.1
HELM := $(CACHE)/helm-$(HELM_VERSION)/helm
ISTIO_API_VERSION := 1.31.4
CILIUM_VERSION := 1.20.2
CILIUM := $(CACHE)/cilium-$(CILIUM_VERSION)/cilium
CRDS := $(CACHE)/crds-$(ISTIO_API_VERSION)-$(SPIRE_CONTROLLER_VERSION)-$(CILIUM_VERSION)/.ready

BIN := .venv/bin
# What the environment is made of: a changed core is built again.
CORE_SOURCES := $(shell find authz_server/_native -name '*.[ch]' | LC_ALL=C sort)
READY := .venv/.ready-$(shell sha256sum pyproject.toml $(CORE_SOURCES) | sha256sum | cut -c1-12)

say = @printf '\033[1m==> %s\033[0m\n'

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.PHONY: system
system: ## check for the system packages that are needed, install them where we may
	@scripts/system-packages $(PYTHON)

$(READY): pyproject.toml $(CORE_SOURCES)
	@$(MAKE) --no-print-directory system
	$(say) "virtual environment in .venv (once, about a minute)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -qq --upgrade 'setuptools>=80' pip
	@$(BIN)/python -m pip install -qq --editable '.[test]'
	@rm -f .venv/.ready-* && touch $@

.PHONY: venv
venv: $(READY) ## make the virtual environment

$(TRITON)/.ready:
	@$(MAKE) --no-print-directory system
	$(say) "Triton in $(TRITON) (once, about a minute; its own environment, as it needs numpy 1)"
	@mkdir -p $(CACHE)
	@$(PYTHON) -m venv $(TRITON)
	@$(TRITON)/bin/python -m pip install -qq nvidia-pytriton==$(TRITON_VERSION)
	@touch $@

.PHONY: triton
triton: $(TRITON)/.ready ## install the real Triton for demo and tests

$(OPA):
	@command -v go >/dev/null || { echo "OPA is built from source: install Go 1.25 or newer" >&2; exit 1; }
	$(say) "OPA $(OPA_VERSION) in $(dir $(OPA)) (once, one to two minutes)"
	@GOBIN=$(dir $(OPA)) CGO_ENABLED=0 go install github.com/open-policy-agent/opa@v$(OPA_VERSION)

.PHONY: opa
opa: $(OPA) ## build the pinned OPA

$(MINIO):
	$(say) "MinIO in $(dir $(MINIO)) (once, about two minutes)"
	@GOBIN=$(dir $(MINIO)) CGO_ENABLED=0 go install github.com/minio/minio@$(MINIO_VERSION)

.PHONY: minio
minio: $(MINIO) ## build the pinned MinIO, an object store

# As part of a module: `go install` would ask for all versions that there are as well.
$(REGAL):
	$(say) "Regal $(REGAL_VERSION) in $(dir $(REGAL)) (once, about a minute)"
	@new=$$(mktemp -d) && trap 'rm -rf "$$new"' EXIT && cd "$$new" && \
	  go mod init regal 2>/dev/null && \
	  go mod edit -require=github.com/open-policy-agent/regal@v$(REGAL_VERSION) && \
	  CGO_ENABLED=0 go build -mod=mod -o $(REGAL) github.com/open-policy-agent/regal

.PHONY: regal
regal: $(REGAL) ## build the pinned Regal, a linter for Rego

$(H2SPEC):
	$(say) "h2spec $(H2SPEC_VERSION) in $(dir $(H2SPEC)) (once, some seconds)"
	@GOBIN=$(dir $(H2SPEC)) CGO_ENABLED=0 go install github.com/summerwind/h2spec/cmd/h2spec@v$(H2SPEC_VERSION)+incompatible

$(GRPC_CLIENT): $(wildcard tests/go/grpc_client/*)
	$(say) "a client on grpc-go in $(dir $(GRPC_CLIENT)) (once, some seconds)"
	@cd tests/go/grpc_client && CGO_ENABLED=0 go build -o $(GRPC_CLIENT) .
	@touch $(GRPC_CLIENT)

.PHONY: http2-clients
http2-clients: $(H2SPEC) $(GRPC_CLIENT) ## build h2spec and a grpc-go client, which judge the listener

$(SPIRE):
	$(say) "SPIRE $(SPIRE_VERSION) in $(dir $(SPIRE)) (once, about ten minutes)"
	@scripts/spire/build $(dir $(SPIRE))

.PHONY: spire
spire: $(SPIRE) ## build the pinned SPIRE server and agent

build_judge = cd $(1) && CGO_ENABLED=0 nice go build -ldflags '-s -w' -o $@ $(2) && touch $@

$(ISTIOCTL):
	$(say) "istioctl in $(dir $@) (once, about six minutes)"
	@$(call build_judge,tests/go/istio,istio.io/istio/istioctl/cmd/istioctl)

$(ISTIOD_CONFIG): $(wildcard tests/go/istio/go.* tests/go/istio/istiod_config/*)
	$(say) "istiod's generators in $(dir $@) (once, about two minutes after istioctl)"
	@$(call build_judge,tests/go/istio,./istiod_config)

$(NETPOL_ANALYZER):
	$(say) "netpol-analyzer $(NETPOL_ANALYZER_VERSION) in $(dir $@) (once, about a minute)"
	@$(call build_judge,tests/go/network/netpol_analyzer,github.com/np-guard/netpol-analyzer/cmd/netpolicy)

$(CONNECTIVITY): $(wildcard tests/go/network/connectivity/*)
	$(say) "kube-network-policies $(CONNECTIVITY_VERSION) in $(dir $@) (once, about a minute)"
	@$(call build_judge,tests/go/network/connectivity,.)

$(SPIRE_CONTROLLER): $(wildcard tests/go/spire_controller/*)
	$(say) "SPIRE's controller manager $(SPIRE_CONTROLLER_VERSION) in $(dir $@) (once, about two minutes)"
	@$(call build_judge,tests/go/spire_controller,.)

$(CILIUM): $(wildcard tests/go/cilium/*)
	$(say) "Cilium's policy engine $(CILIUM_VERSION) in $(dir $@) (once, about three minutes)"
	@$(call build_judge,tests/go/cilium,.)

$(KUBERNETES):
	$(say) "kube-apiserver, kubectl and etcd in $(dir $@) (once, about eight minutes)"
	@scripts/kubernetes/build $(dir $@)

.PHONY: kubernetes
kubernetes: $(KUBERNETES) ## build the pinned kube-apiserver, kubectl and etcd

$(HELM):
	$(say) "Helm $(HELM_VERSION) in $(dir $@) (once, about three minutes)"
	@GOBIN=$(dir $@) CGO_ENABLED=0 nice go install -trimpath -ldflags '-s -w' helm.sh/helm/v4/cmd/helm@v$(HELM_VERSION)

.PHONY: helm
helm: $(HELM) ## build the pinned Helm

$(CRDS): scripts/crds/copy
	$(say) "CRDs of Istio, SPIRE's controller manager and Cilium in $(dir $@) (once, some seconds)"
	@scripts/crds/copy $(dir $@) v$(ISTIO_API_VERSION) v$(SPIRE_CONTROLLER_VERSION) v$(CILIUM_VERSION)
	@touch $@

.PHONY: crds
crds: $(CRDS) ## fetch the CRDs that the emitted objects are judged by

JUDGES := $(ISTIOCTL) $(ISTIOD_CONFIG) $(NETPOL_ANALYZER) $(CONNECTIVITY) $(SPIRE_CONTROLLER) $(CILIUM)
JUDGES += $(KUBERNETES) $(HELM) $(CRDS)

.PHONY: judges
judges: $(JUDGES) ## build what judges the emitted manifests: Istio, NetworkPolicy engines, SPIRE's controller

.PHONY: demo
demo: $(READY) $(TRITON)/.ready $(if $(findstring --spire,$(DEMO_ARGS)),$(SPIRE)) ## the main job on real Envoy and Triton; DEMO_ARGS=--keep stays up
	@$(BIN)/authz-server demo $(DEMO_ARGS)

.PHONY: check
check: $(READY) ## format, lint, types and import rules
	$(say) "ruff format, ruff check"
	@$(BIN)/ruff format --check --quiet . && $(BIN)/ruff check --quiet .
	$(say) "mypy --strict"
	@$(BIN)/mypy --no-error-summary && $(BIN)/mypy --no-error-summary benchmarks/*.py
	$(say) "import-linter"
	@$(BIN)/lint-imports --no-logo 2>/dev/null || $(BIN)/lint-imports
	@$(MAKE) --no-print-directory native-check

.PHONY: native-check
native-check: $(READY) ## the core in C under sanitizers, and the module within Python
	$(say) "core in C: warnings, AddressSanitizer, UBSan, LeakSanitizer, ThreadSanitizer, fuzz corpora"
	@$(MAKE) --no-print-directory -C tests/native -j2 check PYTHON=$(abspath $(BIN))/python
	$(say) "the module within Python, under AddressSanitizer"
	@$(MAKE) --no-print-directory -C tests/native module PYTHON=$(abspath $(BIN))/python

.PHONY: format
format: $(READY) ## format the code
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

.PHONY: test
test: check $(TRITON)/.ready ## all tests that run on wheels and system packages
	$(say) "pytest, with branch coverage"
	@rm -f .coverage .coverage.*
	@$(BIN)/coverage run -m pytest -m "not go and not long" $(PYTEST_ARGS)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report

.PHONY: test-all
test-all: test $(OPA) $(MINIO) $(REGAL) $(H2SPEC) $(GRPC_CLIENT) $(SPIRE) $(JUDGES) ## and those that are long, or whose parts are built from Go source
	$(say) "pytest, with parts built from Go, and what takes long"
	@$(BIN)/python -m pytest -m "go or long" $(PYTEST_ARGS)

FUZZ_S ?= 60

.PHONY: fuzz
fuzz: $(READY) ## fuzz every parser for FUZZ_S seconds; not part of the tests
	@$(BIN)/python -m pip install -qq --editable '.[fuzz]'
	@for target in $$(cd tests/fuzz && ls corpus); do \
	  $(BIN)/python tests/fuzz/fuzz.py $$target -max_total_time=$(FUZZ_S) -print_final_stats=1; \
	done
	@if command -v clang >/dev/null; then $(MAKE) -C tests/native fuzz FUZZ_S=$(FUZZ_S) PYTHON=$(abspath $(BIN))/python; \
	else echo "the core in C is not fuzzed: libFuzzer comes with clang"; fi

CASES ?= 20000

.PHONY: differential
differential: $(READY) $(TRITON)/.ready ## compare CASES generated calls with what Triton does; not part of the tests
	@$(BIN)/python tests/differential/run.py --cases $(CASES) $(DIFFERENTIAL_ARGS)

.PHONY: policy
policy: $(READY) $(OPA) ## build the shipped Rego to Wasm again
	@$(BIN)/authz-server policy build -o authz_server/policy/rego/bundle.tar.gz

EMITTED := kubernetes istio spire envoy cilium openziti controller helm

.PHONY: manifests
manifests: $(READY) ## emit the example policy's manifests again
	@$(BIN)/authz-server emit $(EMITTED) --policy examples/plant-7.yaml --site examples/plant-7-site.yaml --out manifests

.PHONY: bench
bench: $(READY) $(TRITON)/.ready ## what a check costs, through the real Envoy
	@$(BIN)/python benchmarks/identity_cost.py
	@$(BIN)/python benchmarks/stream_gate.py
	@$(BIN)/python benchmarks/policy_scale.py
	@$(BIN)/python benchmarks/emit_scale.py
	@$(BIN)/python benchmarks/cache_scale.py

.PHONY: clean
clean: ## remove the virtual environment; the cache folder stays
	@rm -rf .venv build *.egg-info .coverage* .hypothesis .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

# The ext_authz servers in Go that benchmarks/fast_path.py compares with.
OPA_GO := $(CACHE)/opa-go-$(OPA_VERSION)/opa-go
EXTAUTHZ_VERSION := $(ISTIO_VERSION)
EXTAUTHZ := $(CACHE)/extauthz-$(EXTAUTHZ_VERSION)/extauthz

$(OPA_GO): $(wildcard benchmarks/rivals/opa_go/*)
	$(say) "opa-go in $(dir $(OPA_GO)) (once, about a minute)"
	@cd benchmarks/rivals/opa_go && CGO_ENABLED=0 go build -o $(OPA_GO) .
	@touch $(OPA_GO)

# As part of a module: its tags carry no `v`, so no version of it can be named otherwise.
$(EXTAUTHZ):
	$(say) "Istio's ext-authz sample in $(dir $(EXTAUTHZ)) (once, about a minute)"
	@new=$$(mktemp -d) && trap 'rm -rf "$$new"' EXIT && cd "$$new" && \
	  go mod init extauthz 2>/dev/null && \
	  go mod edit -require=istio.io/istio@$(EXTAUTHZ_VERSION) && \
	  CGO_ENABLED=0 go build -mod=mod -o $(EXTAUTHZ) istio.io/istio/samples/extauthz/cmd/extauthz

.PHONY: rivals
rivals: $(OPA_GO) $(EXTAUTHZ) ## build the ext_authz servers in Go that `make bench` compares with

# Without Go its rivals are left out, by name.
.PHONY: bench-fast-path
bench-fast-path: $(READY) $(TRITON)/.ready $(if $(shell command -v go),$(OPA_GO) $(EXTAUTHZ))
	@$(BIN)/python benchmarks/fast_path.py --svg benchmarks/fast_path.svg $(FAST_PATH_ARGS)
	@$(BIN)/python benchmarks/mixed_load.py
	@$(BIN)/python benchmarks/end_to_end.py
	@$(BIN)/python benchmarks/callers_scale.py

bench: bench-fast-path
