package charttest

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"
)

const (
	podOfJournal = fullname + "-0"
	podOfSinks   = fullname + "-6d5f7c9b8-x2x2x"
	hour         = 60
	day          = 24 * hour
)

// phase is so many minutes in which a bridge goes on as it was when it was scraped. No series: it is not there.
type phase struct {
	minutes int
	series  map[string]float64
}

// played is what Prometheus sees of a pod.
type played struct {
	pod    string
	phases []phase
}

// series are those that promtool is to play: a sample a minute. What tells a time or an age goes on with the minutes.
func (p played) series() (all []map[string]string) {
	names := make(map[string]bool)
	for _, ph := range p.phases {
		for name := range ph.series {
			names[name] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		var values []string
		minute, age := 0, 0.0
		for _, ph := range p.phases {
			value, there := ph.series[name]
			metric, _, _ := strings.Cut(name, "{")
			step := 0
			switch {
			case !there:
				values = append(values, fmt.Sprintf("_x%d", ph.minutes))
				minute += ph.minutes
				continue
			case metric == "fnbridge_sink_oldest_webhook_age_seconds" && value > 0:
				step, value = 60, max(value, age)
				age = value + float64(ph.minutes*60)
			case isTime(metric) && value != 0:
				value += float64(minute * 60)
			}
			values = append(values, fmt.Sprintf("%s%+dx%d",
				strconv.FormatFloat(value, 'f', -1, 64), step, ph.minutes-1))
			minute += ph.minutes
		}
		metric, labels, _ := strings.Cut(strings.TrimSuffix(name, "}"), "{")
		if labels != "" {
			labels = "," + labels
		}
		all = append(all, map[string]string{
			"series": fmt.Sprintf(`%s{namespace=%q,pod=%q%s}`, metric, namespace, p.pod, labels),
			"values": strings.Join(values, " "),
		})
	}
	return all
}

// firing are the alerts that fire at a minute, as "name severity".
type firing map[int][]string

// requireAlerts has promtool play pods to the alerts of the chart with such values, and look which fire.
func requireAlerts(t *testing.T, v string, pods []played, expected firing) {
	t.Helper()
	prometheus := promtool(t)
	folder := t.TempDir()
	rules, err := yaml.Marshal(alerts(t, v))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(folder, "rules.yaml"), rules, 0o600))
	var input []map[string]string
	for _, p := range pods {
		input = append(input, p.series()...)
	}
	var looks []map[string]any
	for _, minute := range slices.Sorted(maps.Keys(expected)) {
		samples := []map[string]any{}
		for _, alert := range expected[minute] {
			name, severity, _ := strings.Cut(alert, " ")
			samples = append(samples, map[string]any{
				"labels": fmt.Sprintf(`{alertname=%q, severity=%q}`, name, severity), "value": 1,
			})
		}
		looks = append(looks, map[string]any{
			"expr":      `count by (alertname, severity) (ALERTS{alertstate="firing"})`,
			"eval_time": fmt.Sprintf("%dm", minute), "exp_samples": samples,
		})
	}
	play, err := yaml.Marshal(map[string]any{
		"rule_files": []string{"rules.yaml"}, "evaluation_interval": "1m",
		"tests": []any{map[string]any{"interval": "1m", "input_series": input, "promql_expr_test": looks}},
	})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(folder, "play.yaml"), play, 0o600))
	command := exec.CommandContext(t.Context(), prometheus, "test", "rules", "play.yaml")
	command.Dir = folder
	out, err := command.CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// quiet has nothing fire at any full hour of so many minutes.
func quiet(minutes int) firing {
	f := firing{}
	for m := hour; m < minutes; m += hour {
		f[m] = nil
	}
	return f
}

const (
	up      = `fnbridge_sink_up{sink="nats"}`
	backlog = `fnbridge_sink_backlog_webhooks{sink="nats"}`
	// nowhere is an address at which nobody listens.
	nowhere = "nats://127.0.0.1:1"
)

func delivered(n int) func(map[string]float64) bool {
	return func(all map[string]float64) bool {
		return is(backlog, 0)(all) && is(up, 1)(all) && all[`fnbridge_webhooks_total{result="accepted"}`] >= float64(n)
	}
}

