// Spire_controller prints what SPIRE's controller manager makes of its objects: what it
// finds wrong, and the entries that it would register, by its own validation and its own
// reconciler on a cluster in memory.
//
//	spire_controller -trust-domain TD FILE...
//
// The files hold ClusterSPIFFEIDs, ClusterStaticEntries, ClusterFederatedTrustDomains,
// Namespaces and Pods as YAML. A pod without uid gets NAMESPACE/NAME, one without a node
// is on the node "node".
package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	spirev1alpha1 "github.com/spiffe/spire-controller-manager/api/v1alpha1"
	"github.com/spiffe/spire-controller-manager/pkg/spireapi"
	"github.com/spiffe/spire-controller-manager/pkg/spireentry"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/log"
)

// The manager's defaults.
var ignoredNamespaces = []*regexp.Regexp{
	regexp.MustCompile("^kube-system$"),
	regexp.MustCompile("^kube-public$"),
	regexp.MustCompile("^spire-system$"),
}

type problem struct {
	Object  string `json:"object"`
	Problem string `json:"problem"`
}

type entry struct {
	SPIFFEID      string   `json:"spiffe_id"`
	ParentID      string   `json:"parent_id"`
	Selectors     []string `json:"selectors"`
	X509SVIDTTL   float64  `json:"x509_svid_ttl"`
	JWTSVIDTTL    float64  `json:"jwt_svid_ttl"`
	FederatesWith []string `json:"federates_with"`
	DNSNames      []string `json:"dns_names"`
}

type answer struct {
	Problems []problem `json:"problems"`
	Entries  []entry   `json:"entries"`
	// How many entries of an object gave way to another's with the same selectors.
	Masked map[string]int `json:"masked"`
}

func main() {
	name := flag.String("trust-domain", "", "the manager's own")
	flag.Parse()
	result, err := run(*name, flag.Args())
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(result)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(trustDomainName string, files []string) (*answer, error) {
	trustDomain, err := spiffeid.TrustDomainFromString(trustDomainName)
	if err != nil {
		return nil, fmt.Errorf("-trust-domain: %w", err)
	}
	scheme := runtime.NewScheme()
	if err := errors.Join(corev1.AddToScheme(scheme), spirev1alpha1.AddToScheme(scheme)); err != nil {
		return nil, err
	}
	objects, err := readObjects(scheme, files)
	if err != nil {
		return nil, err
	}
	objects = append(objects, &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "node", UID: "node"},
	})
	result := &answer{Problems: []problem{}, Entries: []entry{}, Masked: map[string]int{}}
	for _, object := range objects {
		complete(object)
		if err := validate(object); err != nil {
			result.Problems = append(result.Problems, problem{nameOf(object), err.Error()})
		}
	}
	if err := reconcile(result, scheme, trustDomain, objects); err != nil {
		return nil, err
	}
	slices.SortFunc(result.Problems, func(a, b problem) int {
		return cmp.Or(cmp.Compare(a.Object, b.Object), cmp.Compare(a.Problem, b.Problem))
	})
	slices.SortFunc(result.Entries, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.SPIFFEID, b.SPIFFEID), slices.Compare(a.Selectors, b.Selectors))
	})
	return result, nil
}

func nameOf(object client.Object) string {
	return strings.TrimPrefix(fmt.Sprintf("%T/%s", object, object.GetName()), "*v1alpha1.")
}

// validate is what the manager's admission webhook does. It has none for static entries.
func validate(object client.Object) error {
	switch o := object.(type) {
	case *spirev1alpha1.ClusterSPIFFEID:
		_, err := spirev1alpha1.ParseClusterSPIFFEIDSpec(&o.Spec)
		return err
	case *spirev1alpha1.ClusterFederatedTrustDomain:
		_, err := spirev1alpha1.ParseClusterFederatedTrustDomainSpec(&o.Spec)
		return err
	}
	return nil
}

func complete(object client.Object) {
	switch o := object.(type) {
	case *corev1.Namespace:
		if o.Labels == nil {
			o.Labels = map[string]string{}
		}
		o.Labels[corev1.LabelMetadataName] = o.Name
	case *corev1.Pod:
		o.UID = cmp.Or(o.UID, types.UID(o.Namespace+"/"+o.Name))
		o.Spec.NodeName = cmp.Or(o.Spec.NodeName, "node")
	}
}

