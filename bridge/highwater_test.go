package bridge

import (
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

const stream = "stream EVENTS"

// acknowledged returns a HighWater of a log that was made at created and has acknowledged all up to 200.
func acknowledged(created int64) *HighWater {
	h := NewHighWater()
	h.Restore(Position{stream: {Last: 200, Created: created, At: 1000}})
	return h
}

func TestALogWentBackThatEndsBeforeWhatItAcknowledged(t *testing.T) {
	certain := Evidence{Certain: true}
	for name, c := range map[string]struct {
		see  func(h *HighWater, before Since)
		want *WentBack
	}{
		"it ends where it did":     {func(h *HighWater, b Since) { h.Ends(b, Mark{Last: 200, Created: 7}, certain) }, nil},
		"others have stored since": {func(h *HighWater, b Since) { h.Ends(b, Mark{Last: 900, Created: 7}, certain) }, nil},
		"it ends before that": {
			func(h *HighWater, b Since) { h.Ends(b, Mark{Last: 150, Created: 7, At: 900}, certain) },
			&WentBack{Log: stream, Acknowledged: 200, Ends: 150, Whole: true},
		},
		"it ends before that, and others have stored since": {
			func(h *HighWater, b Since) { h.Ends(b, Mark{Last: 150, Created: 7, At: 1001}, certain) },
			&WentBack{Log: stream, Acknowledged: 200, Ends: 150},
		},
		"it is another one": {
			func(h *HighWater, b Since) { h.Ends(b, Mark{Last: 300, Created: 8}, certain) },
			&WentBack{Log: stream, Acknowledged: 200, Ends: 300, Another: true},
		},
		"it gives numbers again": {
			func(h *HighWater, b Since) { h.Acknowledged(b, 181, 190) },
			&WentBack{Log: stream, Acknowledged: 200, Ends: 180},
		},
		"it gives new numbers": {func(h *HighWater, b Since) { h.Acknowledged(b, 201, 210) }, nil},
		"the answer is older than what was acknowledged since": {func(h *HighWater, b Since) {
			h.Acknowledged(h.Since(stream), 201, 300)
			h.Ends(b, Mark{Last: 250, Created: 7}, certain)
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			h := acknowledged(7)
			c.see(h, h.Since(stream))
			if c.want == nil {
				require.Empty(t, h.Found())
				require.Empty(t, h.Back())
				return
			}
			require.Equal(t, []WentBack{*c.want}, h.Found())
			require.Len(t, h.Back(), 1)
			require.EqualValues(t, 200, h.Position()[stream].Last, "a crash must not hide it")
		})
	}
}

func TestALogIsFollowedFromWhereItWentBackTo(t *testing.T) {
	h := acknowledged(7)
	late := h.Since(stream)
	h.Ends(h.Since(stream), Mark{Last: 150, Created: 7}, Evidence{Certain: true})
	h.Acknowledged(late, 201, 205) // of before, as far as can be told
	h.Acknowledged(h.Since(stream), 151, 160)
	found := h.Found()
	require.EqualValues(t, 160, h.Settled(found)[stream].Last)
	h.Settle(found)
	require.Empty(t, h.Found())
	require.EqualValues(t, 160, h.Position()[stream].Last)
	h.Acknowledged(h.Since(stream), 161, 161)
	h.Ends(h.Since(stream), Mark{Last: 161, Created: 7}, Evidence{Certain: true})
	require.Empty(t, h.Found())
	h.Ends(h.Since(stream), Mark{Last: 1, Created: 7}, Evidence{Certain: true})
	require.Len(t, h.Found(), 1, "it can go back again")
}

// TestAStreamThatIsNotTheOnePublishedToSaysNothing is for an API that shows a stream of the same name elsewhere.
// What is sent once more after a crash is acknowledged with the numbers that it had.
func TestRepeatsShowHowFarALogCame(t *testing.T) {
	h := acknowledged(7)
	h.Acknowledged(h.Since(stream), math.MaxInt64, 260)
	require.Empty(t, h.Found())
	require.Equal(t, int64(260), h.Position()[stream].Last)
	h.Ends(h.Since(stream), Mark{Last: 230, Created: 7}, Evidence{Certain: true})
	require.Len(t, h.Found(), 1)
}

func TestAStreamThatIsNotTheOnePublishedToSaysNothing(t *testing.T) {
	h := acknowledged(0)
	h.Ends(h.Since(stream), Mark{Last: 3, Created: 7}, Evidence{})
	require.Empty(t, h.Found())
	h.Ends(h.Since(stream), Mark{Last: 200, Created: 7}, Evidence{})
	h.Ends(h.Since(stream), Mark{Last: 3, Created: 7}, Evidence{})
	require.Len(t, h.Found(), 1, "it has been seen holding what was acknowledged")
}

func TestAServerThatMayBeBehindHasToSayItForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := acknowledged(7)
		ends := func(last int64) {
			h.Ends(h.Since(stream), Mark{Last: last, Created: 7}, Evidence{Certain: true, Confirm: 10 * time.Second})
		}
		ends(150)
		<-time.After(9 * time.Second)
		ends(150)
		ends(200) // the others have told it
		<-time.After(9 * time.Second)
		ends(150)
		require.Empty(t, h.Found())
		<-time.After(10 * time.Second)
		ends(150)
		require.Len(t, h.Found(), 1)
	})
}

func TestAPositionIsHeldByABrokerThatDidNotGoBackBehindIt(t *testing.T) {
	p := Position{"a": {Last: 100}, "b": {Last: 20}}
	require.True(t, p.Holds([]WentBack{{Log: "a", Ends: 100, Whole: true}, {Log: "c", Another: true}}))
	require.False(t, p.Holds([]WentBack{{Log: "a", Ends: 99, Whole: true}}))
	require.False(t, p.Holds([]WentBack{{Log: "b", Ends: 50}}), "others may have stored some of them")
	require.False(t, p.Holds([]WentBack{{Log: "b", Ends: 50, Another: true, Whole: true}}))
}
