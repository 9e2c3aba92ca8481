//go:build linux

package recovery

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/fnbridge/fnbridge/sinks/sinktest/child"
	"github.com/fnbridge/fnbridge/sinks/sinktest/natsserver"
)

func TestMain(m *testing.M) {
	if os.Getenv(asBridge) != "" {
		if err := serve(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	flag.Int("recovery", 0, "how often each fault is tried; 0: once, where that is quick, which shows that it works")
	flag.String("recovery.only", "", "the faults to try, by parts of their names, separated by commas; empty: all")
	flag.String("recovery.out", "", "directory of performance.md, which gets the table; empty: none")
	goleak.VerifyTestMain(m, append(natsserver.Leftovers(), child.Goroutines())...)
}

// option reads a flag of the test.
func option[T any](name string) T {
	return flag.Lookup(name).Value.(flag.Getter).Get().(T) //nolint:forcetypeassert // TestMain has made it of that type
}

// The goals: so much of the tries within soon, and all within late.
const (
	soon     = time.Second
	late     = 2 * time.Second
	soonPart = 0.95
)

// countTries is how often a fault is tried of which repeats are counted, at most: each try counts many events.
const countTries = 5

// scenario is a fault, and how often and on how many bridges at once it is tried.
type scenario struct {
	name string
	// fault takes the broker away and returns when it is well again. It may be told how long to stay away.
	fault func(t *testing.T, r *rig)
	// bridges share a fault that takes long. Zero means one.
	bridges int
	ack     string
	// through returns the broker as clients reach it in this scenario; nil: as they always do.
	through func() broker
	// long says that the quick run leaves it out.
	long bool

	// The rest is for faults of which repeats are counted. counts says that the fault notes by itself what is in flight,
	// far that the broker is far away, and process that the bridge is a process of its own.
	counts, far, process bool
}

// site is a broker, and what is measured of it.
type site struct {
	broker broker
	// wide is the broker for a heavy load; nil: the same.
	wide   broker
	faults []scenario
	// through returns the broker for a heavy load as clients reach it by line, which can be far away; nil: they do not.
	through func() broker
	line    *line
	// repeats are the faults of which repeats are counted.
	repeats []scenario
}

// TestRecovery measures how soon events are stored again, what they cost at a distance, and how many are stored twice.
func TestRecovery(t *testing.T) {
	tries := option[int]("recovery")
	full := tries > 0
	repeatsLoad := light() // other tests run beside the quick run
	if full {
		repeatsLoad = heavy()
	}
	var all results
	for _, side := range []struct {
		name  string
		start func(t *testing.T) site
		multi bool
	}{
		{"nats", startSingleNATS, false},
		{"nats cluster", startNATSCluster, true},
		{"kafka", startSingleKafka, false},
		{"kafka cluster", startKafkaCluster, true},
	} {
		if side.multi && !full { // a cluster is taken apart by make recovery alone
			continue
		}
		t.Run(side.name, func(t *testing.T) {
			s := side.start(t)
			for _, sc := range s.faults {
				if name := side.name + ": " + sc.name; chosen(name) && (full || !sc.long) {
					t.Run(sc.name, func(t *testing.T) {
						b := s.broker
						if sc.through != nil {
							b = sc.through()
						}
						all.faults = append(all.faults, measure(t, b, name, len(all.faults), sc, max(tries, 1)))
					})
				}
			}
			if name := side.name + ": far away"; s.through != nil && chosen(name) {
				t.Run("far away", func(t *testing.T) {
					all.far = append(all.far, measureFar(t, s, side.name, len(all.far), max(tries, 1), full)...)
				})
			}
			for _, sc := range s.repeats {
				if name := side.name + ": repeats, " + sc.name; chosen(name) && (full || !sc.long) {
					t.Run("repeats, "+sc.name, func(t *testing.T) {
						all.repeats = append(all.repeats,
							measureRepeats(t, s, side.name+": "+sc.name, len(all.repeats), sc, repeatsLoad, min(max(tries, 1), countTries)))
					})
				}
			}
		})
	}
	t.Log(all.tables())
	if out := option[string]("recovery.out"); out != "" && full && !t.Failed() {
		if err := writePage(filepath.Join(out, "performance.md"), tries, all); err != nil {
			t.Error(err)
		}
	}
}

func chosen(name string) bool {
	only := option[string]("recovery.only")
	return only == "" || slices.ContainsFunc(strings.Split(only, ","), func(part string) bool {
		return strings.Contains(name, part)
	})
}
