// Package bench holds a benchmark that runs the real bridge as a process, beside real brokers, on one machine, and sets
// what it does in relation to what the machine can do at all: an HTTP server that does nothing, the brokers' own
// clients with nothing else to do, and itself with nothing waiting. It has no code but tests: make bench runs it in
// about ten minutes and writes docs/performance.md; its short form is a test, so that it works when it is needed.
package bench
