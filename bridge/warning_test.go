package bridge_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
)

func TestGrowthIsThatOfTheLastMinutes(t *testing.T) {
	var g bridge.Growth
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	size := int64(1000)
	g.See(now, size)
	_, known := g.Rate(now.Add(time.Minute), size)
	require.False(t, known, "too little has been seen")
	for range 60 { // it grows by 10 a second for an hour
		now, size = now.Add(time.Minute), size+600
		g.See(now, size)
	}
	rate, known := g.Rate(now, size)
	require.True(t, known)
	require.InDelta(t, 10, rate, 0.01)
	for range 21 { // and not at all since
		now = now.Add(time.Minute)
		g.See(now, size)
	}
	rate, known = g.Rate(now, size)
	require.True(t, known)
	require.Zero(t, rate)
}

func TestFullAfter(t *testing.T) {
	after, fills := bridge.FullAfter(100, 200, 10)
	require.True(t, fills)
	require.Equal(t, 10*time.Second, after)
	for _, rate := range []float64{0, -1, 1e-300} {
		_, fills = bridge.FullAfter(100, 200, rate)
		require.False(t, fills, "%g", rate)
	}
	after, fills = bridge.FullAfter(300, 200, 0)
	require.True(t, fills)
	require.Zero(t, after)
}