// A journal that is full of what every sink has is no trouble, however long that lasts; neither is one that shows no
// webhook for days.
func TestNothingFiresOfAHealthyBridge(t *testing.T) {
	t.Parallel()
	s := serve(t, map[string]string{"JOURNAL_MAX_BYTES": "8MiB"})
	fresh := s.await(is(up, 1))
	var much map[string]float64
	for n := 100; n <= 900; n += 100 { // all at once may come faster than the sink takes it, and be refused
		require.NoError(t, s.send(100, 10_000))
		much = s.await(delivered(n))
	}
	require.Greater(t, much["fnbridge_journal_bytes{}"], 0.8*much["fnbridge_journal_max_bytes{}"],
		"it is full of what is kept")
	requireAlerts(t, `{ack: journal}`,
		[]played{{podOfJournal, []phase{{hour, fresh}, {3 * day, much}}}}, quiet(3*day))
}

func TestAPodThatIsGone(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	require.NoError(t, s.send(3, 100))
	well := s.await(delivered(3))
	there, gone := []phase{{2 * hour, well}}, []phase{{hour, well}, {hour, nil}}
	requireAlerts(t, `{ack: journal, replicas: 3, sinks: {nats: {url: "nats://a"}}}`,
		[]played{{podOfJournal, there}, {fullname + "-1", gone}, {fullname + "-2", there}},
		firing{hour - 1: nil, hour + 15: {"FnbridgeDown critical"}})
	requireAlerts(t, `{ack: sinks, replicas: 2, sinks: {nats: {url: "nats://a"}}}`,
		[]played{{podOfSinks, there}, {fullname + "-6d5f7c9b8-y3y3y", gone}},
		firing{hour - 1: nil, hour + 25: {"FnbridgeReplicasMissing warning"}})
	requireAlerts(t, `{ack: sinks, replicas: 2, sinks: {nats: {url: "nats://a"}}}`,
		[]played{{podOfSinks, gone}},
		firing{hour + 30: {"FnbridgeDown critical"}})
}

// The names of pods of a Deployment with a long name are cut.
func TestAPodWithALongName(t *testing.T) {
	t.Parallel()
	name := strings.Repeat("n", 48)
	s := serve(t, map[string]string{"ACK": "sinks", "NATS_URL": nowhere})
	down := s.await(is(`fnbridge_refusing{reason="sink_down"}`, 1))
	requireAlerts(t, `{ack: sinks, fullnameOverride: `+name+`, sinks: {nats: {url: "nats://a"}}}`,
		[]played{{name + "-6d5f7c9b8x2x2x", []phase{{hour, down}}}},
		firing{5: {"FnbridgeNotAccepting critical"}})
}

// The broker is away and webhooks come, until the journal is full and refuses them; then few come.
func TestAJournalThatFills(t *testing.T) {
	t.Parallel()
	s := serve(t, map[string]string{"NATS_URL": nowhere, "JOURNAL_MAX_BYTES": "8MiB"})
	fresh := s.await(is(`fnbridge_sink_state{sink="nats",state="down"}`, 1))
	require.NoError(t, s.send(100, 10_000))
	waits := s.await(is(backlog, 100))
	require.Error(t, s.send(2000, 10_000), "the journal refuses at last")
	full := s.await(is(`fnbridge_refusing{reason="journal_full"}`, 1))
	fresh[up] = 1 // as it was before
	fresh[`fnbridge_sink_state{sink="nats",state="down"}`] = 0
	requireAlerts(t, `{ack: journal}`, []played{{podOfJournal, []phase{{hour, fresh}, {hour, waits}, {2 * hour, full}}}},
		firing{
			hour - 1:  nil,
			hour + 20: {"FnbridgeSinkDown critical", "FnbridgeBehind warning"},
			2*hour + 3: {
				"FnbridgeSinkDown critical", "FnbridgeBehind warning", "FnbridgeNotAccepting critical",
				"FnbridgeRefusingWebhooks warning",
			},
			2*hour + 10: {
				"FnbridgeSinkDown critical", "FnbridgeBehind warning", "FnbridgeNotAccepting critical",
				"FnbridgeRefusingWebhooks warning", "FnbridgeJournalFilling warning",
			},
		})
	// Two webhooks of a day are refused.
	require.Error(t, s.send(1, 10_000))
	few := s.scrape()
	only := func(all map[string]float64) map[string]float64 {
		all = maps.Clone(all)
		maps.DeleteFunc(all, func(name string, _ float64) bool {
			return !strings.HasPrefix(name, "fnbridge_webhooks_") && !strings.HasPrefix(name, "fnbridge_build_info")
		})
		return all
	}
	requireAlerts(t, `{ack: journal}`, []played{{podOfJournal, []phase{{2 * hour, only(full)}, {hour, only(few)}}}},
		firing{2*hour - 1: nil, 2*hour + 4: {"FnbridgeNothingAccepted critical", "FnbridgeRefusingWebhooks warning"}})
}

