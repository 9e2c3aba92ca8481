// Package recovery holds a test that takes brokers away and gives them back, and measures how long the bridge, and the
// client library of each sink alone, take to store something again. It has no code but tests: make recovery runs it in
// full.
package recovery
