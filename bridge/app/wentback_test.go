package app_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/fnbridge/fnbridge/bridge/admin"
	"github.com/fnbridge/fnbridge/sinks/sinktest/natsserver"
)

// deliver sends n webhooks of two events each, and waits until the sink has them, and the journal knows.
func (r *running) deliver(dir string, from, n int) {
	r.t.Helper()
	for i := from; i < from+n; i++ {
		r.mustPost(fmt.Sprintf("msg_%d", i), workflowOf(fmt.Sprintf("invocation_%d", i)),
			http.StatusAccepted)
	}
	r.awaitStatus(dir, func(s admin.SinkStatus) bool { return s.BacklogWebhooks == 0 })
}

// awaitStatus waits until "fnbridge status" shows a sink as wanted.
func (r *running) awaitStatus(dir string, wanted func(admin.SinkStatus) bool) (sink admin.SinkStatus) {
	r.t.Helper()
	require.Eventually(r.t, func() bool {
		s, err := admin.ReadStatus(r.t.Context(), dir)
		require.NoError(r.t, err)
		sink = s.Sinks[0]
		return wanted(sink)
	}, bound, 5*time.Millisecond)
	return sink
}

// requireInvocations asks for both events of each webhook.
func requireInvocations(t *testing.T, msgs []natsjs.Msg, n int) {
	t.Helper()
	have := map[string]bool{}
	for _, m := range msgs {
		have[m.Headers().Get("ce-subject")] = true
	}
	for i := range n {
		require.Contains(t, have, fmt.Sprintf("invocation_%d/fn_A", i))
		require.Contains(t, have, fmt.Sprintf("invocation_%d/fn_B", i))
	}
}

// copyOf is what a crash of the machine would leave of a directory that nothing writes to at the moment.
func copyOf(t *testing.T, dir string) string {
	t.Helper()
	image := filepath.Join(t.TempDir(), "copy")
	require.NoError(t, os.MkdirAll(image, 0o700))
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		to := filepath.Join(image, strings.TrimPrefix(path, dir))
		switch {
		case err != nil:
			return err
		case d.IsDir():
			return os.MkdirAll(to, 0o700)
		case !d.Type().IsRegular():
			return nil
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(to, content, 0o600)
	}))
	return image
}

// TestWhatTheEmbeddedServerLostIsThereAgain takes events from its disk behind its back.
func TestWhatTheEmbeddedServerLostIsThereAgain(t *testing.T) {
	const webhooks = 100
	streams := filepath.Join("nats", "jetstream", "$G", "streams", "TENSORLAKE")
	for name, damage := range map[string]func(t *testing.T, dir string){
		"the stream's folder is removed": func(t *testing.T, dir string) {
			t.Helper()
			require.NoError(t, os.RemoveAll(filepath.Join(dir, streams)))
		},
		"a sector of its messages is zeroed": func(t *testing.T, dir string) {
			t.Helper()
			block := filepath.Join(dir, streams, "msgs", "1.blk")
			content, err := os.ReadFile(block)
			require.NoError(t, err)
			at := bytes.Index(content, []byte("invocation_97/")) / 512 * 512
			require.Positive(t, at)
			copy(content[at:at+512], make([]byte, 512))
			require.NoError(t, os.WriteFile(block, content, 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			r := start(t, dir, nil)
			r.deliver(dir, 0, webhooks)
			image := copyOf(t, dir)
			damage(t, image)

			again := start(t, image, nil)
			again.awaitLog("the sink's broker went back, and events that it had acknowledged may be missing; they are replayed")
			again.awaitLog("a replay is through")
			again.awaitStatus(image, func(s admin.SinkStatus) bool { return s.Missing == nil })
			again.awaitSample(`fnbridge_sink_went_back_total{sink="nats"}`, 1)
			again.awaitSample(`fnbridge_sink_missing_webhooks{sink="nats"}`, 0)
			info := streamInfo(t, again.NATSURL())
			requireInvocations(t, again.inStream(int(info.State.Msgs)), webhooks)

			require.NoError(t, again.stop())
			once := start(t, image, nil)
			once.deliver(image, webhooks, 1)
			require.NotContains(t, once.log.String(), "went back", "it has been noted")
		})
	}
}

func streamInfo(t *testing.T, url string) *natsjs.StreamInfo {
	t.Helper()
	nc := natsserver.Connect(t, url)
	defer nc.Close()
	s, err := natsserver.JetStream(t, nc).Stream(t.Context(), "TENSORLAKE")
	require.NoError(t, err)
	return s.CachedInfo()
}

// TestAServerThatWentBackIsSaidAndHealedByAReplay has servers of somebody else lose events.
func TestAServerThatWentBackIsSaidAndHealedByAReplay(t *testing.T) {
	const webhooks = 20
	for name, lose := range map[string]func(t *testing.T, s *natsserver.Server, dir, older string){
		"the stream is deleted, and made anew": func(t *testing.T, s *natsserver.Server, _, _ string) {
			t.Helper()
			nc := natsserver.Connect(t, s.URL())
			defer nc.Close()
			require.NoError(t, natsserver.JetStream(t, nc).DeleteStream(t.Context(), "TENSORLAKE"))
		},
		"its store is an older copy": func(t *testing.T, s *natsserver.Server, dir, older string) {
			t.Helper()
			s.Stop(t)
			require.NoError(t, os.RemoveAll(dir))
			require.NoError(t, os.CopyFS(dir, os.DirFS(older)))
			s.Start(t)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := t.TempDir()
			s := natsserver.Single(t, func(o *server.Options) { o.StoreDir = store })
			dir := t.TempDir()
			r := start(t, dir, map[string]string{"NATS_URL": s.URL()})
			r.deliver(dir, 0, webhooks)
			older := copyOf(t, store)
			r.deliver(dir, webhooks, webhooks)
			lose(t, s, store, older)
			r.deliver(dir, 2*webhooks, 1)

			sink := r.awaitStatus(dir, func(s admin.SinkStatus) bool { return s.Missing != nil })
			require.Contains(t, sink.Missing.Found, "stream TENSORLAKE")
			require.GreaterOrEqual(t, sink.Missing.Webhooks, int64(webhooks))
			require.Zero(t, sink.Missing.Replay)
			require.Regexp(t, "^fnbridge replay --sink nats (--all|--since 20.*Z)$", sink.Missing.Command)
			r.awaitLog(sink.Missing.Command)
			require.Equal(t, 1, strings.Count(r.log.String(), "went back, and events"))
			r.awaitSample(`fnbridge_sink_went_back_total{sink="nats"}`, 1)
			r.awaitSample(`fnbridge_sink_missing_webhooks{sink="nats"}`, float64(sink.Missing.Webhooks))

			_, err := admin.AskReplay(t.Context(), dir, admin.ReplayRequest{})
			require.NoError(t, err)
			r.awaitStatus(dir, func(s admin.SinkStatus) bool { return s.Missing == nil })
			r.awaitSample(`fnbridge_sink_missing_webhooks{sink="nats"}`, 0)
			info := streamInfo(t, s.URL())
			requireInvocations(t, inStream(t, s.URL(), "TENSORLAKE", int(info.State.Msgs)), 2*webhooks+1)
		})
	}
}

