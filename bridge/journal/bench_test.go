package journal

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fnbridge/fnbridge/bridge"
)

// BenchmarkAppend stores webhooks of a usual size, each durable before the next of the same caller.
func BenchmarkAppend(b *testing.B) {
	for _, callers := range []int{1, 16, 128} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) { benchmarkAppend(b, callers, 400, 0) })
	}
}

// BenchmarkAppendAmongPast does so while others are remembered that have gone.
func BenchmarkAppendAmongPast(b *testing.B) { benchmarkAppend(b, 128, 400, 1000) }

// BenchmarkAppendLarge stores webhooks of the largest usual size.
func BenchmarkAppendLarge(b *testing.B) { benchmarkAppend(b, 128, 1<<20, 0) }

func benchmarkAppend(b *testing.B, callers, size, past int) {
	b.Helper()
	registry := prometheus.NewRegistry()
	j, err := Open(b.Context(), Options{
		Dir: b.TempDir(), Sinks: []string{"nats"}, Registerer: registry, MaxBytes: 1 << 40,
		Tolerance: time.Hour, Now: at,
	})
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := j.Close(context.Background()); err != nil {
			b.Error(err)
		}
	}()
	for i := range past {
		w := bridge.Webhook{ID: fmt.Sprintf("past_%024d", i), Timestamp: at(), ReceivedAt: at()}
		for range 2 { // what is signed anew is remembered beyond its stay
			if _, err := j.Append(context.Background(), w); err != nil {
				b.Fatal(err)
			}
			w.Timestamp = w.Timestamp.Add(time.Minute)
		}
	}
	body := make([]byte, size)
	b.SetBytes(int64(size))
	b.ResetTimer()
	var wg sync.WaitGroup
	for caller := range callers {
		wg.Go(func() {
			for i := caller; i < b.N; i += callers {
				w := bridge.Webhook{ID: fmt.Sprintf("msg_%024d", i), Timestamp: at(), ReceivedAt: at(), Body: body}
				if _, err := j.Append(context.Background(), w); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "webhooks/s")
	families, err := registry.Gather()
	if err != nil {
		b.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == "fnbridge_journal_commit_requests" {
			h := family.GetMetric()[0].GetHistogram()
			b.ReportMetric(h.GetSampleSum()/float64(h.GetSampleCount()), "requests/commit")
		}
	}
}

// BenchmarkRead reads batches as delivery does: behind, from the database, and of what has just been stored.
func BenchmarkRead(b *testing.B) {
	const count = 20_000
	j, err := Open(b.Context(), Options{Dir: b.TempDir(), Sinks: []string{"nats"}, MaxBytes: 1 << 40})
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := j.Close(context.Background()); err != nil {
			b.Error(err)
		}
	}()
	var wg sync.WaitGroup
	for caller := range 128 {
		wg.Go(func() {
			for i := caller; i < count; i += 128 {
				w := bridge.Webhook{
					ID: fmt.Sprintf("msg_%024d", i), Timestamp: at(), ReceivedAt: at(), Body: make([]byte, 150),
				}
				if _, err := j.Append(context.Background(), w); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	for _, size := range []int{16, 1024} {
		for name, after := range map[string]int64{"behind": 100, "newest": int64(count - size)} {
			b.Run(fmt.Sprintf("%s/webhooks=%d", name, size), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					found, err := j.Read(b.Context(), after, size, 8<<20)
					if err != nil || len(found) != size {
						b.Fatal(len(found), err)
					}
				}
				b.ReportMetric(float64(b.N*size)/b.Elapsed().Seconds(), "webhooks/s")
			})
		}
	}
}
