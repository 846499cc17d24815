// Connectivity prints what a set of NetworkPolicies lets through, as the SIG's own engine
// (kube-network-policies) decides it: every pod asks every other one.
//
//	connectivity -ports TCP/8000,UDP/53 FILE...
//
// The files hold Namespaces, Pods with status.podIP, and NetworkPolicies, as YAML. The
// answer is a JSON list of [source, destination, protocol, port], pods as namespace/name.
// A pod's traffic with itself is left out: no policy reaches it.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/kube-network-policies/pkg/api"
	"sigs.k8s.io/kube-network-policies/pkg/network"
	"sigs.k8s.io/kube-network-policies/pkg/networkpolicy"
	"sigs.k8s.io/kube-network-policies/pkg/podinfo"
)

// The client's port. No rule of a NetworkPolicy is about it.
const sourcePort = 40000

type port struct {
	protocol corev1.Protocol
	number   int
}

type edge [4]any

func main() {
	ports := flag.String("ports", "", "what is asked for, as PROTOCOL/NUMBER,...")
	flag.Parse()
	if err := run(*ports, flag.Args(), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(portList string, files []string, out io.Writer) error {
	ports, err := parsePorts(portList)
	if err != nil {
		return err
	}
	objects, err := readObjects(files)
	if err != nil {
		return err
	}
	edges, err := connectivity(objects, ports)
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(edges)
}

func parsePorts(list string) ([]port, error) {
	var ports []port
	for _, item := range strings.Split(list, ",") {
		protocol, number, _ := strings.Cut(item, "/")
		value, err := strconv.ParseUint(number, 10, 16)
		if err != nil || !slices.Contains([]string{"TCP", "UDP", "SCTP"}, protocol) {
			return nil, fmt.Errorf("-ports: %q is not PROTOCOL/NUMBER, as in TCP/8000", item)
		}
		ports = append(ports, port{corev1.Protocol(protocol), int(value)})
	}
	return ports, nil
}

// readObjects decodes strictly: an unknown field is an error, as with a server that
// validates fields.
func readObjects(files []string) ([]runtime.Object, error) {
	strict := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict)
	var objects []runtime.Object
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		documents := utilyaml.NewDocumentDecoder(io.NopCloser(bytes.NewReader(data)))
		for {
			document := make([]byte, len(data)+1)
			n, err := documents.Read(document)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", file, err)
			}
			object, _, err := strict.UniversalDeserializer().Decode(document[:n], nil, nil)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", file, err)
			}
			objects = append(objects, object)
		}
	}
	return objects, nil
}

// complete makes an object what it is after the API server stored it. The engine counts
// on that: an empty list would read as "everyone", and a missing protocol crashes it.
func complete(object runtime.Object) error {
	switch o := object.(type) {
	case *corev1.Namespace:
		if o.Labels == nil {
			o.Labels = map[string]string{}
		}
		o.Labels[corev1.LabelMetadataName] = o.Name
	case *corev1.Pod:
		if net.ParseIP(o.Status.PodIP) == nil {
			return fmt.Errorf("pod %s: status.podIP is %q, not an address", key(o), o.Status.PodIP)
		}
		o.Status.PodIPs = []corev1.PodIP{{IP: o.Status.PodIP}}
		o.Status.Phase = corev1.PodRunning
		for i := range o.Spec.Containers {
			for j := range o.Spec.Containers[i].Ports {
				defaultProtocol(&o.Spec.Containers[i].Ports[j].Protocol)
			}
		}
	case *networkingv1.NetworkPolicy:
		return completePolicy(o)
	}
	return nil
}

func completePolicy(policy *networkingv1.NetworkPolicy) error {
	// Stored as protobuf, which doesn't know empty lists.
	stored, err := policy.Marshal()
	if err != nil {
		return err
	}
	*policy = networkingv1.NetworkPolicy{}
	if err := policy.Unmarshal(stored); err != nil {
		return err
	}
	// What follows is SetDefaults_NetworkPolicy and SetDefaults_NetworkPolicyPort.
	if len(policy.Spec.PolicyTypes) == 0 {
		policy.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
		if len(policy.Spec.Egress) != 0 {
			policy.Spec.PolicyTypes = append(policy.Spec.PolicyTypes, networkingv1.PolicyTypeEgress)
		}
	}
	for _, rule := range policy.Spec.Ingress {
		defaultProtocols(rule.Ports)
	}
	for _, rule := range policy.Spec.Egress {
		defaultProtocols(rule.Ports)
	}
	return nil
}

func defaultProtocols(ports []networkingv1.NetworkPolicyPort) {
	for i := range ports {
		if ports[i].Protocol == nil {
			tcp := corev1.ProtocolTCP
			ports[i].Protocol = &tcp
		}
	}
}

func defaultProtocol(protocol *corev1.Protocol) {
	if *protocol == "" {
		*protocol = corev1.ProtocolTCP
	}
}

func key(object metav1.Object) string {
	return object.GetNamespace() + "/" + object.GetName()
}

// byIP resolves in one step; the engine's own provider searches all pods instead.
type byIP map[string]string

func (b byIP) LookupPod(ip string) (string, bool) {
	pod, ok := b[ip]
	return pod, ok
}

func connectivity(objects []runtime.Object, ports []port) ([]edge, error) {
	var pods []*corev1.Pod
	addresses := byIP{}
	namespaces := map[string]bool{}
	for _, object := range objects {
		if err := complete(object); err != nil {
			return nil, err
		}
		switch o := object.(type) {
		case *corev1.Namespace:
			namespaces[o.Name] = true
		case *corev1.Pod:
			if o.Spec.HostNetwork {
				return nil, fmt.Errorf("pod %s: on the host's network no policy is defined", key(o))
			}
			if other, taken := addresses[o.Status.PodIP]; taken {
				return nil, fmt.Errorf("pods %s and %s have one IP", other, key(o))
			}
			addresses[o.Status.PodIP] = key(o)
			pods = append(pods, o)
		}
	}
	for _, pod := range pods {
		if !namespaces[pod.Namespace] {
			return nil, fmt.Errorf("pod %s: its Namespace is not among the objects", key(pod))
		}
	}

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	factory := informers.NewSharedInformerFactory(fake.NewClientset(objects...), 0)
	core := factory.Core().V1()
	policies := networkpolicy.NewStandardNetworkPolicy(
		"", core.Namespaces(), core.Pods(), factory.Networking().V1().NetworkPolicies())
	provider := podinfo.NewInformerProvider(
		core.Pods(), core.Namespaces(), nil, []podinfo.IPResolver{addresses})
	engine := networkpolicy.NewPolicyEngine(provider, []api.PolicyEvaluator{policies})
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())

	edges := []edge{}
	for _, source := range pods {
		for _, destination := range pods {
			if source == destination {
				continue
			}
			for _, p := range ports {
				packet := &network.Packet{
					Family:  family(source.Status.PodIP),
					SrcIP:   net.ParseIP(source.Status.PodIP),
					DstIP:   net.ParseIP(destination.Status.PodIP),
					Proto:   p.protocol,
					SrcPort: sourcePort,
					DstPort: p.number,
				}
				allowed, err := engine.EvaluatePacket(ctx, packet)
				if err != nil {
					return nil, err
				}
				if allowed {
					edges = append(edges, edge{key(source), key(destination), p.protocol, p.number})
				}
			}
		}
	}
	return edges, nil
}

func family(ip string) corev1.IPFamily {
	if strings.Contains(ip, ":") {
		return corev1.IPv6Protocol
	}
	return corev1.IPv4Protocol
}
