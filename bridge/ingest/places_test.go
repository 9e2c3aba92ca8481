package ingest

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTheMostWebhooksAtOnceAreRememberedForAMoment(t *testing.T) {
	begin := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	var p places
	p.most, p.mostBytes = 100, 1<<20
	for range 5 {
		one := p.enter(begin, func() {})
		require.True(t, one.arrived(begin))
		defer one.leave()
	}
	for range 4 {
		one := p.enter(begin, func() {})
		require.True(t, one.arrived(begin))
		one.leave()
	}
	for range 3 {
		p.enter(begin, func() {}) // whose body does not come
	}
	require.EqualValues(t, 6, p.busiest(begin))
	require.EqualValues(t, 6, p.busiest(begin.Add(justNow)), "the most of the moment before counts too")
	require.EqualValues(t, 5, p.busiest(begin.Add(2*justNow)), "and then those that are there")
	require.EqualValues(t, 5, p.busiest(begin.Add(time.Hour)))
}