// TestWhatAStreamDropsByItselfIsNotMissing: purges, limits and restarts do not move a stream back.
func TestWhatAStreamDropsByItselfIsNotMissing(t *testing.T) {
	s := natsserver.Single(t, func(o *server.Options) { o.StoreDir = t.TempDir() })
	dir := t.TempDir()
	r := start(t, dir, map[string]string{"NATS_URL": s.URL()})
	r.deliver(dir, 0, 10)
	nc := natsserver.Connect(t, s.URL())
	defer nc.Close()
	js := natsserver.JetStream(t, nc)
	stream, err := js.Stream(t.Context(), "TENSORLAKE")
	require.NoError(t, err)
	require.NoError(t, stream.Purge(t.Context()))
	r.deliver(dir, 10, 10)
	config := stream.CachedInfo().Config
	config.MaxMsgs = 3
	_, err = js.UpdateStream(t.Context(), config)
	require.NoError(t, err)
	r.deliver(dir, 20, 10)
	require.NoError(t, stream.Purge(t.Context())) // so that it is empty when the server starts
	s.Stop(t)
	s.Start(t)
	r.deliver(dir, 30, 10)
	require.NoError(t, r.stop())
	again := start(t, dir, map[string]string{"NATS_URL": s.URL()})
	again.deliver(dir, 40, 10)
	require.NoError(t, again.stop())
	require.NotContains(t, r.log.String()+again.log.String(), "went back")
}

func TestATopicThatIsMadeAnewIsSaid(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "tensorlake-events"))
	require.NoError(t, err)
	defer cluster.Close()
	dir := t.TempDir()
	kafka := map[string]string{"SINKS": "kafka", "KAFKA_BROKERS": strings.Join(cluster.ListenAddrs(), ",")}
	r := start(t, dir, kafka)
	r.deliver(dir, 0, 20)
	require.NoError(t, cluster.DeleteTopic("tensorlake-events"))
	require.NoError(t, cluster.CreateTopic("tensorlake-events", 1, nil))
	r.deliver(dir, 20, 4)
	sink := r.awaitStatus(dir, func(s admin.SinkStatus) bool { return s.Missing != nil })
	require.Contains(t, sink.Missing.Found, `topic "tensorlake-events" partition`)
	require.Equal(t, "fnbridge replay --sink kafka --all", sink.Missing.Command)
	r.awaitLog(sink.Missing.Command)
	require.NoError(t, r.stop())

	// It is still there when the bridge starts anew.
	again := start(t, dir, kafka)
	again.awaitSample(`fnbridge_sink_missing_webhooks{sink="kafka"}`, float64(sink.Missing.Webhooks))
	_, err = admin.AskReplay(t.Context(), dir, admin.ReplayRequest{})
	require.NoError(t, err)
	again.awaitStatus(dir, func(s admin.SinkStatus) bool { return s.Missing == nil })
}
