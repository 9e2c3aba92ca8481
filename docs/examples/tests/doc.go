// Package deploytest tests what docs/deploy.md offers beside the chart: the compose file and the systemd unit. Each is
// read by the library of the tool that it is for, and its variables are given to the bridge itself. It is a module of
// its own, so that the bridge requires neither library.
package deploytest
