package page

import (
	"context"
	"flag"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

//nolint:gochecknoglobals // a flag of this test
var cost = flag.Duration("cost", 0, "measure what open pages cost those who send webhooks, for so long a phase")

// TestPagesCostTheSendersNothing measures it: go test ./page -run Cost -cost 5s -v
//
// Phases with a hundred open pages and without any take turns, so that what else the machine does is in both.
func TestPagesCostTheSendersNothing(t *testing.T) {
	if *cost == 0 {
		t.Skip("this is a measurement: give -cost")
	}
	const pages, senders, turns = 100, 8, 5
	b := start(t, nil)
	var sent atomic.Int64
	phase := func() float64 {
		before, began := sent.Load(), time.Now()
		var group sync.WaitGroup
		for range senders {
			group.Go(func() {
				for time.Since(began) < *cost {
					b.send()
					sent.Add(1)
				}
			})
		}
		group.Wait()
		return float64(sent.Load()-before) / time.Since(began).Seconds()
	}
	phase()
	var ratios []float64
	var read atomic.Int64
	for range turns {
		without := phase()
		ctx, end := context.WithCancel(t.Context())
		var group sync.WaitGroup
		for range pages {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.url("/api/events"), http.NoBody)
			require.NoError(t, err)
			resp, err := b.http.Do(req)
			require.NoError(t, err)
			require.Equal(t, http.StatusOK, resp.StatusCode)
			group.Go(func() {
				n, _ := io.Copy(io.Discard, resp.Body) // it ends when the page is closed
				read.Add(n)
				_ = resp.Body.Close()
			})
		}
		with := phase()
		end()
		group.Wait()
		ratios = append(ratios, with/without)
		t.Logf("%.0f webhooks/s without pages, %.0f with %d", without, with, pages)
	}
	slices.Sort(ratios)
	t.Logf("accepted with %d pages as part of without: median %.2f, from %.2f to %.2f; the pages read %d KiB",
		pages, ratios[turns/2], ratios[0], ratios[turns-1], read.Load()>>10)
}
