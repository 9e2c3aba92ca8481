//go:build linux

package bench

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

// sample is how many messages the bare clients have, which they publish again and again.
const sample = 512

// natsBroker is a nats-server with JetStream, in its default configuration.
type natsBroker struct {
	url    string
	js     natsjs.JetStream
	nc     *natsgo.Conn
	opened int
	server process
}

// startNATS builds the server from the module that go.mod names, and starts it as a process.
func startNATS(t *testing.T) *natsBroker {
	t.Helper()
	dir := t.TempDir()
	binary := filepath.Join(dir, "nats-server")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "github.com/nats-io/nats-server/v2")
	build.Dir = modulePath()
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	address := reserveAddress(t)
	configuration := filepath.Join(dir, "nats.conf")
	require.NoError(t, os.WriteFile(configuration,
		fmt.Appendf(nil, "listen: %q\nlog_file: %q\njetstream: {store_dir: %q}\n",
			address, filepath.Join(dir, "nats.log"), filepath.Join(dir, "data")), 0o600))
	n := &natsBroker{url: "nats://" + address, server: start(t, exec.Command(binary, "-c", configuration))}
	n.nc, err = natsgo.Connect(n.url, natsgo.RetryOnFailedConnect(true), natsgo.MaxReconnects(-1),
		natsgo.ReconnectWait(20*time.Millisecond))
	require.NoError(t, err)
	t.Cleanup(n.nc.Close)
	n.js, err = natsjs.New(n.nc, natsjs.WithDefaultTimeout(patience))
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		_, err := n.js.AccountInfo(t.Context())
		return err == nil
	}, patience, 20*time.Millisecond, "nats-server does not come up")
	return n
}

func (n *natsBroker) kind() string { return "nats" }

func (n *natsBroker) cpu(t *testing.T) time.Duration {
	t.Helper()
	return n.server.cpu(t)
}

func (n *natsBroker) open(t *testing.T) outlet {
	t.Helper()
	n.opened++
	o := &natsOutlet{broker: n, name: fmt.Sprintf("BENCH_%d", n.opened)}
	var err error
	// It differs from what the bridge would make in its subjects alone.
	o.stream, err = n.js.CreateStream(t.Context(), natsjs.StreamConfig{
		Name: o.name, Subjects: []string{o.name + ".>"}, MaxAge: 168 * time.Hour, Duplicates: 10 * time.Minute,
	})
	require.NoError(t, err)
	return o
}

// natsOutlet is a stream.
type natsOutlet struct {
	broker *natsBroker
	name   string
	stream natsjs.Stream
}

func (o *natsOutlet) env() map[string]string {
	return map[string]string{
		"": "nats", "URL": o.broker.url, "STREAM": o.name, "SUBJECT": o.name + ".{route}",
		"CREATE_STREAM": "false",
	}
}

func (o *natsOutlet) stored(t *testing.T) int {
	t.Helper()
	info, err := o.stream.Info(t.Context())
	require.NoError(t, err)
	return int(info.State.Msgs)
}

func (o *natsOutlet) drop(t *testing.T) {
	t.Helper()
	require.NoError(t, o.broker.js.DeleteStream(t.Context(), o.name))
}

func (o *natsOutlet) consume(ctx context.Context, t *testing.T, received func(webhookID string)) {
	t.Helper()
	consumer, err := o.broker.js.OrderedConsumer(ctx, o.name, natsjs.OrderedConsumerConfig{})
	require.NoError(t, err)
	consuming, err := consumer.Consume(func(m natsjs.Msg) { received(m.Headers().Get("ce-webhookid")) })
	require.NoError(t, err)
	<-ctx.Done()
	consuming.Stop()
	<-consuming.Closed()
}

func (o *natsOutlet) bare(t *testing.T, count int) time.Duration {
	t.Helper()
	to, ok := o.broker.open(t).(*natsOutlet)
	require.True(t, ok)
	defer to.drop(t)
	var messages []*natsgo.Msg
	for seq := range min(sample, o.stored(t)) {
		m, err := o.stream.GetMsg(t.Context(), uint64(seq+1))
		require.NoError(t, err)
		subject := to.name + m.Subject[len(o.name):]
		header := m.Header
		header.Set(natsjs.ExpectedStreamHeader, to.name)
		messages = append(messages, &natsgo.Msg{Subject: subject, Header: header, Data: m.Data})
	}
	nc, err := natsgo.Connect(o.broker.url, natsgo.Timeout(patience))
	require.NoError(t, err)
	defer nc.Close()
	var failed atomic.Int64
	// The library's own bound of what is under way is left as it is.
	js, err := natsjs.New(nc, natsjs.WithPublishAsyncErrHandler(func(natsjs.JetStream, *natsgo.Msg, error) {
		failed.Add(1)
	}))
	require.NoError(t, err)
	began := time.Now()
	for i := range count {
		m := messages[i%len(messages)]
		header := maps.Clone(m.Header)
		id := m.Header.Get(natsjs.MsgIDHeader)
		number := fmt.Sprintf("%08d", i)
		header[natsjs.MsgIDHeader] = []string{id[:max(0, len(id)-len(number))] + number}
		_, err := js.PublishMsgAsync(&natsgo.Msg{Subject: m.Subject, Header: header, Data: m.Data},
			natsjs.WithStallWait(time.Minute))
		require.NoError(t, err)
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-t.Context().Done():
	}
	took := time.Since(began)
	require.Zero(t, failed.Load())
	require.Equal(t, count, to.stored(t))
	return took
}
