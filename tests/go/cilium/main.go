// Cilium prints what Cilium's own agent would make of CiliumNetworkPolicies: which of
// them it refuses, and which connections the others let through at both ends, by its own
// parser and its own policy engine.
//
//	cilium <QUESTION.json
//
// The question has policies, ends and flows. An end is a pod, by namespace and labels, or
// something else, by the reserved labels that Cilium knows it by and, in the world, by its
// address. A flow is a protocol and a port.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"

	"github.com/cilium/cilium/pkg/endpoint/regeneration"
	"github.com/cilium/cilium/pkg/identity"
	"github.com/cilium/cilium/pkg/identity/identitymanager"
	k8sconst "github.com/cilium/cilium/pkg/k8s/apis/cilium.io"
	ciliumv2 "github.com/cilium/cilium/pkg/k8s/apis/cilium.io/v2"
	"github.com/cilium/cilium/pkg/labels"
	"github.com/cilium/cilium/pkg/labelsfilter"
	"github.com/cilium/cilium/pkg/option"
	"github.com/cilium/cilium/pkg/policy"
	"github.com/cilium/cilium/pkg/policy/types"
	"github.com/cilium/cilium/pkg/policy/utils"
	"github.com/cilium/cilium/pkg/u8proto"
)

const cluster = "default"

type end struct {
	Name      string            `json:"name"`
	Namespace string            `json:"namespace"`
	Labels    map[string]string `json:"labels"`
	Entities  []string          `json:"entities"`
	Address   string            `json:"address"`
}

type flow struct {
	Protocol string `json:"protocol"`
	Port     uint16 `json:"port"`
}

type question struct {
	Policies []json.RawMessage `json:"policies"`
	Ends     []end             `json:"ends"`
	Flows    []flow            `json:"flows"`
}

type edge struct {
	Source string `json:"source"`
	Target string `json:"target"`
	flow
}

type answer struct {
	Refused []string `json:"refused"`
	Edges   []edge   `json:"edges"`
}

func main() {
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(in io.Reader, out io.Writer) error {
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	// As an agent has them that is not told otherwise.
	option.Config.EnableIPv4 = true
	option.Config.EnableIPv6 = true
	option.Config.EnableL7Proxy = true
	option.Config.EnableNonDefaultDenyPolicies = true
	policy.SetPolicyEnabled(option.DefaultEnforcement)
	if err := labelsfilter.ParseLabelPrefixCfg(logger, nil, nil, ""); err != nil {
		return err
	}

	var asked question
	decoder := json.NewDecoder(in)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&asked); err != nil {
		return err
	}
	said := answer{Refused: []string{}, Edges: []edge{}}
	repository := policy.NewPolicyRepository(
		logger, identity.ListReservedIdentities(), nil, nil, identitymanager.NewIDManager(logger), metrics{},
	)
	for _, text := range asked.Policies {
		var object ciliumv2.CiliumNetworkPolicy
		if err := json.Unmarshal(text, &object); err != nil {
			said.Refused = append(said.Refused, err.Error())
			continue
		}
		rules, err := object.Parse(logger, cluster)
		if err != nil {
			said.Refused = append(said.Refused, fmt.Sprintf("%s/%s: %v", object.Namespace, object.Name, err))
			continue
		}
		repository.MustAddPolicyEntries(utils.RulesToPolicyEntries(rules))
	}
	edges, err := connections(logger, repository, asked)
	if err != nil {
		return err
	}
	said.Edges = append(said.Edges, edges...)
	return json.NewEncoder(out).Encode(said)
}