func TestABrokerThatIsAwayWithoutAJournal(t *testing.T) {
	t.Parallel()
	broker := serve(t, nil)
	s := serve(t, map[string]string{"ACK": "sinks", "NATS_URL": broker.nats})
	s.await(is(`fnbridge_refusing{reason="sink_down"}`, 0))
	require.NoError(t, s.send(3, 100))
	well := s.await(is(up, 1))
	broker.stop()
	require.Error(t, s.send(1, 100))
	down := s.await(is(`fnbridge_refusing{reason="sink_down"}`, 1))
	requireAlerts(t, `{ack: sinks, sinks: {nats: {url: "nats://a"}}}`,
		[]played{{podOfSinks, []phase{{2 * hour, well}, {hour, down}}}},
		firing{
			2*hour - 1: nil,
			2*hour + 4: {
				"FnbridgeNotAccepting critical", "FnbridgeRefusingWebhooks warning", "FnbridgeNothingAccepted critical",
			},
			2*hour + 15: {
				"FnbridgeNotAccepting critical", "FnbridgeRefusingWebhooks warning", "FnbridgeNothingAccepted critical",
				"FnbridgeSinkDown critical",
			},
		})
}

// A sink that is not required pages nobody.
func TestASinkThatIsNotRequired(t *testing.T) {
	t.Parallel()
	s := serve(t, map[string]string{
		"ACK": "sinks", "SINKS": "nats,extra=nats", "EXTRA_URL": nowhere, "EXTRA_REQUIRED": "false",
		"EXTRA_SUBJECT": "extra.{route}", "EXTRA_STREAM": "EXTRA",
	})
	fresh := s.await(func(all map[string]float64) bool {
		return is(up, 1)(all) && is(`fnbridge_sink_state{sink="extra",state="down"}`, 1)(all) &&
			is(`fnbridge_refusing{reason="sink_down"}`, 0)(all)
	})
	fresh[`fnbridge_sink_state{sink="extra",state="down"}`] = 0
	require.NoError(t, s.send(3, 100))
	missed := s.await(is(`fnbridge_sink_missed_events_total{sink="extra"}`, 3))
	requireAlerts(t, `{ack: sinks, sinks: {nats: {url: "nats://a"}}}`,
		[]played{{podOfSinks, []phase{{hour, fresh}, {hour, missed}}}},
		firing{hour - 1: nil, hour + 15: {"FnbridgeSinkDown warning", "FnbridgeMissedEvents warning"}})
}

// What a person has to mend is said at once.
func TestASinkThatIsBlocked(t *testing.T) {
	t.Parallel()
	broker := serve(t, nil)
	s := serve(t, map[string]string{
		"NATS_URL": broker.nats, "NATS_STREAM": "NONE", "NATS_SUBJECT": "none.{route}", "NATS_CREATE_STREAM": "false",
	})
	blocked := s.await(is(`fnbridge_sink_state{sink="nats",state="blocked"}`, 1))
	requireAlerts(t, `{ack: journal}`, []played{{podOfJournal, []phase{{hour, blocked}}}},
		firing{0: {"FnbridgeSinkBlocked critical"}, 30: {"FnbridgeSinkBlocked critical"}})
	blocked[`fnbridge_sink_required{sink="nats"}`] = 0 // as with REQUIRED=false
	requireAlerts(t, `{ack: journal}`, []played{{podOfJournal, []phase{{hour, blocked}}}},
		firing{0: {"FnbridgeSinkBlocked warning"}})
}

// longName is a payload of which no event has room in a message's headers.
//
//nolint:gochecknoglobals // a constant
var longName = `{"workflow_name":"` + strings.Repeat("n", 70_000) + `","invocation_id":"i","fn_status":{"f":"success"}}`

// A dead letter is told of as long as it is there, and no longer.
func TestADeadLetter(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	require.NoError(t, s.send(1, 100))
	well := s.await(delivered(1))
	require.NoError(t, s.sendBody(1, longName))
	letter := s.await(is(`fnbridge_dead_letters{sink="nats"}`, 1))
	out, err := s.run("dead-letters", "drop", "--all", "--yes")
	require.NoError(t, err, out)
	dropped := s.await(is(`fnbridge_dead_letters{sink="nats"}`, 0))
	requireAlerts(t, `{ack: journal}`,
		[]played{{podOfJournal, []phase{{hour, well}, {5 * hour, letter}, {hour, dropped}}}},
		firing{
			hour - 1: nil, hour: {"FnbridgeDeadLetters warning"}, 6*hour - 1: {"FnbridgeDeadLetters warning"},
			6*hour + 1: nil,
		})

	s = serve(t, map[string]string{"ACK": "sinks"})
	well = s.await(is(`fnbridge_refusing{reason="sink_down"}`, 0))
	require.Error(t, s.sendBody(1, longName))
	requireAlerts(t, `{ack: sinks, sinks: {nats: {url: "nats://a"}}}`,
		[]played{{podOfSinks, []phase{{hour, well}, {hour, s.scrape()}}}},
		firing{hour - 1: nil, hour + 5: {"FnbridgeRejectedWebhooks warning"}})
}

