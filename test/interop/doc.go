// Package interop holds what other people's clients make of what fnbridge writes. It has no code but tests.
package interop
