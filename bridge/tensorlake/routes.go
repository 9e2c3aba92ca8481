package tensorlake

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/fnbridge/fnbridge/bridge"
)

// knownRoutes are patterns of the routes that events of known kinds have. Any other family's begin with its word.
func knownRoutes() []string {
	return []string{
		routeOfWorkflow + ".*.*.*",
		strings.TrimPrefix(invocationType, typePrefix),
		routeOfApplication + ".*.>",
		routeOfSandbox + ".*.>",
		routeOfUnrecognized,
		routeOfOther + ".>",
	}
}

// CheckRoutes refuses patterns that no event's route can match.
func CheckRoutes(r bridge.Routes) error {
	var errs []error
	for _, pattern := range r.Patterns() {
		if !canMatch(pattern) {
			errs = append(errs, fmt.Errorf("the pattern %q can never match: routes are %s, "+
				"and <family>.> of other families of events",
				strings.Join(pattern, "."), strings.Join(knownRoutes(), ", ")))
		}
	}
	return errors.Join(errs...)
}

func canMatch(pattern []string) bool {
	if IsFamily(pattern[0]) || pattern[0] == "*" || pattern[0] == ">" {
		return true
	}
	return slices.ContainsFunc(knownRoutes(), func(route string) bool {
		return bridge.Overlap(pattern, strings.Split(route, "."))
	})
}
