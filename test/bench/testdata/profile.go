package main

import (
	"net/http"
	_ "net/http/pprof"
	"os"
)

// The benchmark lays this file over cmd/fnbridge in a build of its own when it is to take profiles. No other build has
// it.
func init() {
	go func() { _ = http.ListenAndServe(os.Getenv("BENCH_PPROF"), nil) }()
}
