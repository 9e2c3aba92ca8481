package app_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/sinks/sinktest/machine"
	"github.com/fnbridge/fnbridge/sinks/sinktest/natsserver"
)

// A load balancer's configuration for two bridges has %[1]s as the address to listen at, those of the bridges behind
// it, a directory for its own files, and the ports of the bridges' operations listeners. Connections are kept.

// nginxConfiguration is the one that docs/deploy.md shows, and what a process needs around it.
func nginxConfiguration(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile("../../docs/deploy.md")
	require.NoError(t, err)
	_, shown, _ := strings.Cut(string(page), "\n```nginx\n")
	shown, _, found := strings.Cut(shown, "\n```\n")
	require.True(t, found)
	for placeholder, verb := range map[string]string{
		"listen 443": "listen %[1]s", "bridge-1.example.com:8080": "%[2]s", "bridge-2.example.com:8080": "%[3]s",
		"/etc/nginx/": "%[4]s/",
	} {
		require.Contains(t, shown, placeholder)
		shown = strings.ReplaceAll(shown, placeholder, verb)
	}
	return `
# The operations listeners, at the ports %[5]s and %[6]s, are not asked: this nginx finds out by itself.
daemon off; pid %[4]s/nginx.pid; error_log stderr warn;
events { worker_connections 512; }
http {
  access_log off;
  client_body_buffer_size 1m; # where this runs as root, its workers reach no file of the test
  client_body_temp_path %[4]s/body; proxy_temp_path %[4]s/proxy; fastcgi_temp_path %[4]s/fastcgi;
  uwsgi_temp_path %[4]s/uwsgi; scgi_temp_path %[4]s/scgi;
` + shown + `
}
`
}

const haproxyConfiguration = `
global
  maxconn 512
defaults
  mode http
  timeout connect 5s
  timeout client 30s
  timeout server 30s
  option redispatch
  http-reuse safe
frontend webhooks
  bind %[1]s
  default_backend bridges
backend bridges
  option httpchk GET /readyz
  timeout check 30s # a bridge that is slow to say so is no bridge that is gone
  default-server check inter 200ms fall 2 rise 1
  server a %[2]s port %[5]s
  server b %[3]s port %[6]s
`

// Two bridges behind a load balancer are stopped and started by turns under load, as in a rollout: every webhook has
// its answer, by whichever of them.
func TestAStopBehindALoadBalancerCostsNoRequest(t *testing.T) {
	for _, balancer := range []struct {
		program, scheme, configuration string
		arguments                      func(file string) []string
	}{
		{"nginx", "https", nginxConfiguration(t), func(file string) []string { return []string{"-c", file} }},
		{"haproxy", "http", haproxyConfiguration, func(file string) []string { return []string{"-db", "-f", file} }},
	} {
		t.Run(balancer.program, func(t *testing.T) {
			t.Parallel()
			path := findProgram(t, balancer.program)
			broker := natsserver.Single(t)
			var places, ops [2]string
			var bridges [2]*running
			open := func(i int) {
				bridges[i] = start(t, noDir(t), overSinks(broker, map[string]string{
					"LISTEN": places[i], "OPS_LISTEN": "127.0.0.1:" + ops[i], "DRAIN": "2s",
				}))
				bridges[i].awaitReady(http.StatusOK)
			}
			for i := range bridges {
				places[i] = freeAddress(t)
				_, ops[i], _ = net.SplitHostPort(freeAddress(t))
				open(i)
			}
			front := freeAddress(t)
			dir := t.TempDir()
			roots := x509.NewCertPool()
			roots.AddCert(certificate(t, filepath.Join(dir, "hooks.crt"), filepath.Join(dir, "hooks.key"), "hooks"))
			file := filepath.Join(dir, "configuration")
			text := fmt.Sprintf(balancer.configuration, front, places[0], places[1], dir, ops[0], ops[1])
			require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
			runProgram(t, front, path, balancer.arguments(file)...)
			outside := url.URL{Scheme: balancer.scheme, Host: front}
			newClient := func() *http.Client {
				return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
			}

			signer := bridges[0] // all know its secret
			load, stop := context.WithCancel(t.Context())
			var senders sync.WaitGroup
			var failures []string
			var mu sync.Mutex
			answered := 0
			// Some senders go on without a pause, others let their connections lie for a while.
			for n := range 16 {
				pause := time.Duration(n%4) * 50 * time.Millisecond
				senders.Go(func() {
					client := newClient()
					defer client.CloseIdleConnections()
					for i := 0; load.Err() == nil; i++ {
						//nolint:contextcheck // a request is not cut when the load ends
						failure := send(client, signer, outside, fmt.Sprintf("msg_%d_%d", n, i), 0)
						mu.Lock()
						answered++
						if failure != "" {
							failures = append(failures, failure)
						}
						mu.Unlock()
						select {
						case <-time.After(pause):
						case <-load.Done():
						}
					}
				})
			}
			for i := range 4 {
				require.NoError(t, bridges[i%2].stop())
				open(i % 2)
				bridges[i%2].awaitLog("webhook stored") // the load balancer knows that it is back
			}
			stop()
			senders.Wait()
			require.Empty(t, failures, "of %d webhooks", answered)
			require.Greater(t, answered, 100)

			client := newClient()
			defer client.CloseIdleConnections()
			require.Empty(t, send(client, signer, outside, "msg_large", 1<<20), "as large as FNBRIDGE_MAX_BODY")
		})
	}
}

// send posts a workflow through the load balancer, with spaces up to a length, and says what is wrong with the answer.
// It is signed as r's are.
func send(client *http.Client, r *running, outside url.URL, id string, length int) (failure string) {
	body := workflowOf(id)
	body += strings.Repeat(" ", max(0, length-len(body)))
	req := r.signed(id, body)
	req.URL.Scheme, req.URL.Host, req.Host = outside.Scheme, outside.Host, outside.Host
	resp, err := client.Do(req)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return resp.Status
	}
	return ""
}

func findProgram(t *testing.T, name string) (path string) {
	t.Helper()
	for _, candidate := range []string{name, "/usr/sbin/" + name} { // not every user's PATH has the latter
		if path, err := exec.LookPath(candidate); err == nil {
			return path
		}
	}
	machine.Lacks(t, "%s is not installed", name)
	return ""
}

// runProgram runs a program until the test ends, and returns once it listens at an address.
func runProgram(t *testing.T, address, path string, arguments ...string) {
	t.Helper()
	var output logText
	cmd := exec.Command(path, arguments...)
	cmd.Stdout, cmd.Stderr = &output, &output
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(output.String())
		}
	})
	require.Eventually(t, func() bool {
		c, err := net.Dial("tcp", address)
		if err != nil {
			return false
		}
		return c.Close() == nil
	}, bound, 10*time.Millisecond)
}
