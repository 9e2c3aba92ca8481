// Package torture holds a test that runs the real bridge against real brokers under load, breaks whatever can break in
// a random order, and afterwards accounts for every webhook that was answered with 2xx. It has no code but tests: make
// torture runs it for a few minutes, make torture-long for an hour.
package torture
