package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/fnbridge/fnbridge/bridge/admin"
)

func journalCommand(c console) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "journal",
		Short: "Verify the journal, or export webhooks from it",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(journalVerifyCommand(c), journalExportCommand(c))
	return cmd
}

func journalVerifyCommand(c console) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Read the whole journal and say what is not as it must be",
		Long: `Has SQLite check the structure of the file, and then reads every webhook and
dead letter and looks for gaps, cursors that cannot be, and contents that cannot
be read. It writes nothing. Exit code 0: all is well; 1: something is not.

It works beside a running "fnbridge serve". While SQLite checks the structure,
which is one long read, the journal's log cannot begin anew and grows with what
is accepted: verify a journal of many gigabytes in a quiet hour.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return journalVerify(cmd.Context(), c, asJSON) },
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func journalVerify(ctx context.Context, c console, asJSON bool) error {
	cfg, err := journalDirectory()
	if err != nil {
		return err
	}
	p := newProgress(c)
	p.show("checking the structure of the file")
	v, err := admin.Verify(ctx, cfg.DataDir, func(done, total int64) {
		p.at(done, total, "webhooks and dead letters", "")
	})
	p.clear()
	switch {
	case err != nil && ctx.Err() != nil:
		return errors.New("interrupted before the whole journal was read")
	case err != nil:
		return noJournal(err, cfg)
	}
	if asJSON {
		err = printJSON(c.out, v)
	} else {
		err = printVerification(c.out, v)
	}
	if err == nil && len(v.Findings) > 0 {
		return errReported
	}
	return err
}

func printVerification(w io.Writer, v admin.Verification) error {
	for _, finding := range v.Findings {
		fmt.Fprintln(w, printable(finding))
	}
	verdict := "all is well"
	if len(v.Findings) > 0 {
		verdict = plural(len(v.Findings), "finding")
	}
	_, err := fmt.Fprintf(w, "%s and %s read, %s: %s.\n",
		plural(int(v.Webhooks), "webhook"), plural(int(v.DeadLetters), "dead letter"), bytesText(v.Bytes), verdict)
	return err
}

type exportOptions struct {
	times       timeRange
	after       int64
	undelivered string
	output      string
}

func journalExportCommand(c console) *cobra.Command {
	var o exportOptions
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write webhooks from the journal as JSON lines",
		Long: `Writes each webhook as one line of JSON, oldest first, with its body exactly as
it came: body is a string, or body_base64 if the body is not UTF-8. It ends with
what was there when it began, says on standard error how many they were, works
beside a running "fnbridge serve", and writes nothing else.

"fnbridge send --from-export FILE" sends such lines again, here or to another
bridge.`,
		Example: `  fnbridge journal export > webhooks.jsonl
  fnbridge journal export --undelivered kafka --output backlog.jsonl
  fnbridge journal export --since 2h | jq -r .body`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return journalExport(cmd.Context(), c, o) },
	}
	o.times.add(cmd, "received")
	f := cmd.Flags()
	f.Int64Var(&o.after, "after", 0, "only those with a greater number (seq), to go on where an export ended")
	f.StringVar(&o.undelivered, "undelivered", "", "only those that this sink has not wholly been sent")
	f.StringVarP(&o.output, "output", "o", "", "write to this new file, for its owner alone (default: standard output)")
	return cmd
}

func journalExport(ctx context.Context, c console, o exportOptions) error {
	if err := o.times.check(); err != nil {
		return err
	}
	if o.after < 0 {
		return usageError{errors.New("--after must not be negative")}
	}
	cfg, err := journalDirectory()
	if err != nil {
		return err
	}
	out := &exportOutput{path: o.output, to: c.out}
	p := newProgress(c)
	var count, last int64
	var unwritten error
	err = admin.Export(ctx, cfg.DataDir, admin.ExportRequest{
		Since: o.times.since.Time, Until: o.times.until.Time, After: o.after, Undelivered: o.undelivered,
	}, func(done, total int64) {
		if o.output != "" || !c.terminal { // which has the webhooks themselves else
			p.at(done, total, "webhooks", "")
		}
	}, func(w admin.ExportedWebhook) error {
		if unwritten = out.write(w); unwritten != nil {
			return unwritten
		}
		count, last = count+1, w.Seq
		return nil
	})
	p.clear()
	if err == nil && o.output != "" {
		unwritten = out.open() // a file without lines says that there were none
		err = unwritten
	}
	if e := out.close(); e != nil {
		return fmt.Errorf("the export is not complete: %w", errors.Join(err, e))
	}
	if err != nil && ctx.Err() != nil {
		err = errors.New("interrupted")
	}
	switch {
	case err != nil && count > 0:
		return fmt.Errorf("%w after %s; --after %d goes on behind them", err, plural(int(count), "webhook"), last)
	case unwritten != nil:
		return fmt.Errorf("the export cannot be written: %w", unwritten)
	case err != nil:
		return noJournal(err, cfg)
	case o.output != "":
		fmt.Fprintf(c.err, "%s exported to %s\n", plural(int(count), "webhook"), o.output)
	default: // what has them, such as kubectl exec, may have lost some
		fmt.Fprintf(c.err, "%s exported\n", plural(int(count), "webhook"))
	}
	return nil
}

// exportOutput is where an export goes. A file is made with its first line, so that a command that fails before leaves
// one that is there as it is.
type exportOutput struct {
	path string // empty: to
	to   io.Writer
	file *os.File
	buf  *bufio.Writer
	json *json.Encoder
}

func (o *exportOutput) open() error {
	if o.buf != nil {
		return nil
	}
	if o.path != "" {
		file, err := newFile(o.path)
		if err != nil {
			return err
		}
		o.file, o.to = file, file
	}
	o.buf = bufio.NewWriterSize(o.to, 64<<10)
	o.json = encoder(o.buf)
	o.json.SetEscapeHTML(false) // as it came, as far as JSON can
	return nil
}

// newFile makes a file for payloads, which its owner alone may read. It replaces none and follows no link. What is no
// file, such as a pipe, is written to.
func newFile(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if !errors.Is(err, fs.ErrExist) {
		return file, err
	}
	if info, e := os.Lstat(path); e == nil && !info.Mode().IsRegular() && info.Mode()&fs.ModeSymlink == 0 {
		return os.OpenFile(path, os.O_WRONLY, 0)
	}
	return nil, fmt.Errorf("%s is there already: remove it, or name another file", path)
}

func (o *exportOutput) write(w admin.ExportedWebhook) error {
	if err := o.open(); err != nil {
		return err
	}
	return o.json.Encode(w)
}

func (o *exportOutput) close() error {
	if o.buf == nil {
		return nil
	}
	err := o.buf.Flush()
	if o.file != nil {
		if e := o.file.Sync(); !errors.Is(e, syscall.EINVAL) { // what is no file on a disk cannot be synced
			err = errors.Join(err, e)
		}
		err = errors.Join(err, o.file.Close())
	}
	return err
}

// printJSON writes v in several lines, for programs and people who look at what they get.
func printJSON(w io.Writer, v any) error {
	e := encoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
