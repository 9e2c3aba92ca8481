package app_test

import (
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
	svix "github.com/svix/svix-webhooks/go"

	"github.com/fnbridge/fnbridge/bridge/admin"
	"github.com/fnbridge/fnbridge/sinks/sinktest/natsserver"
	"github.com/fnbridge/fnbridge/sinks/sinktest/testcert"
)

const newSecret = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oDC2FVsBQIhrscChlQ"

// kubelet mounts Secrets as Kubernetes does: each file is a link through one link to a folder, which is exchanged.
type kubelet struct {
	mount   string
	files   map[string]string
	updates int
}

// update exchanges some of the files.
func (k *kubelet) update(t *testing.T, files map[string]string) {
	t.Helper()
	maps.Copy(k.files, files)
	k.updates++
	dir := filepath.Join(k.mount, fmt.Sprintf("..%d", k.updates))
	require.NoError(t, os.Mkdir(dir, 0o700))
	for name, text := range k.files {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	require.NoError(t, os.Symlink(filepath.Base(dir), filepath.Join(k.mount, "..data_tmp")))
	old, _ := os.Readlink(filepath.Join(k.mount, "..data"))
	require.NoError(t, os.Rename(filepath.Join(k.mount, "..data_tmp"), filepath.Join(k.mount, "..data")))
	if old != "" {
		require.NoError(t, os.RemoveAll(filepath.Join(k.mount, old)))
	}
	for name := range files {
		if err := os.Symlink(filepath.Join("..data", name), k.path(name)); err != nil {
			require.ErrorIs(t, err, os.ErrExist)
		}
	}
}

func (k *kubelet) path(name string) string { return filepath.Join(k.mount, name) }

// rotatingSender posts webhooks one after the other, signed with the secret of the moment.
type rotatingSender struct {
	signing       atomic.Pointer[svix.Webhook]
	taken         atomic.Int64
	others        atomic.Int64 // answers that are no 202
	lastComplaint atomic.Value
	stopped       atomic.Bool
}

func (s *rotatingSender) signWith(t *testing.T, secret string) {
	t.Helper()
	wh, err := svix.NewWebhook(secret)
	require.NoError(t, err)
	s.signing.Store(wh)
}

// run posts until s is stopped.
func (s *rotatingSender) run(r *running, worker int) {
	pace := time.NewTicker(5 * time.Millisecond) // rotation is what is tested, and the load is only there
	defer pace.Stop()
	for n := 0; !s.stopped.Load(); n++ {
		<-pace.C
		id, at := fmt.Sprintf("msg_%d_%d", worker, n), time.Now()
		body := workflowOf(fmt.Sprintf("invocation_%d_%d", worker, n))
		req := r.signed(id, body)
		signature, err := s.signing.Load().Sign(id, at, []byte(body))
		if err != nil {
			panic(err)
		}
		req.Header.Set("Svix-Timestamp", fmt.Sprint(at.Unix()))
		req.Header.Set("Svix-Signature", signature)
		resp, err := r.http.Do(req)
		if err != nil {
			s.others.Add(1)
			s.lastComplaint.Store(err.Error())
			continue
		}
		_ = resp.Body.Close()
		if resp.StatusCode == http.StatusAccepted {
			s.taken.Add(1)
			continue
		}
		s.others.Add(1)
		s.lastComplaint.Store(resp.Status)
	}
}

// goesOn waits until a few more webhooks were taken.
func (s *rotatingSender) goesOn(t *testing.T) {
	t.Helper()
	want := s.taken.Load() + 20
	require.Eventually(t, func() bool { return s.taken.Load() >= want }, bound, 5*time.Millisecond)
}

// awaitChanges waits until the file of a variable was taken over so often.
func (r *running) awaitChanges(variable string, n int) {
	r.t.Helper()
	want := fmt.Sprintf("fnbridge_file_changes_total{variable=%q} %d", variable, n)
	require.Eventually(r.t, func() bool {
		_, metrics := r.get("/metrics")
		return strings.Contains(metrics, want)
	}, bound, 20*time.Millisecond, want)
}

// page asks for what the page is made of.
func (r *running) page(t *testing.T, token string) (status int) {
	t.Helper()
	url := "http://" + r.OpsAddr().String() + "/api/status"
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	require.NoError(t, err)
	req.SetBasicAuth("", token)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	return resp.StatusCode
}

const firstToken, secondToken = "the-first-token-of-the-server", "the-second-token-of-the-server"

// clientInside connects to the server inside, with a token. ended has one when the connection has ended.
func (r *running) clientInside(t *testing.T, token string) (ended <-chan struct{}, err error) {
	t.Helper()
	closed := make(chan struct{}, 1)
	nc, err := nats.Connect(r.NATSURL(), nats.Token(token), nats.Timeout(bound), nats.NoReconnect(),
		nats.ClosedHandler(func(*nats.Conn) { closed <- struct{}{} }))
	if err == nil {
		t.Cleanup(nc.Close)
	}
	return closed, err
}

// Every secret of a bridge is exchanged under load, in the folder that Kubernetes mounts.
func TestSecretsAreRotatedUnderLoad(t *testing.T) {
	t.Parallel()
	one, two := &server.User{Username: "one", Password: "old"}, &server.User{Username: "two", Password: "new"}
	srv := natsserver.Single(t, func(o *server.Options) {
		o.Users = []*server.User{one, two, {Username: "test", Password: "test"}}
	})
	oldCA, newCA := testcert.New(t), testcert.New(t)
	text := func(path string) string {
		content, err := os.ReadFile(path)
		require.NoError(t, err)
		return string(content)
	}
	k := &kubelet{mount: t.TempDir(), files: map[string]string{}}
	k.update(t, map[string]string{
		"webhook": secret + "\n", "user": "one", "password": "old\n",
		"tls.crt": text(oldCA.ServerCertFile), "tls.key": text(oldCA.ServerKeyFile), "audit-age": "24h",
		"page": "the first token of the page", "embedded": firstToken,
	})
	dir := t.TempDir()
	r := start(t, dir, map[string]string{
		"WEBHOOK_SECRETS": "", "WEBHOOK_SECRETS_FILE": k.path("webhook"),
		"TLS_CERT_FILE": k.path("tls.crt"), "TLS_KEY_FILE": k.path("tls.key"),
		"NATS_URL": srv.URL(), "NATS_USER_FILE": k.path("user"), "NATS_PASSWORD_FILE": k.path("password"),
		"NATS_MAX_AGE_FILE": k.path("audit-age"), "PAGE_TOKEN_FILE": k.path("page"),
		"SINKS": "nats,inside=nats", "EMBEDDED_NATS_TOKEN_FILE": k.path("embedded"),
	})
	r.scheme = "https"
	trust := oldCA.ClientTLS(t)
	pem := []byte(text(newCA.CAFile))
	require.True(t, trust.RootCAs.AppendCertsFromPEM(pem))
	r.http = &http.Client{Transport: &http.Transport{TLSClientConfig: trust, DisableKeepAlives: true}}

	var s rotatingSender
	s.signWith(t, secret)
	stop := func() { s.stopped.Store(true) }
	var posting sync.WaitGroup
	for worker := range 2 {
		posting.Go(func() { s.run(r, worker) })
	}
	defer posting.Wait()
	defer stop()
	s.goesOn(t)

	// The webhook secret: both for a while, then the new one alone.
	k.update(t, map[string]string{"webhook": secret + " " + newSecret})
	r.awaitChanges("FNBRIDGE_WEBHOOK_SECRETS_FILE", 1)
	s.goesOn(t)
	s.signWith(t, newSecret)
	s.goesOn(t)
	k.update(t, map[string]string{"webhook": newSecret})
	r.awaitChanges("FNBRIDGE_WEBHOOK_SECRETS_FILE", 2)
	s.goesOn(t)

	// The login at the broker: the bridge is at its new one before the old one ends.
	k.update(t, map[string]string{"user": "two", "password": "new"})
	r.awaitChanges("FNBRIDGE_NATS_PASSWORD_FILE", 1)
	r.awaitLog("connected to NATS anew")
	s.goesOn(t)
	// What was sent over the old connection has its answer once all that was taken until now has.
	old := float64(2 * s.taken.Load())
	acknowledged := `fnbridge_events_total{result="acknowledged",sink="nats"}`
	require.Eventually(t, func() bool { return r.sample(acknowledged) >= old }, bound, 20*time.Millisecond)
	srv.Reload(t, func(o *server.Options) {
		o.Users = []*server.User{two, {Username: "test", Password: "test"}}
	})

	// The page's token.
	require.Equal(t, http.StatusOK, r.page(t, "the first token of the page"))
	k.update(t, map[string]string{"page": "the second token of the page\n"})
	r.awaitChanges("FNBRIDGE_PAGE_TOKEN_FILE", 1)
	require.Equal(t, http.StatusUnauthorized, r.page(t, "the first token of the page"))
	require.Equal(t, http.StatusOK, r.page(t, "the second token of the page"))

	// The token of the server inside: its other clients have to give the new one, and the bridge notices nothing.
	ended, client := r.clientInside(t, firstToken)
	require.NoError(t, client)
	k.update(t, map[string]string{"embedded": secondToken + "\n"})
	r.awaitChanges("FNBRIDGE_EMBEDDED_NATS_TOKEN_FILE", 1)
	<-ended
	_, client = r.clientInside(t, firstToken)
	require.ErrorIs(t, client, nats.ErrAuthorization)
	ended, client = r.clientInside(t, secondToken)
	require.NoError(t, client)
	s.goesOn(t)

	// The certificate of the listener.
	k.update(t, map[string]string{"tls.crt": text(newCA.ServerCertFile), "tls.key": text(newCA.ServerKeyFile)})
	r.awaitChanges("FNBRIDGE_TLS_CERT_FILE", 1)
	s.goesOn(t)

	// What cannot be used is refused, and named.
	k.update(t, map[string]string{"webhook": "whsec_tooshort", "audit-age": "48h", "embedded": "not-enough"})
	r.awaitLog("what a file holds now cannot be used")
	require.Eventually(t, func() bool {
		_, metrics := r.get("/metrics")
		return strings.Contains(metrics, `fnbridge_file_refused{variable="FNBRIDGE_WEBHOOK_SECRETS_FILE"} 1`) &&
			strings.Contains(metrics, `fnbridge_file_refused{variable="FNBRIDGE_NATS_MAX_AGE_FILE"} 1`) &&
			strings.Contains(metrics, `fnbridge_file_refused{variable="FNBRIDGE_EMBEDDED_NATS_TOKEN_FILE"} 1`) &&
			strings.Contains(metrics, `fnbridge_file_refused{variable="FNBRIDGE_TLS_CERT_FILE"} 0`)
	}, bound, 20*time.Millisecond)
	refused, err := admin.ReadRefusedFiles(t.Context(), dir)
	require.NoError(t, err)
	require.Len(t, refused, 3)
	require.Equal(t, "FNBRIDGE_EMBEDDED_NATS_TOKEN_FILE", refused[0].Variable)
	require.Contains(t, refused[0].Reason, "fewer than 16 characters")
	require.NotContains(t, refused[0].Reason, "not-enough")
	require.Equal(t, "FNBRIDGE_NATS_MAX_AGE_FILE", refused[1].Variable)
	require.Contains(t, refused[1].Reason, "restart")
	require.Equal(t, "FNBRIDGE_WEBHOOK_SECRETS_FILE", refused[2].Variable)
	require.NotContains(t, refused[2].Reason, "tooshort")
	s.goesOn(t)
	k.update(t, map[string]string{"webhook": newSecret, "audit-age": "24h", "embedded": secondToken})
	require.Eventually(t, func() bool {
		refused, err := admin.ReadRefusedFiles(t.Context(), dir)
		return err == nil && len(refused) == 0
	}, bound, 20*time.Millisecond)
	s.goesOn(t)
	require.Empty(t, ended, "the client with the token that was valid all the time")

	stop()
	posting.Wait()
	require.Zero(t, s.others.Load(), "%v", s.lastComplaint.Load())
	taken := int(s.taken.Load())
	url := strings.Replace(srv.URL(), "://", "://test:test@", 1)
	require.Len(t, inStream(t, url, "TENSORLAKE", 2*taken), 2*taken)
	inside := strings.Replace(r.NATSURL(), "://", "://"+secondToken+"@", 1)
	require.Len(t, inStream(t, inside, "TENSORLAKE", 2*taken), 2*taken)
	require.NotContains(t, r.log.String(), "level=WARN msg=\"the sink", "delivery had trouble")
	require.NotContains(t, r.log.String(), "disconnected from NATS")
	t.Logf("%d webhooks taken, none refused, %d events stored at each sink", taken, 2*taken)
}
