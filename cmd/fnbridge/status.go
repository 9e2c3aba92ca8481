package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/fnbridge/fnbridge/bridge/admin"
	"github.com/fnbridge/fnbridge/bridge/app"
	"github.com/fnbridge/fnbridge/config"
)

func statusCommand(c console) *cobra.Command {
	var watched, asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the journal and how far each sink is",
		Long: `Reads the data directory, beside a running "fnbridge serve" or without one, and
asks the operations listener whether the bridge runs. It never writes. With
FNBRIDGE_ACK=sinks, where nothing is stored, it asks the operations listener
alone, with FNBRIDGE_PAGE_TOKEN.

The journal holds webhooks that wait for a sink, and those that every sink has,
which stay for replays until room is needed. BACKLOG counts what waits for the
sink.

A sink is up, degraded (it takes only part of the events), down (it takes none;
they are tried again by themselves) or blocked (somebody has to mend what its
last error says). A sink whose broker went back, and so may lack events that it
had acknowledged, has a line of its own, with the command that replays them,
until that is done.

--watch shows a table once a second, in one place on a terminal, also through
"kubectl exec -it"; DONE/S are the webhooks that the sink is through with. With
--json each second is a line.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := dataDirectory()
			if err != nil {
				return err
			}
			if watched {
				return (&watch{console: c, cfg: cfg, json: asJSON}).run(cmd.Context())
			}
			if cfg.AcksFromSinks() {
				return liveStatus(cmd.Context(), c, cfg, asJSON)
			}
			s, err := readStatus(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.out, s)
			}
			if err := printStatus(c, s.runs(cfg), s.Status, time.Now()); err != nil {
				return err
			}
			printRefusedFiles(c, s.RefusedFiles)
			return nil
		},
	}
	cmd.Flags().BoolVar(&watched, "watch", false, "show it once a second, with rates, until interrupted")
	jsonFlag(cmd, &asJSON)
	return cmd
}

// shownStatus is the status of a bridge with a journal.
type shownStatus struct {
	Live     bool   `json:"live"`
	Ready    bool   `json:"ready"`
	NotReady string `json:"not_ready,omitempty"`
	admin.Status
	// RefusedFiles hold what cannot be used, so that what they held before is in use.
	RefusedFiles []admin.RefusedFile `json:"refused_files,omitempty"`
	// elsewhere tells that a bridge runs, and has no control socket in this data directory.
	elsewhere bool
}

// runs says whether the bridge runs.
func (s *shownStatus) runs(cfg *config.Config) [][2]string {
	switch {
	case s.Live && s.NotReady != "":
		return [][2]string{{"bridge", "running: " + cfg.OpsListen + " answers"}, {"", "not ready: " + s.NotReady}}
	case s.Live:
		return [][2]string{{"bridge", "running: " + cfg.OpsListen + " answers"}}
	case s.elsewhere:
		return [][2]string{{"bridge", fmt.Sprintf("not running on %s: the one at %s has another data directory, or could "+
			"make no socket here", cfg.DataDir, cfg.OpsListen)}}
	default:
		return [][2]string{{"bridge", "not running, or its operations listener is not at " + cfg.OpsListen +
			"; below is what it left"}}
	}
}

func readStatus(ctx context.Context, cfg *config.Config) (s shownStatus, err error) {
	if s.Status, err = admin.ReadStatus(ctx, cfg.DataDir); err != nil {
		return s, noJournal(err, cfg)
	}
	if s.Live = admin.CheckLive(ctx, app.LocalAddress(cfg.OpsListen)) == nil; !s.Live {
		return s, nil
	}
	if s.NotReady, err = admin.AskReady(ctx, app.LocalAddress(cfg.OpsListen)); err != nil {
		s.NotReady = err.Error()
	}
	s.Ready = s.NotReady == ""
	s.RefusedFiles, err = admin.ReadRefusedFiles(ctx, cfg.DataDir)
	if errors.Is(err, admin.ErrNotRunning) { // as in a copy of a bridge's directory
		s.Live, s.Ready, s.NotReady, s.elsewhere = false, false, "", true
	}
	return s, nil // another error is that of another version's bridge
}

// dataDirectory reads the configuration for a command that only looks into the data directory: of all variables, only
// FNBRIDGE_DATA_DIR has to be right for that.
func dataDirectory() (*config.Config, error) {
	cfg, _, err := app.LoadConfig(os.Environ())
	if cfg == nil {
		return nil, err
	}
	return cfg, nil
}

var errNoJournal = errors.New("with FNBRIDGE_ACK=sinks there is no journal: webhooks are published before they are " +
	"answered, and what a sink can never store goes to FNBRIDGE_<SINK>_DEAD_LETTER or is answered 422. To look at a " +
	"journal from before, run this command with FNBRIDGE_ACK=journal")

// journalDirectory is dataDirectory for a command that needs a journal.
func journalDirectory() (*config.Config, error) {
	cfg, err := dataDirectory()
	if err == nil && cfg.AcksFromSinks() {
		return nil, errNoJournal
	}
	return cfg, err
}

// liveStatus shows the status of a bridge that stores nothing.
func liveStatus(ctx context.Context, c console, cfg *config.Config, asJSON bool) error {
	s, err := admin.ReadLiveStatus(ctx, app.LocalAddress(cfg.OpsListen), cfg.PageToken.Reveal())
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(c.out, s)
	}
	ready := "ready"
	if !s.Ready {
		ready = "not ready: " + s.NotReady
	}
	now := time.Now()
	err = c.fields([][2]string{
		{"bridge", fmt.Sprintf("running (%s), %s", cfg.OpsListen, ready)},
		{"queue", fmt.Sprintf("%s, %s, not stored here: a webhook is answered when its sinks have it",
			plural(s.Webhooks, "webhook"), bytesText(s.Bytes))},
		{"accepted", acceptedText(s.LastAccepted, now)},
	})
	if err != nil {
		return err
	}
	fmt.Fprintln(c.out)
	var rows [][]string
	for _, sink := range s.Sinks {
		required := "yes"
		if !sink.Required {
			required = "no"
		}
		rows = append(rows, []string{
			sink.Sink, stateText(sink.State, sink.Since, now), required, plural(int(sink.Webhooks), "webhook"),
			plural(int(sink.MissedEvents), "event"), errorText(sink.LastError, sink.LastErrorAt, now),
		})
	}
	if err := c.table([]string{"SINK", "STATE", "REQUIRED", "UNDER WAY", "MISSED", "LAST ERROR"}, rows); err != nil {
		return err
	}
	for _, sink := range s.Sinks {
		printNote(c, sink.Sink, sink.Advice)
		printNote(c, sink.Sink, sink.StandsStill)
	}
	printRefusedFiles(c, s.RefusedFiles)
	printReport(c, s.Report, now)
	return nil
}

// printRefusedFiles says which files were changed into what the bridge cannot use.
func printRefusedFiles(c console, files []admin.RefusedFile) {
	for _, f := range files {
		fmt.Fprintf(c.out, "\n%s: what the file %s holds now is not in use, what it held before is: %s\n",
			f.Variable, printable(f.Path), printable(f.Reason))
	}
}

// noJournal says of a data directory without a journal what to do about it. Other errors stay as they are.
func noJournal(err error, cfg *config.Config) error {
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return fmt.Errorf("there is no journal in %s: set FNBRIDGE_DATA_DIR to the directory that \"fnbridge serve\" uses, "+
		"or start it there first", cfg.DataDir)
}

func printStatus(c console, runs [][2]string, s admin.Status, now time.Time) error {
	err := c.fields(append(runs, [][2]string{
		{"journal", fmt.Sprintf("%s of %s, %s, newest is number %d",
			bytesText(s.JournalBytes), bytesText(s.JournalMaxBytes), plural(int(s.Webhooks), "webhook"), s.Head)},
		{"", fmt.Sprintf("waiting for sinks: %s, %s; dead letters: %s",
			plural(int(s.WaitingWebhooks), "webhook"), bytesText(s.WaitingBytes), bytesText(s.DeadLetterBytes))},
		{"", fmt.Sprintf("kept for replay: %s, %s", plural(int(s.KeptWebhooks), "webhook"), bytesText(s.KeptBytes))},
		{"", fmt.Sprintf("files: %s on the disk, with what is free for use again", bytesText(s.JournalFilesBytes))},
		{"accepted", acceptedText(s.LastAccepted, now)},
	}...))
	if err != nil {
		return err
	}
	fmt.Fprintln(c.out)
	var rows [][]string
	for i := range s.Sinks {
		k := &s.Sinks[i]
		rows = append(rows, []string{
			k.Sink, storedStateText(k, now), plural(int(k.BacklogWebhooks), "webhook"),
			ageText(k.OldestUndelivered, now), fmt.Sprint(k.DeadLetters), errorText(k.LastError, k.LastErrorAt, now),
		})
	}
	err = c.table([]string{"SINK", "STATE", "BACKLOG", "OLDEST", "DEAD LETTERS", "LAST ERROR"}, rows)
	if err != nil {
		return err
	}
	for _, sink := range s.Sinks {
		printNote(c, sink.Sink, sink.Advice)
		printNote(c, sink.Sink, sink.StandsStill)
		printMissing(c, sink, now)
	}
	printReport(c, s.Report, now)
	removedSinks(c, s.Sinks)
	return nil
}

// errorText says what went wrong last, and how long ago.
func errorText(text string, at *time.Time, now time.Time) string {
	if text == "" {
		return "-"
	}
	return ageText(at, now) + " ago: " + text
}

// acceptedText says when a webhook was accepted last. A sender that has disabled the endpoint makes no other sign.
func acceptedText(at *time.Time, now time.Time) string {
	if at == nil {
		return "no webhook yet"
	}
	return fmt.Sprintf("the last webhook %s ago, at %s", ageText(at, now), at.UTC().Format(time.RFC3339))
}

// printNote says below the table what there is to say of a sink, if there is anything.
func printNote(c console, sink, what string) {
	if what != "" {
		fmt.Fprintln(c.out, "\n"+c.wrap(2, sink+": "+printable(what)))
	}
}

// printReport says how full brokers are, and what is warned of.
func printReport(c console, r admin.Report, now time.Time) {
	for _, s := range r.Storage {
		fmt.Fprintln(c.out, "\n"+c.wrap(2, s.Sink+": "+printable(storageText(s.Storage, now))))
	}
	for _, w := range r.Warnings {
		of := "warning"
		if w.Sink != "" {
			of += ": " + w.Sink
		}
		fmt.Fprintln(c.out, "\n"+c.wrap(2, of+": "+printable(w.Text)))
	}
}

// storageText is how full a broker is, for people.
func storageText(s admin.Storage, now time.Time) string {
	text := fmt.Sprintf("%s holds %s of %s", s.Of, bytesText(s.UsedBytes), bytesText(s.LimitBytes))
	in, fills := s.FullIn(now)
	switch {
	case !fills:
		return text
	case in == 0:
		text += ", and is full"
	default:
		text += ", and is full in " + in.Round(time.Minute).String() + " at this rate"
	}
	if s.DropsOldest {
		return text + "; the oldest events make room"
	}
	return text + "; new events then wait"
}

// printMissing says what the broker of a sink may have lost.
func printMissing(c console, sink admin.SinkStatus, now time.Time) {
	m := sink.Missing
	if m == nil {
		return
	}
	heal := "replay them: " + m.Command
	if m.Replay != 0 {
		heal = fmt.Sprintf("replay %d publishes them again; should it end early: %s", m.Replay, m.Command)
	}
	fmt.Fprintf(c.out, "\n%s: the broker went back, found %s ago: %s. Events of %s may be missing; %s\n", sink.Sink,
		ageText(&m.FoundAt, now), printable(m.Found), plural(int(m.Webhooks), "webhook"), heal)
}

// storedStateText is a sink's state for people, where there is a journal.
func storedStateText(s *admin.SinkStatus, now time.Time) string {
	if !s.Configured {
		return "not configured"
	}
	return stateText(s.State, s.Since, now)
}

// stateText is a sink's state for people, with how long it has been in it unless it is well.
func stateText(state string, since *time.Time, now time.Time) string {
	switch {
	case state == "":
		return "unknown"
	case state == "up" || since == nil:
		return state
	default:
		return state + " " + ageText(since, now)
	}
}
