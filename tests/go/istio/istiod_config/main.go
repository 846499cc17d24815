// Istiod_config prints what istiod makes of a cluster for the sidecar of one pod: its
// listeners, routes and clusters, from istiod's own generators. No cluster is needed.
//
//	istiod_config -mesh-config FILE -pod NAMESPACE/NAME FILE...
//
// The files hold Kubernetes' and Istio's objects as YAML, that pod, with status.podIP,
// among them. Istio's are validated as its webhook does it. What EDS would say of the
// clusters is under "endpoints", from the pods that a Service selects; their containers'
// ports must have numbers. All protobuf is in its JSON form, by the fields' own names.
package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"istio.io/istio/pilot/pkg/config/kube/crd"
	"istio.io/istio/pilot/pkg/model"
	"istio.io/istio/pilot/test/xds"
	"istio.io/istio/pkg/config"
	"istio.io/istio/pkg/config/constants"
	"istio.io/istio/pkg/config/mesh"
	_ "istio.io/istio/pkg/config/xds" // every message that Envoy knows, for JSON
	kubelib "istio.io/istio/pkg/kube"
	"istio.io/istio/pkg/log"
	"istio.io/istio/pkg/test"
)

// What the proxy says of itself; istiod keeps from older ones what they don't know.
const istioVersion = "1.31.0"

func main() {
	meshFile := flag.String("mesh-config", "", "the mesh configuration, as YAML")
	podKey := flag.String("pod", "", "NAMESPACE/NAME of the pod whose sidecar it is")
	flag.Parse()
	if err := run(*meshFile, *podKey, flag.Args(), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(meshFile, podKey string, files []string, out io.Writer) error {
	// Warnings alone, on standard error: the output is on standard output.
	options := log.DefaultOptions()
	options.OutputPaths = []string{"stderr"}
	options.SetDefaultOutputLevel(log.OverrideScopeName, log.WarnLevel)
	if err := log.Configure(options); err != nil {
		return err
	}
	meshText, err := os.ReadFile(meshFile)
	if err != nil {
		return err
	}
	meshConfig, err := mesh.ApplyMeshConfigDefaults(string(meshText))
	if err != nil {
		return fmt.Errorf("%s: %w", meshFile, err)
	}
	objects, err := readObjects(files)
	if err != nil {
		return err
	}
	pod, err := objects.pod(podKey)
	if err != nil {
		return err
	}
	objects.addEndpointSlices()
	var answer map[string][]json.RawMessage
	// Istio's test packages ask for a test, and end it by leaving the goroutine.
	failure := test.Wrap(func(t test.Failer) {
		server := xds.NewFakeDiscoveryServer(t, xds.FakeOptions{
			Configs:           objects.istio,
			KubernetesObjects: objects.kubernetes,
			MeshConfig:        meshConfig,
		})
		answer, err = generate(server, proxyOf(pod))
		if err != nil {
			t.Fatal(err)
		}
	})
	if failure != nil {
		return failure
	}
	encoder := json.NewEncoder(out)
	return encoder.Encode(answer)
}

func generate(
	server *xds.FakeDiscoveryServer, proxy *model.Proxy,
) (map[string][]json.RawMessage, error) {
	proxy = server.SetupProxy(proxy)
	listeners := server.Listeners(proxy)
	answer := map[string][]json.RawMessage{}
	err := errors.Join(
		add(answer, "listeners", listeners),
		add(answer, "routes", server.RoutesFromListeners(proxy, listeners)),
		add(answer, "clusters", server.Clusters(proxy)),
		add(answer, "endpoints", server.Endpoints(proxy)),
	)
	return answer, err
}

func add[M proto.Message](answer map[string][]json.RawMessage, name string, messages []M) error {
	marshal := protojson.MarshalOptions{UseProtoNames: true}
	answer[name] = []json.RawMessage{}
	for _, message := range messages {
		text, err := marshal.Marshal(message)
		if err != nil {
			return err
		}
		answer[name] = append(answer[name], text)
	}
	return nil
}

func proxyOf(pod *corev1.Pod) *model.Proxy {
	account := pod.Spec.ServiceAccountName
	return &model.Proxy{
		Type:            model.SidecarProxy,
		ID:              pod.Name + "." + pod.Namespace,
		ConfigNamespace: pod.Namespace,
		IPAddresses:     []string{pod.Status.PodIP},
		Labels:          pod.Labels,
		Metadata: &model.NodeMetadata{
			Namespace:      pod.Namespace,
			Labels:         pod.Labels,
			ServiceAccount: account,
			ClusterID:      constants.DefaultClusterName,
			IstioVersion:   istioVersion,
		},
	}
}

// addEndpointSlices does the endpoint slice controller's work, and sets the defaults of a
// Service's ports as the API server does.
func (o *objectSet) addEndpointSlices() {
	pods := []*corev1.Pod{}
	for _, object := range o.kubernetes {
		if pod, ok := object.(*corev1.Pod); ok {
			pods = append(pods, pod)
		}
	}
	for _, object := range o.kubernetes {
		service, ok := object.(*corev1.Service)
		if !ok {
			continue
		}
		slice := &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{
				Name:      service.Name + "-1",
				Namespace: service.Namespace,
				Labels:    map[string]string{discoveryv1.LabelServiceName: service.Name},
			},
			AddressType: discoveryv1.AddressTypeIPv4,
		}
		for i := range service.Spec.Ports {
			port := &service.Spec.Ports[i]
			port.Protocol = cmp.Or(port.Protocol, corev1.ProtocolTCP)
			if port.TargetPort == (intstr.IntOrString{}) {
				port.TargetPort = intstr.FromInt32(port.Port)
			}
			slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{
				Name: &port.Name, Protocol: &port.Protocol, Port: &port.TargetPort.IntVal,
			})
		}
		selector := labels.SelectorFromSet(service.Spec.Selector)
		for _, pod := range pods {
			if pod.Namespace != service.Namespace || len(service.Spec.Selector) == 0 ||
				!selector.Matches(labels.Set(pod.Labels)) {
				continue
			}
			slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
				Addresses: []string{pod.Status.PodIP},
				TargetRef: &corev1.ObjectReference{
					Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name,
				},
			})
		}
		o.kubernetes = append(o.kubernetes, slice)
	}
}