func reconcile(
	result *answer, scheme *runtime.Scheme, trustDomain spiffeid.TrustDomain, objects []client.Object,
) error {
	cluster := fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).
		WithStatusSubresource(&spirev1alpha1.ClusterSPIFFEID{}, &spirev1alpha1.ClusterStaticEntry{}).
		Build()
	reconciler := spireentry.Reconciler(spireentry.ReconcilerConfig{
		TrustDomain:      trustDomain,
		ClusterName:      "cluster",
		ClusterDomain:    "cluster.local",
		EntryClient:      &recorder{result},
		K8sClient:        cluster,
		IgnoreNamespaces: ignoredNamespaces,
		WatchClassless:   true,
		Reconcile: spirev1alpha1.ReconcileConfig{
			ClusterSPIFFEIDs: true, ClusterStaticEntries: true,
		},
		GCInterval: time.Hour,
	})
	// What it can't render it only logs. Parsing is said by validate already.
	logger := funcr.NewJSON(func(line string) {
		var entry struct {
			Message string `json:"msg"`
			Error   string `json:"error"`
			Name    string `json:"clusterSPIFFEID"`
		}
		_ = json.Unmarshal([]byte(line), &entry)
		if entry.Error != "" && entry.Message != "Failed to parse ClusterSPIFFEID spec" {
			// It names all by that one key, as /NAME.
			kind := "ClusterSPIFFEID"
			if strings.Contains(entry.Message, "ClusterStaticEntry") {
				kind = "ClusterStaticEntry"
			}
			result.Problems = append(result.Problems,
				problem{kind + entry.Name, entry.Message + ": " + entry.Error})
		}
	}, funcr.Options{})
	// It reconciles once before it looks whether it should end.
	ctx, cancel := context.WithCancel(log.IntoContext(context.Background(), logger))
	log.SetLogger(logr.Discard())
	cancel()
	if err := reconciler.Run(ctx); !errors.Is(err, context.Canceled) {
		return err
	}

	var ids spirev1alpha1.ClusterSPIFFEIDList
	var entries spirev1alpha1.ClusterStaticEntryList
	listing := context.Background()
	if err := errors.Join(cluster.List(listing, &ids), cluster.List(listing, &entries)); err != nil {
		return err
	}
	for i := range ids.Items {
		if masked := ids.Items[i].Status.Stats.EntriesMasked; masked > 0 {
			result.Masked[nameOf(&ids.Items[i])] = masked
		}
	}
	for i := range entries.Items {
		if entries.Items[i].Status.Masked {
			result.Masked[nameOf(&entries.Items[i])] = 1
		}
	}
	return nil
}

// recorder is in SPIRE's place: it has no entries, and takes note of those it is given.
type recorder struct{ answer *answer }

func (r *recorder) CreateEntries(_ context.Context, created []spireapi.Entry) ([]spireapi.Status, error) {
	for _, e := range created {
		selectors := []string{}
		for _, selector := range e.Selectors {
			selectors = append(selectors, selector.Type+":"+selector.Value)
		}
		slices.Sort(selectors)
		federatesWith := []string{}
		for _, domain := range e.FederatesWith {
			federatesWith = append(federatesWith, domain.Name())
		}
		r.answer.Entries = append(r.answer.Entries, entry{
			SPIFFEID:      e.SPIFFEID.String(),
			ParentID:      e.ParentID.String(),
			Selectors:     selectors,
			X509SVIDTTL:   e.X509SVIDTTL.Seconds(),
			JWTSVIDTTL:    e.JWTSVIDTTL.Seconds(),
			FederatesWith: federatesWith,
			DNSNames:      append([]string{}, e.DNSNames...),
		})
	}
	return make([]spireapi.Status, len(created)), nil
}

func (*recorder) ListEntries(context.Context) ([]spireapi.Entry, error) { return nil, nil }

func (*recorder) UpdateEntries(context.Context, []spireapi.Entry) ([]spireapi.Status, error) {
	return nil, errors.New("there is nothing to update")
}

func (*recorder) DeleteEntries(context.Context, []string) ([]spireapi.Status, error) {
	return nil, errors.New("there is nothing to delete")
}

func (*recorder) GetUnsupportedFields(context.Context, string) (map[spireapi.Field]struct{}, error) {
	return nil, nil
}

// readObjects decodes strictly: an unknown field is an error, as with a server that
// validates fields.
func readObjects(scheme *runtime.Scheme, files []string) ([]client.Object, error) {
	strict := serializer.NewCodecFactory(scheme, serializer.EnableStrict)
	var objects []client.Object
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
			objects = append(objects, object.(client.Object))
		}
	}
	return objects, nil
}
