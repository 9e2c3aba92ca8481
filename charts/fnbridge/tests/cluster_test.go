package charttest

import (
	"context"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	podoptions "k8s.io/kubernetes/pkg/api/pod"
	_ "k8s.io/kubernetes/pkg/apis/apps/install"
	_ "k8s.io/kubernetes/pkg/apis/autoscaling/install"
	"k8s.io/kubernetes/pkg/apis/core"
	_ "k8s.io/kubernetes/pkg/apis/core/install"
	"k8s.io/kubernetes/pkg/apis/core/validation"
	_ "k8s.io/kubernetes/pkg/apis/networking/install"
	_ "k8s.io/kubernetes/pkg/apis/policy/install"
	"k8s.io/kubernetes/pkg/registry/apps/deployment"
	"k8s.io/kubernetes/pkg/registry/apps/statefulset"
	"k8s.io/kubernetes/pkg/registry/autoscaling/horizontalpodautoscaler"
	"k8s.io/kubernetes/pkg/registry/networking/ingress"
	"k8s.io/kubernetes/pkg/registry/networking/networkpolicy"
	"k8s.io/kubernetes/pkg/registry/policy/poddisruptionbudget"
	podsecurity "k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/yaml"
)

// internal is an object as Kubernetes' API server holds it: converted, and with its defaults. It is nil for types that
// are not Kubernetes' own.
func internal(t *testing.T, o object) runtime.Object {
	t.Helper()
	if !legacyscheme.Scheme.Recognizes(o.GetObjectKind().GroupVersionKind()) { //nolint:misspell // Kubernetes' spelling
		return nil
	}
	copied := o.DeepCopyObject()
	legacyscheme.Scheme.Default(copied)
	hub, err := legacyscheme.Scheme.UnsafeConvertToVersion(copied, runtime.InternalGroupVersioner)
	require.NoError(t, err)
	m, err := meta.Accessor(hub)
	require.NoError(t, err)
	rest.FillObjectMetaSystemFields(m)
	m.SetUID(types.UID("of " + o.GetName()))
	m.SetResourceVersion("")
	return hub
}

// strategies are what the API server itself creates and updates with. Those of the core types would need all of it; for
// these there is coreProblems.
func strategies() map[schema.GroupKind]rest.RESTCreateUpdateStrategy {
	return map[schema.GroupKind]rest.RESTCreateUpdateStrategy{
		{Group: "apps", Kind: "StatefulSet"}:                    statefulset.Strategy,
		{Group: "apps", Kind: "Deployment"}:                     deployment.Strategy,
		{Group: "autoscaling", Kind: "HorizontalPodAutoscaler"}: horizontalpodautoscaler.Strategy,
		{Group: "networking.k8s.io", Kind: "Ingress"}:           ingress.Strategy,
		{Group: "networking.k8s.io", Kind: "NetworkPolicy"}:     networkpolicy.Strategy,
		{Group: "policy", Kind: "PodDisruptionBudget"}:          poddisruptionbudget.Strategy,
	}
}

// request is the context of a request to the API server for an object.
func request(o object) context.Context {
	gvk := o.GetObjectKind().GroupVersionKind()
	ctx := genericapirequest.WithNamespace(context.Background(), o.GetNamespace())
	return genericapirequest.WithRequestInfo(ctx, &genericapirequest.RequestInfo{
		APIGroup: gvk.Group, APIVersion: gvk.Version, Namespace: o.GetNamespace(), Name: o.GetName(),
	})
}

// create says why the API server would refuse to create an object.
func create(t *testing.T, o object) error {
	t.Helper()
	hub := internal(t, o)
	if hub == nil {
		return nil
	}
	if strategy, ok := strategies()[o.GetObjectKind().GroupVersionKind().GroupKind()]; ok {
		return rest.BeforeCreate(strategy, request(o), hub)
	}
	switch hub := hub.(type) {
	case *core.Service:
		if hub.Spec.ClusterIP != "" {
			hub.Spec.ClusterIPs = []string{hub.Spec.ClusterIP} // as the server does by itself, and the port:
		}
		if hub.Spec.ExternalTrafficPolicy == core.ServiceExternalTrafficPolicyLocal {
			hub.Spec.HealthCheckNodePort = 30000
		}
		return validation.ValidateServiceCreate(hub).ToAggregate()
	case *core.Secret:
		return validation.ValidateSecret(hub).ToAggregate()
	case *core.ConfigMap:
		return validation.ValidateConfigMap(hub).ToAggregate()
	case *core.ServiceAccount:
		return validation.ValidateServiceAccount(hub).ToAggregate()
	case *core.Pod:
		options := podoptions.GetValidationOptionsFromPodSpecAndMeta(&hub.Spec, nil, &hub.ObjectMeta, nil)
		return validation.ValidatePodCreate(hub, options).ToAggregate()
	}
	require.Failf(t, "not validated", "the test does not know how to validate a %T", hub)
	return nil
}

