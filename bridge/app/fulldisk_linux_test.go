package app_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/fnbridge/fnbridge/bridge/volume"
	"github.com/fnbridge/fnbridge/sinks/embeddednats"
	"github.com/fnbridge/fnbridge/sinks/sinktest/machine"
	"github.com/fnbridge/fnbridge/sinks/sinktest/natsserver"
)

// setFree has something else take what the disk has, but for so many bytes.
func setFree(t *testing.T, disk string, free int64) {
	t.Helper()
	ballast, err := os.OpenFile(filepath.Join(disk, "ballast"), os.O_CREATE|os.O_WRONLY, 0o600)
	require.NoError(t, err)
	info, err := ballast.Stat()
	require.NoError(t, err)
	space, known := volume.Of(disk)
	require.True(t, known)
	if size := max(info.Size()+space.Free-free, 0); size > info.Size() {
		err = unix.Fallocate(int(ballast.Fd()), 0, 0, size)
		if errors.Is(err, unix.ENOSPC) { // the bridge was quicker
			err = nil
		}
	} else {
		err = ballast.Truncate(size)
	}
	require.NoError(t, errors.Join(err, ballast.Close()))
}

// filledDisk is a bridge with a small disk, which senders and others fill.
type filledDisk struct {
	t       *testing.T
	rand    *rand.Rand
	disk    string
	binary  string
	env     map[string]string
	bridge  *bridgeProcess
	ended   chan struct{}
	sending sync.WaitGroup
	url     atomic.Pointer[string]

	mu    sync.Mutex
	acked map[string]bool
}

func (d *filledDisk) start() {
	d.t.Helper()
	d.bridge = startProcess(d.t, d.binary, filepath.Join(d.disk, "data"), d.env)
	d.url.Store(&d.bridge.url)
}

// stop ends the bridge, by a kill or in good order.
func (d *filledDisk) stop(s syscall.Signal) {
	d.t.Helper()
	if s == syscall.SIGTERM {
		d.bridge.terminate(d.t)
		return
	}
	require.NoError(d.t, d.bridge.cmd.Process.Signal(s))
	<-d.bridge.ended
}

// send posts webhooks of all sizes until the end, each as often as its sender does.
func (d *filledDisk) send(n int, random *rand.Rand) {
	s := newSender(d.t, "", 4)
	pause := time.NewTicker(2 * time.Millisecond)
	defer pause.Stop()
	for i := 0; ; i++ {
		id := fmt.Sprintf("msg_%d_%d", n, i)
		size := 200 + random.IntN(40_000)
		if random.IntN(50) == 0 {
			size = 400_000
		}
		body := fmt.Appendf(nil, `{"of":%q,"pad":%q}`, id, strings.Repeat("x", size))
		for range 3 {
			select {
			case <-d.ended:
				return
			case <-pause.C:
			}
			s.url = *d.url.Load()
			if status, err := s.post(id, body); err == nil && status/100 == 2 {
				d.mu.Lock()
				d.acked[id] = true
				d.mu.Unlock()
				break
			}
		}
	}
}

