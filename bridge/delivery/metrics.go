package delivery

import (
	"math"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/journal"
)

type metrics struct {
	retried      prometheus.Counter
	deadLettered prometheus.Counter
	rejected     prometheus.Counter
	publish      prometheus.Observer
	wentBack     prometheus.Counter

	givenUp, replayed                        prometheus.Counter
	retriedAcknowledged, retriedDeadLettered prometheus.Counter
}

// lettered counts an event that became a dead letter.
func (m *metrics) lettered(givenUp bool) {
	if givenUp {
		m.givenUp.Inc()
	} else {
		m.deadLettered.Inc()
	}
}

// beside counts what became of an event of a stream beside the live one.
func (m *metrics) beside(kind journal.StreamKind, f fate) {
	switch {
	case f == lost:
	case kind == journal.Replay && f == acknowledged:
		m.replayed.Inc()
	case kind == journal.Retry && f == acknowledged:
		m.retriedAcknowledged.Inc()
	case kind == journal.Retry:
		m.retriedDeadLettered.Inc()
	}
}

// newMetrics registers the metrics of one sink. Dispatchers share a registry, so the sink is a constant label.
func newMetrics(d *Dispatcher) (*metrics, error) {
	sink := prometheus.Labels{"sink": d.name}
	events := func(result string) prometheus.CounterOpts {
		return prometheus.CounterOpts{
			Name: "fnbridge_events_total", ConstLabels: prometheus.Labels{"sink": d.name, "result": result},
			Help: "Events by what came of a try to publish them: acknowledged, retried (will be tried again), " +
				"dead_lettered, or rejected (and no dead letter: the webhook is refused).",
		}
	}
	acknowledged := prometheus.NewCounterFunc(events("acknowledged"),
		func() float64 { return float64(d.acknowledged.Load()) })
	retried := prometheus.NewCounter(events("retried"))
	deadLettered := prometheus.NewCounter(events("dead_lettered"))
	rejected := prometheus.NewCounter(events("rejected"))
	publish := prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "fnbridge_publish_duration_seconds", ConstLabels: sink,
		Help:    "How long the sink took to answer a batch of events.",
		Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
	})
	givenUp := prometheus.NewCounter(prometheus.CounterOpts{
		Name: "fnbridge_sink_given_up_events_total", ConstLabels: sink,
		Help: "Events that became dead letters because they could not be stored for as long as the sink may try.",
	})
	wentBack := prometheus.NewCounter(prometheus.CounterOpts{
		Name: "fnbridge_sink_went_back_total", ConstLabels: sink,
		Help: "How often the sink's broker was found to end before what it had acknowledged, or to be another one.",
	})
	replayed := prometheus.NewCounter(prometheus.CounterOpts{
		Name: "fnbridge_sink_replayed_events_total", ConstLabels: sink,
		Help: "Events of replays that the sink acknowledged.",
	})
	retriedLetters := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "fnbridge_sink_retried_dead_letters_total", ConstLabels: sink,
		Help: "Dead letters that were asked another try for, by what came of it: acknowledged or dead_lettered again.",
	}, []string{"result"})
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: sink}, value)
	}
	collectors := []prometheus.Collector{
		acknowledged, retried, deadLettered, rejected, publish, givenUp, wentBack, replayed, retriedLetters,
		gauge("fnbridge_sink_up",
			"1 while the last try of every partition was acknowledged, or the last check of an idle sink passed; else 0.",
			func() float64 {
				if d.State().State == string(Up) {
					return 1
				}
				return 0
			}),
		gauge("fnbridge_sink_backlog_webhooks",
			"Accepted webhooks that have not wholly reached the sink.",
			func() float64 { return float64(d.Backlog()) }),
		gauge("fnbridge_sink_in_flight_events",
			"Events that the sink has been given and has not answered yet. After a fault some of them may be stored twice.",
			func() float64 { return float64(d.flying.Load()) }),
		gauge("fnbridge_sink_oldest_webhook_age_seconds",
			"Age of the oldest accepted webhook that has not wholly reached the sink; 0 when there is none.",
			func() float64 { return d.oldestAge().Seconds() }),
	}
	for _, state := range []SinkHealth{Up, Degraded, Down, Blocked} {
		collectors = append(collectors, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "fnbridge_sink_state", ConstLabels: prometheus.Labels{"sink": d.name, "state": string(state)},
			Help: "How the sink is: 1 for the state that it is in, 0 for the others. degraded: some events get through; " +
				"down: none does, and they are tried again; blocked: none does until somebody mends the cause.",
		}, func() float64 {
			if d.State().State == string(state) {
				return 1
			}
			return 0
		}))
	}
	for _, c := range collectors {
		if err := d.o.Registerer.Register(c); err != nil {
			return nil, err
		}
	}
	if sink, ok := d.o.Sink.(bridge.Deduper); ok {
		if err := d.o.Registerer.Register(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "fnbridge_sink_duplicate_events_total", ConstLabels: prometheus.Labels{"sink": d.name},
			Help: "Events that the sink's broker acknowledged and did not store, since it had stored them already.",
		}, func() float64 { return float64(sink.Duplicates()) })); err != nil {
			return nil, err
		}
	}
	if sink, ok := d.o.Sink.(bridge.Storing); ok {
		of := func(what func(bridge.Storage) float64) func() float64 {
			return func() float64 {
				storage, known := sink.Storage()
				if !known {
					return math.NaN()
				}
				return what(storage)
			}
		}
		for _, c := range []prometheus.Collector{
			gauge("fnbridge_sink_stored_bytes",
				"Bytes that the sink's broker keeps, of what would be full first: the stream, or its account's storage; "+
					"NaN while no limit is known.",
				of(func(s bridge.Storage) float64 { return float64(s.UsedBytes) })),
			gauge("fnbridge_sink_stored_limit_bytes",
				"Bytes that it may keep.",
				of(func(s bridge.Storage) float64 { return float64(s.LimitBytes) })),
			gauge("fnbridge_sink_full_in_seconds",
				"Time until it is full if it goes on as it did lately, 0 when it is; +Inf when it does not fill up.",
				of(func(s bridge.Storage) float64 {
					if in, fills := s.FullIn(d.o.Now()); fills {
						return in.Seconds()
					}
					return math.Inf(1)
				})),
		} {
			if err := d.o.Registerer.Register(c); err != nil {
				return nil, err
			}
		}
	}
	return &metrics{
		retried:      retried,
		deadLettered: deadLettered,
		rejected:     rejected,
		publish:      publish,
		wentBack:     wentBack,

		givenUp: givenUp, replayed: replayed,
		retriedAcknowledged: retriedLetters.WithLabelValues("acknowledged"),
		retriedDeadLettered: retriedLetters.WithLabelValues("dead_lettered"),
	}, nil
}