// replace says why the API server would refuse to replace an object that it has.
func replace(t *testing.T, before, after object) error {
	t.Helper()
	strategy, ok := strategies()[after.GetObjectKind().GroupVersionKind().GroupKind()]
	if !ok {
		return nil
	}
	old, updated := internal(t, before), internal(t, after)
	for _, o := range []runtime.Object{old, updated} {
		m, err := meta.Accessor(o)
		require.NoError(t, err)
		m.SetResourceVersion("1")
	}
	oldMeta, err := meta.Accessor(old)
	require.NoError(t, err)
	newMeta, err := meta.Accessor(updated)
	require.NoError(t, err)
	newMeta.SetCreationTimestamp(oldMeta.GetCreationTimestamp())
	return rest.BeforeUpdate(strategy, request(after), updated, old)
}

// TestAPIServerTakesEverything puts every object through the code with which Kubernetes' API server validates it.
func TestAPIServerTakesEverything(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, v values) {
		for _, o := range install(t, v) {
			require.NoError(t, create(t, o), "%s %s", o.GetObjectKind().GroupVersionKind().Kind, o.GetName())
		}
	})
}

// TestRestrictedProfile puts every pod through the admission of the Pod Security Standard "restricted".
func TestRestrictedProfile(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, v values) {
		for name, pod := range pods(t, install(t, v)) {
			requireRestricted(t, name, &pod.ObjectMeta, &pod.Spec)
		}
	})
}

func requireRestricted(t *testing.T, name string, about *metav1.ObjectMeta, spec *corev1.PodSpec) {
	t.Helper()
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	require.NoError(t, err)
	restricted := podsecurity.LevelVersion{Level: podsecurity.LevelRestricted, Version: podsecurity.LatestVersion()}
	result := policy.AggregateCheckResults(evaluator.EvaluatePod(restricted, about, spec))
	require.True(t, result.Allowed, "%s: %s", name, result.ForbiddenDetail())
}

// The pod of the documents that stays beside the journal of one that does not start is taken, and has its claim.
func TestThePodBesideAJournal(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../../docs/examples/kubernetes/journal.yaml")
	require.NoError(t, err)
	var pod corev1.Pod
	require.NoError(t, yaml.UnmarshalStrict(text, &pod))
	pod.Namespace = namespace
	require.NoError(t, create(t, &pod))
	requireRestricted(t, pod.Name, &pod.ObjectMeta, &pod.Spec)
	bridge := one[*appsv1.StatefulSet](t, install(t, values{"fullnameOverride": "fnbridge"}))
	require.Equal(t, bridge.Spec.VolumeClaimTemplates[0].Name+"-"+bridge.Name+"-0",
		pod.Spec.Volumes[0].PersistentVolumeClaim.ClaimName)
	require.Equal(t, bridge.Spec.Template.Spec.SecurityContext.RunAsUser, pod.Spec.SecurityContext.RunAsUser)
}

// TestBeyondRestricted holds what the restricted profile leaves open.
func TestBeyondRestricted(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, v values) {
		all := install(t, v)
		for name, pod := range pods(t, all) {
			require.Equal(t, new(false), pod.Spec.AutomountServiceAccountToken, name)
			require.Equal(t, new(false), pod.Spec.EnableServiceLinks, name)
			require.NotNil(t, pod.Spec.SecurityContext, name)
			require.Equal(t, new(int64(65532)), pod.Spec.SecurityContext.RunAsUser, name)
			require.Equal(t, new(int64(65532)), pod.Spec.SecurityContext.FSGroup, name)
			for _, c := range append(pod.Spec.Containers, pod.Spec.InitContainers...) {
				require.NotNil(t, c.SecurityContext, c.Name)
				require.Equal(t, new(true), c.SecurityContext.ReadOnlyRootFilesystem, c.Name)
				require.Equal(t, []corev1.Capability{"ALL"}, c.SecurityContext.Capabilities.Drop, c.Name)
			}
		}
		for _, account := range of[*corev1.ServiceAccount](all) {
			require.Equal(t, new(false), account.AutomountServiceAccountToken)
		}
	})
}
