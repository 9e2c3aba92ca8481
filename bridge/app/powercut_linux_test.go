package app_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge/admin"
	"github.com/fnbridge/fnbridge/config"
	"github.com/fnbridge/fnbridge/sinks/sinktest/machine"
)

var embeddedURL = regexp.MustCompile(`"embedded_nats":"(nats://[^"]+)"`)

// The power fails again and again under load: what was not synced is gone. Nothing that was answered may be missing in
// the embedded server's stream, and nothing that the journal takes for stored either, since then it would be healed.
func TestWhenThePowerFailsTheEmbeddedServerHasAllThatCounts(t *testing.T) {
	for ack, answer := range map[string]int{config.AckJournal: http.StatusAccepted, config.AckSinks: http.StatusOK} {
		t.Run(ack, func(t *testing.T) {
			t.Parallel()
			disk := machine.NewDisk(t, 512)
			dir := filepath.Join(disk.Dir, "data")
			binary := buildBridge(t)
			start := func() *bridgeProcess {
				return startProcess(t, binary, dir, map[string]string{"ACK": ack, "JOURNAL_MAX_BYTES": "64MiB"})
			}
			accepted := 0
			var mu sync.Mutex
			answered := map[string]bool{}
			for range 4 {
				p := start()
				s := newSender(t, p.url, 32)
				enough := make(chan struct{})
				goal := len(answered) + 400
				var senders sync.WaitGroup
				for range 32 {
					senders.Go(func() {
						for {
							mu.Lock()
							id := fmt.Sprintf("invocation_%d", accepted)
							accepted++
							mu.Unlock()
							status, err := s.post("msg_"+id, []byte(workflowOf(id)))
							if err != nil {
								return // the bridge is gone
							}
							mu.Lock()
							if answered[id] = status == answer; len(answered) == goal {
								close(enough)
							}
							mu.Unlock()
						}
					})
				}
				<-enough
				require.NoError(t, p.cmd.Process.Kill())
				<-p.ended
				senders.Wait()
				disk.LosePower(t)
				// A machine that lost its power has another boot after that; this one has not.
				_ = os.Remove(filepath.Join(dir, "journal.db-boot"))
			}
			p := start()
			if ack == config.AckJournal {
				require.Eventually(t, func() bool {
					s, err := admin.ReadStatus(t.Context(), dir)
					require.NoError(t, err)
					return s.Sinks[0].BacklogWebhooks == 0
				}, bound, 20*time.Millisecond)
			}
			url := embeddedURL.FindStringSubmatch(p.output.String())[1]
			have := map[string]bool{}
			for _, m := range inStream(t, url, "TENSORLAKE", int(streamInfo(t, url).State.Msgs)) {
				have[m.Headers().Get("ce-subject")] = true
			}
			for id, yes := range answered {
				require.True(t, yes, "%s was refused", id)
				require.True(t, have[id+"/fn_A"] && have[id+"/fn_B"], "%s was answered, and is not in the stream", id)
			}
			require.NotContains(t, p.output.String(), "went back")
			p.terminate(t)
		})
	}
}