func (d *filledDisk) status() (ready bool, why string) {
	resp, err := http.Get(strings.TrimSuffix(d.bridge.metrics, "/metrics") + "/readyz")
	if err != nil {
		return false, err.Error()
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return err == nil && resp.StatusCode == http.StatusOK, string(text)
}

// comesBack requires that the bridge, which has room now, takes webhooks and has delivered all it has.
func (d *filledDisk) comesBack() {
	d.t.Helper()
	s := newSender(d.t, d.bridge.url, 1)
	n := 0
	require.Eventually(d.t, func() bool {
		n++
		status, err := s.post(fmt.Sprintf("msg_after_%d_%d", d.rand.Int(), n), []byte(workflow))
		ready, _ := d.status()
		return err == nil && status == http.StatusAccepted && ready
	}, bound, 50*time.Millisecond, "it takes webhooks again")
	require.Eventually(d.t, func() bool {
		return strings.Contains(getText(d.bridge.metrics), `fnbridge_sink_backlog_webhooks{sink="nats"} 0`)
	}, bound, 50*time.Millisecond, "and delivers them")
}

func getText(url string) string {
	resp, err := http.Get(url)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	return string(text)
}

// play does something to the disk, the bridge or the broker.
func (d *filledDisk) play(broker func(away bool)) string {
	switch d.rand.IntN(8) {
	case 0, 1:
		setFree(d.t, d.disk, 0)
		return "full"
	case 2:
		setFree(d.t, d.disk, d.rand.Int64N(1<<20))
		return "nearly full"
	case 3:
		setFree(d.t, d.disk, 64<<20)
		return "empty"
	case 4:
		d.stop(syscall.SIGKILL)
		if d.rand.IntN(2) == 0 {
			setFree(d.t, d.disk, 0)
		}
		d.start()
		return "killed"
	case 5:
		d.stop(syscall.SIGTERM)
		if d.rand.IntN(2) == 0 {
			setFree(d.t, d.disk, 0)
		}
		d.start()
		return "stopped"
	default:
		away := d.rand.IntN(2) == 0
		broker(away)
		return fmt.Sprint("broker away: ", away)
	}
}

// A disk fills and empties at random under a bridge that is killed and stopped at random. It starts each time, and with
// room again it comes back by itself with all that it had acknowledged.
func TestASmallDiskThatFillsAndEmpties(t *testing.T) {
	binary := buildBridge(t)
	for _, embedded := range []bool{false, true} {
		t.Run(map[bool]string{false: "own server", true: "embedded server"}[embedded], func(t *testing.T) {
			t.Parallel()
			seed := rand.Uint64()
			random := rand.New(rand.NewPCG(seed, 0))
			size := 8 + random.IntN(40)
			d := &filledDisk{
				t: t, rand: random, disk: machine.SmallDisk(t, size), binary: binary,
				acked: map[string]bool{}, ended: make(chan struct{}),
				// Its own path: who has got the port of a bridge that was killed takes nothing for it.
				env: map[string]string{"SHUTDOWN_TIMEOUT": "5s", "PATH": fmt.Sprintf("/%d", seed)},
			}
			if random.IntN(2) == 0 {
				d.env["JOURNAL_MAX_BYTES"] = "4MiB"
			}
			if random.IntN(2) == 0 {
				d.env["RETENTION"] = "1s"
			}
			t.Logf("seed %d, %d MiB, %v", seed, size, d.env)
			broker := func(bool) {}
			var server *ownServer
			if !embedded {
				server = &ownServer{t: t, dir: t.TempDir(), address: freeAddress(t)}
				t.Cleanup(func() { server.set(true) })
				server.set(false)
				d.env["NATS_URL"] = "nats://" + server.address
				broker = server.set
			}
			d.start()
			for n := range 4 {
				d.sending.Go(func() { d.send(n, rand.New(rand.NewPCG(seed, uint64(n+1)))) })
			}
			stopSending := sync.OnceFunc(func() { close(d.ended); d.sending.Wait() })
			t.Cleanup(stopSending)
			for range 8 {
				t.Log(d.play(broker))
				stay := time.NewTimer(time.Duration(random.IntN(500)) * time.Millisecond)
				<-stay.C
			}
			stopSending()
			broker(false)
			setFree(t, d.disk, 64<<20)
			d.comesBack()
			t.Logf("%d webhooks acknowledged", len(d.acked))
			if !embedded {
				server.requireAll(d.acked)
			}
			d.stop(syscall.SIGTERM)
		})
	}
}

// ownServer is a NATS server elsewhere, which can be away.
type ownServer struct {
	t       *testing.T
	dir     string
	address string
	server  *embeddednats.Server
}

func (s *ownServer) set(away bool) {
	s.t.Helper()
	switch {
	case away && s.server != nil:
		require.NoError(s.t, s.server.Shutdown(context.Background()))
		s.server = nil
	case !away && s.server == nil:
		var err error
		s.server, err = embeddednats.Start(context.Background(), embeddednats.Options{Listen: s.address, Dir: s.dir})
		require.NoError(s.t, err)
	}
}

// requireAll requires that the stream has every webhook that was acknowledged.
func (s *ownServer) requireAll(acked map[string]bool) {
	s.t.Helper()
	for _, m := range natsserver.Messages(s.t, natsserver.Connect(s.t, "nats://"+s.address), "TENSORLAKE") {
		var data struct{ Of string }
		require.NoError(s.t, json.Unmarshal(m.Data(), &data))
		delete(acked, data.Of)
	}
	require.Empty(s.t, acked, "acknowledged and lost")
}
