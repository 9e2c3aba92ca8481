// Package charttest tests the chart beside it as a cluster would take it: what Helm renders is decoded strictly, put
// through Kubernetes' own validation, and its variables are given to the bridge itself. It is a module of its own, so
// that the bridge does not require Kubernetes.
package charttest