func connections(logger *slog.Logger, repository *policy.Repository, asked question) ([]edge, error) {
	identities := make([]*identity.Identity, len(asked.Ends))
	added := identity.IdentityMap{}
	for n, item := range asked.Ends {
		known, err := identify(n, item)
		if err != nil {
			return nil, err
		}
		identities[n] = known
		added[known.ID] = known.LabelArray
	}
	var waiting sync.WaitGroup
	repository.GetSelectorCache().UpdateIdentities(added, nil, &waiting)
	waiting.Wait()
	repository.UpdateIdentities(added, nil)

	// Only pods are endpoints that a policy can be about.
	policies := make([]*policy.EndpointPolicy, len(asked.Ends))
	for n, item := range asked.Ends {
		if item.Namespace == "" {
			continue
		}
		resolved, err := repository.ResolvePolicy(identities[n])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", item.Name, err)
		}
		policies[n] = resolved.DistillPolicy(logger, owner(n), nil)
		policies[n].Ready()
	}
	allows := func(here, there int, key policy.Key) bool {
		if policies[here] == nil {
			return true
		}
		entry, _, _ := policies[here].Lookup(key.WithIdentity(identities[there].ID))
		return !entry.IsDeny()
	}
	var found []edge
	for source := range asked.Ends {
		for target := range asked.Ends {
			if source == target || policies[source] == nil && policies[target] == nil {
				continue
			}
			for _, item := range asked.Flows {
				protocol, err := u8proto.ParseProtocol(item.Protocol)
				if err != nil {
					return nil, err
				}
				if allows(source, target, policy.EgressKey().WithPortProto(protocol, item.Port)) &&
					allows(target, source, policy.IngressKey().WithPortProto(protocol, item.Port)) {
					found = append(found, edge{asked.Ends[source].Name, asked.Ends[target].Name, item})
				}
			}
		}
	}
	return found, nil
}

// identify returns what Cilium would know an end by.
func identify(n int, item end) (*identity.Identity, error) {
	if (item.Namespace == "") == (len(item.Entities) == 0) {
		return nil, fmt.Errorf("%s: write a namespace or entities", item.Name)
	}
	if item.Namespace != "" {
		all := labels.Map2Labels(item.Labels, labels.LabelSourceK8s)
		all.MergeLabels(labels.Map2Labels(map[string]string{
			k8sconst.PodNamespaceLabel:  item.Namespace,
			k8sconst.PolicyLabelCluster: cluster,
		}, labels.LabelSourceK8s))
		relevant, _ := labelsfilter.Filter(all)
		return identity.NewIdentity(identity.MinimalNumericIdentity+identity.NumericIdentity(n), relevant), nil
	}
	reserved := map[string]identity.NumericIdentity{
		labels.IDNameHost:       identity.ReservedIdentityHost,
		labels.IDNameRemoteNode: identity.ReservedIdentityRemoteNode,
	}
	if id, isReserved := reserved[item.Entities[0]]; isReserved && len(item.Entities) == 1 {
		return identity.LookupReservedIdentity(id), nil
	}
	known := labels.Labels{}
	for _, entity := range item.Entities {
		known.MergeLabels(labels.Map2Labels(map[string]string{entity: ""}, labels.LabelSourceReserved))
	}
	if slices.Contains(item.Entities, labels.IDNameWorld) {
		address, err := netip.ParseAddr(item.Address)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", item.Name, err)
		}
		known = labels.GetCIDRLabels(netip.PrefixFrom(address, address.BitLen()))
	}
	return identity.NewIdentity(identity.IdentityScopeLocal+identity.NumericIdentity(n+1), known), nil
}

// metrics counts nothing.
type metrics struct{}

func (metrics) AddRule(types.PolicyEntry) {}
func (metrics) DelRule(types.PolicyEntry) {}

// owner is an endpoint without named ports.
type owner uint64

var _ policy.PolicyOwner = owner(0)

func (id owner) GetID() uint64                                   { return uint64(id) }
func (owner) GetIngressNamedPort(string, u8proto.U8proto) uint16 { return 0 }
func (owner) PolicyDebug(string, ...any)                         {}
func (owner) IsHost() bool                                       { return false }
func (owner) PreviousMapStateSizes() policy.MapStateSizes        { return policy.MapStateSizes{} }
func (owner) RegenerateIfAlive(*regeneration.ExternalRegenerationMetadata) <-chan bool {
	done := make(chan bool)
	close(done)
	return done
}
