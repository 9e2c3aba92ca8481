package charttest

import (
	"bufio"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"
)

// object is anything that the chart installs.
type object interface {
	runtime.Object
	GetName() string
	GetNamespace() string
	SetNamespace(namespace string)
	GetLabels() map[string]string
	GetAnnotations() map[string]string
}

// knownTypes are all types that the chart may install. Others come from extraObjects only.
func knownTypes(t *testing.T) *runtime.Scheme {
	t.Helper()
	types := runtime.NewScheme()
	require.NoError(t, scheme.AddToScheme(types))
	require.NoError(t, gatewayv1.Install(types))
	require.NoError(t, monitoringv1.AddToScheme(types))
	return types
}

// objects decodes what was rendered. A field that its type does not have fails the test, as does one that is there
// twice: Helm only warns of those.
func objects(t *testing.T, files map[string]string) []object {
	t.Helper()
	types := knownTypes(t)
	strict := json.NewSerializerWithOptions(json.DefaultMetaFactory, types, types,
		json.SerializerOptions{Yaml: true, Strict: true})
	var all []object
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if name == "NOTES.txt" {
			continue
		}
		for _, document := range documents(t, files[name]) {
			decoded, _, err := strict.Decode([]byte(document), nil, nil)
			if runtime.IsNotRegisteredError(err) && name == "extraobjects.yaml" {
				var u unstructured.Unstructured
				require.NoError(t, yaml.UnmarshalStrict([]byte(document), &u.Object), name)
				decoded, err = &u, nil
			}
			require.NoError(t, err, "%s:\n%s", name, document)
			o, ok := decoded.(object)
			require.True(t, ok, name)
			if o.GetNamespace() == "" {
				o.SetNamespace(namespace) // as Helm does
			}
			all = append(all, o)
		}
	}
	return all
}

// documents are the YAML documents of a text that hold anything.
func documents(t *testing.T, text string) []string {
	t.Helper()
	var all []string
	reader := utilyaml.NewYAMLReader(bufio.NewReader(strings.NewReader(text)))
	for {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return all
		}
		require.NoError(t, err)
		var content any
		require.NoError(t, yaml.Unmarshal(document, &content))
		if content != nil {
			all = append(all, string(document))
		}
	}
}

// install renders and decodes.
func install(t *testing.T, v values) []object {
	t.Helper()
	return objects(t, mustRender(t, v))
}

// of returns the objects of one type.
func of[T object](all []object) []T {
	var some []T
	for _, o := range all {
		if one, ok := o.(T); ok {
			some = append(some, one)
		}
	}
	return some
}

// one returns the only object of a type.
func one[T object](t *testing.T, all []object) T {
	t.Helper()
	some := of[T](all)
	require.Len(t, some, 1)
	return some[0]
}

// called returns the object of a type and a name.
func called[T object](t *testing.T, all []object, name string) T {
	t.Helper()
	for _, o := range of[T](all) {
		if o.GetName() == name {
			return o
		}
	}
	var none T
	require.Failf(t, "no such object", "there is no %T called %s", none, name)
	return none
}

// podTemplate is that of the bridge, whichever shape it has.
func podTemplate(t *testing.T, all []object) corev1.PodTemplateSpec {
	t.Helper()
	if sets := of[*appsv1.StatefulSet](all); len(sets) > 0 {
		require.Len(t, sets, 1)
		require.Empty(t, of[*appsv1.Deployment](all))
		return sets[0].Spec.Template
	}
	return one[*appsv1.Deployment](t, all).Spec.Template
}

// bridgeContainer is the container that runs fnbridge.
func bridgeContainer(t *testing.T, all []object) corev1.Container {
	t.Helper()
	for _, c := range podTemplate(t, all).Spec.Containers {
		if c.Name == "fnbridge" {
			return c
		}
	}
	require.Fail(t, "no container is called fnbridge")
	return corev1.Container{}
}

// pods are all pods that the chart makes: that of the bridge, and the test's.
func pods(t *testing.T, all []object) map[string]corev1.PodTemplateSpec {
	t.Helper()
	found := map[string]corev1.PodTemplateSpec{"bridge": podTemplate(t, all)}
	for _, p := range of[*corev1.Pod](all) {
		found[p.Name] = corev1.PodTemplateSpec{ObjectMeta: p.ObjectMeta, Spec: p.Spec}
	}
	return found
}