type objectSet struct {
	kubernetes []runtime.Object
	istio      []config.Config
}

func (o *objectSet) pod(key string) (*corev1.Pod, error) {
	for _, object := range o.kubernetes {
		pod, ok := object.(*corev1.Pod)
		if !ok || pod.Namespace+"/"+pod.Name != key {
			continue
		}
		if _, err := netip.ParseAddr(pod.Status.PodIP); err != nil {
			return nil, fmt.Errorf("pod %s: status.podIP: %w", key, err)
		}
		return pod, nil
	}
	return nil, fmt.Errorf("-pod: no pod %q among the objects", key)
}

func readObjects(files []string) (*objectSet, error) {
	objects := &objectSet{}
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
			if err == nil {
				err = objects.add(document[:n])
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", file, err)
			}
		}
	}
	return objects, nil
}

func (o *objectSet) add(document []byte) error {
	var kind struct {
		APIVersion string `json:"apiVersion"`
	}
	if err := yaml.Unmarshal(document, &kind); err != nil {
		return err
	}
	if group, _, _ := strings.Cut(kind.APIVersion, "/"); strings.HasSuffix(group, ".istio.io") {
		configs, unknown, err := crd.ParseInputs(string(document))
		if err != nil {
			return err
		}
		if len(unknown) > 0 {
			return fmt.Errorf("kind %s is not one of Istio's", unknown[0].Kind)
		}
		o.istio = append(o.istio, configs...)
		return nil
	}
	object, _, err := kubelib.IstioCodec.UniversalDeserializer().Decode(document, nil, nil)
	if err != nil {
		return err
	}
	o.kubernetes = append(o.kubernetes, object)
	return nil
}