// A stranger's request, or the documents' own curl, is one thing; a wrong secret that loses all is another.
func TestSignaturesThatAreRefused(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	require.NoError(t, s.send(1, 100))
	well := s.await(delivered(1))
	response, err := http.Post(s.webhooks, "application/json", strings.NewReader(`{}`))
	require.NoError(t, err)
	_, _ = io.Copy(io.Discard, response.Body)
	require.NoError(t, response.Body.Close())
	require.Equal(t, http.StatusUnauthorized, response.StatusCode)
	unsigned := s.scrape()
	requireAlerts(t, `{ack: journal}`, []played{{podOfJournal, []phase{{2 * hour, well}, {2 * hour, unsigned}}}},
		firing{2*hour - 1: nil, 2*hour + 10: {"FnbridgeSignatureFailures info"}, 3 * hour: nil})

	s.environ = append(s.environ, "FNBRIDGE_WEBHOOK_SECRETS=whsec_YW5vdGhlciBzZWNyZXQgb2YgYW4gZW5kcG9pbnQ=")
	require.Error(t, s.send(1, 100))
	wrong := s.scrape()
	requireAlerts(t, `{ack: journal}`, []played{{podOfJournal, []phase{{2 * hour, unsigned}, {hour, wrong}}}},
		firing{2*hour - 1: nil, 2*hour + 5: {"FnbridgeSignatureFailures warning", "FnbridgeNothingAccepted critical"}})
}

func TestABrokerThatWentBack(t *testing.T) {
	t.Parallel()
	data := filepath.Join(t.TempDir(), "data")
	s := serve(t, map[string]string{"DATA_DIR": data, "NATS_URL": serve(t, nil).nats})
	require.NoError(t, s.send(5, 100))
	well := s.await(delivered(5))
	s.stop()
	s = serve(t, map[string]string{"DATA_DIR": data, "NATS_URL": serve(t, nil).nats}) // which has nothing
	back := s.await(func(all map[string]float64) bool {
		return all[`fnbridge_sink_missing_webhooks{sink="nats"}`] > 0 && is(up, 1)(all)
	})
	requireAlerts(t, `{ack: journal}`, []played{{podOfJournal, []phase{{hour, well}, {hour, back}}}},
		firing{hour - 1: nil, hour + 5: {"FnbridgeBrokerWentBack critical"}})
}

func TestAPayloadThatIsNotKnown(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	well := s.await(is(up, 1))
	file := filepath.Join(t.TempDir(), "payload.json")
	require.NoError(t, os.WriteFile(file, []byte(`{"x":1}`), 0o600))
	out, err := s.run("send", "--url", s.webhooks, file)
	require.NoError(t, err, out)
	for _, ack := range []struct{ values, pod string }{
		{`{ack: journal}`, podOfJournal}, {`{ack: sinks, sinks: {nats: {url: "nats://a"}}}`, podOfSinks},
	} {
		requireAlerts(t, ack.values, []played{{ack.pod, []phase{{hour, well}, {hour, s.scrape()}}}},
			firing{hour - 1: nil, hour + 5: {"FnbridgeUnrecognizedWebhooks info"}})
	}
}

func TestAStreamThatFills(t *testing.T) {
	t.Parallel()
	broker := serve(t, nil)
	s := serve(t, map[string]string{
		"NATS_URL": broker.nats, "NATS_STREAM": "SMALL", "NATS_SUBJECT": "small.{route}", "NATS_MAX_BYTES": "64MiB",
	})
	require.NoError(t, s.send(300, 1000))
	fills := s.await(func(all map[string]float64) bool {
		seconds, known := all[`fnbridge_sink_full_in_seconds{sink="nats"}`]
		return known && seconds < 86400
	})
	requireAlerts(t, `{ack: journal}`, []played{{podOfJournal, []phase{{hour, fills}}}},
		firing{10: nil, 30: {"FnbridgeStreamFilling warning"}})
}

func TestAFileThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "secrets")
	require.NoError(t, os.WriteFile(file, []byte("whsec_bm90IGEgc2VjcmV0IG9mIGFueWJvZHkgYXQgYWxs\n"), 0o600))
	s := serve(t, map[string]string{"WEBHOOK_SECRETS": "", "WEBHOOK_SECRETS_FILE": file})
	well := s.await(is(up, 1))
	require.NoError(t, os.WriteFile(file, []byte("whsec_half"), 0o600))
	refused := s.await(is(`fnbridge_file_refused{variable="FNBRIDGE_WEBHOOK_SECRETS_FILE"}`, 1))
	requireAlerts(t, `{ack: journal}`, []played{{podOfJournal, []phase{{hour, well}, {hour, refused}}}},
		firing{hour - 1: nil, hour + 10: {"FnbridgeFileRefused warning"}})
}

// An endpoint that its sender has disabled is seen by its silence, also over a restart.
func TestSilence(t *testing.T) {
	t.Parallel()
	variables := map[string]string{"DATA_DIR": filepath.Join(t.TempDir(), "data")}
	s := serve(t, variables)
	require.NoError(t, s.send(1, 100))
	well := s.await(delivered(1))
	s.stop()
	s = serve(t, variables)
	again := s.await(is(up, 1))
	require.InDelta(t, well["fnbridge_last_accepted_timestamp_seconds{}"],
		again["fnbridge_last_accepted_timestamp_seconds{}"], 120, "it knows of the one before")
	require.NoError(t, s.send(1, 100))
	heard := s.await(delivered(1))
	requireAlerts(t, `{ack: journal, prometheusRule: {enabled: true, silenceSeconds: 3600}}`,
		[]played{{podOfJournal, []phase{{2 * hour, well}, {hour, heard}}}},
		firing{hour - 5: nil, hour + 5: {"FnbridgeSilence warning"}, 2*hour + 2: nil})
	requireAlerts(t, `{ack: journal}`, []played{{podOfJournal, []phase{{day, well}}}}, quiet(day))
}

// Where no webhook has come yet, silence is counted from the start, and a restart does not begin it anew.
func TestSilenceFromTheStart(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	fresh := s.await(is(up, 1))
	require.NoError(t, s.send(1, 100))
	heard := s.await(delivered(1))
	silent := firing{3*hour - 5: nil, 3*hour + 5: {"FnbridgeSilence warning"}, 4 * hour: {"FnbridgeSilence warning"}}
	requireAlerts(t, `{ack: journal, prometheusRule: {enabled: true, silenceSeconds: 3600}}`,
		[]played{{podOfJournal, []phase{{2 * hour, nil}, {hour / 2, fresh}, {2 * hour, fresh}}}}, silent)
	requireAlerts(t, `{ack: sinks, sinks: {nats: {url: "nats://a"}},
		prometheusRule: {enabled: true, silenceSeconds: 3600}}`,
		[]played{
			{podOfSinks, []phase{{2 * hour, nil}, {hour / 2, heard}}},
			{fullname + "-6d5f7c9b8-y3y3y", []phase{{2*hour + hour/2, nil}, {2 * hour, fresh}}},
		}, silent)
}

// Something else fills the volume.
func TestADiskThatIsFull(t *testing.T) {
	t.Parallel()
	disk := smallDisk(t, 64<<20)
	s := serve(t, map[string]string{"DATA_DIR": filepath.Join(disk, "data")})
	require.NoError(t, s.send(1, 100))
	well := s.await(delivered(1))
	fill(t, filepath.Join(disk, "ballast"))
	require.Eventually(t, func() bool { return s.send(1, 20_000) != nil }, patience, time.Millisecond)
	full := s.await(is(`fnbridge_refusing{reason="disk_full"}`, 1))
	requireAlerts(t, `{ack: journal}`, []played{{podOfJournal, []phase{{hour, well}, {hour, full}}}},
		firing{hour - 1: nil, hour + 10: {
			"FnbridgeNotAccepting critical", "FnbridgeDiskFilling warning", "FnbridgeRefusingWebhooks warning",
			"FnbridgeNothingAccepted critical",
		}})
}

// fill takes what a disk has left.
func fill(t *testing.T, path string) {
	t.Helper()
	file, err := os.Create(path)
	require.NoError(t, err)
	defer file.Close()
	for block := make([]byte, 64<<10); err == nil; {
		_, err = file.Write(block)
	}
	require.ErrorContains(t, err, "no space left")
}
