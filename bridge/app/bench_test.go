package app_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/fnbridge/fnbridge/bridge/app"
	"github.com/fnbridge/fnbridge/bridge/tensorlake"
)

// BenchmarkAccept posts signed webhooks over 128 connections on loopback and waits for each answer. "empty echo"
// answers 202 to whatever comes: the floor of the HTTP server and of the client, which shares the processors. "stored"
// is fnbridge with a sink that is out of reach, so that a webhook is verified, stored and fsynced, and waits. "stored
// and delivered" has the embedded NATS server store the two events of each webhook at the same time, in the same
// process.
func BenchmarkAccept(b *testing.B) {
	b.Run("empty echo", func(b *testing.B) {
		e := echo.New()
		e.POST("/webhooks/tensorlake", func(c echo.Context) error { return c.NoContent(http.StatusAccepted) })
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		server := &http.Server{Handler: e, ReadHeaderTimeout: time.Minute}
		done := make(chan error, 1)
		go func() { done <- server.Serve(l) }()
		postAll(b, l.Addr().String())
		_ = server.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			b.Fatal(err)
		}
	})
	b.Run("stored", func(b *testing.B) {
		// Port 1 of loopback refuses at once.
		benchmarkBridge(b, map[string]string{"NATS_URL": "nats://127.0.0.1:1"})
	})
	b.Run("stored and delivered", func(b *testing.B) { benchmarkBridge(b, nil) })
}

func benchmarkBridge(b *testing.B, changes map[string]string) {
	b.Helper()
	all := map[string]string{"SHUTDOWN_TIMEOUT": "2s"}
	maps.Copy(all, changes)
	cfg, _, err := app.LoadConfig(environment(b.TempDir(), all))
	if err != nil {
		b.Fatal(err)
	}
	a, err := app.New(b.Context(), app.Options{Config: cfg})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	postAll(b, a.Addr().String())
	cancel()
	if err := <-ended; err != nil {
		b.Fatal(err)
	}
}

func postAll(b *testing.B, address string) {
	b.Helper()
	const connections = 128
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: connections}}
	defer client.CloseIdleConnections()
	var n atomic.Int64
	b.SetParallelism(max(1, connections/runtime.GOMAXPROCS(0)))
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := postOne(client, address, n.Add(1)); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "webhooks/s")
}

func postOne(client *http.Client, address string, n int64) error {
	invocation := fmt.Sprintf("invocation_%d", n)
	body := workflowOf(invocation)
	header, err := tensorlake.Sign(secret, "msg_"+invocation, time.Now(), []byte(body))
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost,
		"http://"+address+"/webhooks/tensorlake", strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header = header
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusAccepted {
		return fmt.Errorf("answered %d: %s", resp.StatusCode, text)
	}
	return nil
}
