//go:build linux

package torture

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

const (
	// diskSize is that of the bridge's disk, of which only what is written takes room.
	diskSize = 8 << 30
	// The kernel's ioctls, from linux/fs.h and ext4.h.
	ioctlFreeze   = 0xc0045877
	ioctlThaw     = 0xc0045878
	ioctlShutdown = 0x8004587d
	// shutdownNoFlush ends a file system without writing anything more.
	shutdownNoFlush = 2
	// refusals is how many answers 503 show that the bridge does not take webhooks.
	refusals = 10
	// retention is how long the bridge keeps what it has delivered: what was delivered long ago shall not fill the disk.
	retention = 10 * time.Minute
)

// diskSide is the disk of the bridge's data directory: a file system of its own in a file, which can fill, fail, stand
// still and lose its power. Where the test may not mount one it is a plain directory, and those faults are left out.
// Its methods are for the goroutine that plays faults.
type diskSide struct {
	deleted bool // webhooks have been, before their retention ended
	t       *testing.T
	image   string // what holds the file system; empty for a plain directory
	point   string // where it is mounted
	aside   string // for copies
}

func startDisk(t *testing.T) *diskSide {
	t.Helper()
	d := &diskSide{t: t, point: t.TempDir(), aside: t.TempDir(), image: filepath.Join(t.TempDir(), "disk")}
	if err := d.format(); err != nil {
		if os.Getenv("FNBRIDGE_TEST_REQUIRE_ALL") == "1" {
			t.Fatalf("FNBRIDGE_TEST_REQUIRE_ALL=1 asks for every fault, and the bridge cannot have a disk of its own here: %v",
				err)
		}
		t.Logf("The bridge cannot have a disk of its own here, so most faults of the disk are left out: %v", err)
		d.image = ""
		return d
	}
	t.Cleanup(func() {
		_ = d.control(ioctlThaw, 0)
		require.NoError(t, d.unmount())
	})
	return d
}

// format makes the file system and mounts it.
func (d *diskSide) format() error {
	file, err := os.Create(d.image)
	if err != nil {
		return err
	}
	if err := errors.Join(file.Truncate(diskSize), file.Close()); err != nil {
		return err
	}
	// Nothing is kept for root, whom a full disk would not stop otherwise.
	if err := command("mkfs.ext4", "-q", "-m", "0", d.image); err != nil {
		return err
	}
	return d.mount()
}

func (d *diskSide) mount(options ...string) error {
	return command("mount", "-o", strings.Join(append(options, "loop", "errors=remount-ro"), ","), d.image, d.point)
}

// unmount takes the file system away, once the kernel has noticed that nobody uses it any more.
func (d *diskSide) unmount() error {
	var err error
	for range 1000 {
		if err = command("umount", d.point); err == nil {
			return nil
		}
		pause := time.NewTimer(50 * time.Millisecond)
		<-pause.C
	}
	return err
}

// control tells the kernel to do something with the file system.
func (d *diskSide) control(request uint, argument int) error {
	dir, err := os.Open(d.point)
	if err != nil {
		return err
	}
	defer dir.Close()
	return unix.IoctlSetPointerInt(int(dir.Fd()), request, argument)
}

func command(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(out))
	}
	return nil
}

func (d *diskSide) dir() string     { return filepath.Join(d.point, "data") }
func (d *diskSide) journal() string { return filepath.Join(d.dir(), "journal.db") }
func (d *diskSide) env() []string   { return []string{"DATA_DIR=" + d.dir()} }

func (d *diskSide) faults() []fault {
	faults := []fault{
		{"disk: journal at its size limit", d.playLimit},
		{"disk: journal damaged at rest", d.playDamaged},
		{"disk: a sector of the journal's log lost", d.playSectorLost},
		{"disk: the embedded server's stream lost", d.playStreamLost},
	}
	if d.image == "" {
		return faults
	}
	return append(faults,
		fault{"disk: full", d.playFull},
		fault{"disk: full when the bridge starts", d.playFullStart},
		fault{"disk: stands still", d.playStandstill},
		fault{"disk: turns read-only", d.playReadOnly},
		fault{"disk: loses power", d.playPowerLoss},
	)
}

// awaitRefusals waits until the bridge refuses webhooks.
func (d *diskSide) awaitRefusals(ctx context.Context, r *run) {
	if err := d.refuses(ctx, r, recoveryLimit, func() {}); err != nil {
		r.failf("the bridge should refuse webhooks: %v", err)
	}
}

// refuses waits until the bridge refuses webhooks, and calls meanwhile between the looks. The error says that it does
// not: the load, which has to fill what room is left, is as slow as the machine.
func (d *diskSide) refuses(ctx context.Context, r *run, limit time.Duration, meanwhile func()) error {
	before := r.load.refused()
	return r.await(ctx, limit, func() error {
		meanwhile()
		if n := r.load.refused() - before; n < refusals {
			return fmt.Errorf("%d webhooks were refused", n)
		}
		return nil
	})
}

// rememberedBytes is more than what the journal keeps of a webhook that is gone while its signature is valid: its id
// and digest. They take their room whatever the limit is.
const rememberedBytes = 192

// playLimit fills a small journal while sinks are away. It takes webhooks again once they are back.
func (d *diskSide) playLimit(ctx context.Context, r *run) {
	// What is delivered goes early when room is short, and with it the memory of it.
	defer func() { r.load.forgetFrom(time.Now()) }()
	r.load.forgetFrom(time.Now().Add(time.Hour))

	r.bridge.terminate(context.WithoutCancel(ctx))
	r.nats.stall()
	r.kafka.stall()
	r.bridge.start(fmt.Sprintf("JOURNAL_MAX_BYTES=%dKiB", 1024+r.rand.Int64N(1024)+r.load.accepted()*rememberedBytes>>10))
	d.deleted = true
	r.load.setRate(backlogRate) // a journal takes thousands of small ones
	d.awaitRefusals(ctx, r)
	r.load.setRate(r.rate)
	r.stay(ctx, 0, 3*time.Second)
	r.kafka.unstall()
	r.nats.unstall()
	if err := r.accept(ctx, 100); err != nil {
		r.failf("the journal has room again: %v", err)
	}
	r.bridge.terminate(context.WithoutCancel(ctx))
	r.startBridge(ctx)
}

// forgetFrom says that the bridge may take for new what it accepts until then.
func (l *load) forgetFrom(t time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.memoryFrom = t
}

// ballast is a file that fills the disk.
type ballast struct{ *os.File }

func (d *diskSide) ballast() (ballast, error) {
	file, err := os.Create(filepath.Join(d.point, "ballast"))
	return ballast{file}, err
}

// fill takes what the disk has free, but for so many bytes.
func (b ballast) fill(left int64) error {
	var s unix.Statfs_t
	info, err := b.Stat()
	if err := errors.Join(err, unix.Fstatfs(int(b.Fd()), &s)); err != nil {
		return err
	}
	if more := int64(s.Bavail)*s.Bsize - left; more > 0 {
		_ = unix.Fallocate(int(b.Fd()), 0, info.Size(), more) // others may have taken some of it
	}
	return nil
}

func (b ballast) remove() error { return errors.Join(b.Close(), os.Remove(b.Name())) }

// refusesFull waits until the bridge refuses webhooks on a disk that is kept full.
func (d *diskSide) refusesFull(ctx context.Context, r *run, b ballast) {
	// Once webhooks have been deleted, their room in the journal's file takes new ones, whatever the disk has.
	deleted, limit := d.deleted || time.Since(r.began) >= retention, recoveryLimit
	if deleted {
		limit = 10 * time.Second // it need not refuse at all
	}
	fill := func() { _ = b.fill(0) } // others free room, too
	if err := d.refuses(ctx, r, limit, fill); err != nil && !deleted {
		r.failf("the bridge should refuse webhooks on a full disk: %v", err)
	}
}

// playFull fills the disk, and makes room again.
func (d *diskSide) playFull(ctx context.Context, r *run) {
	b, err := d.ballast()
	if err == nil {
		err = b.fill(r.rand.Int64N(4 << 20))
	}
	if err != nil {
		r.failf("disk: %v", err)
		return
	}
	d.refusesFull(ctx, r, b)
	r.stay(ctx, 0, 3*time.Second)
	if err := b.remove(); err != nil {
		r.failf("disk: %v", err)
	}
}

// playFullStart kills the bridge while its brokers are away, and starts it on a disk that is full. What was accepted
// has to be delivered all the same.
func (d *diskSide) playFullStart(ctx context.Context, r *run) {
	r.nats.stall()
	r.kafka.stall()
	r.stay(ctx, time.Second, 2*time.Second)
	r.bridge.kill()
	b, err := d.ballast()
	if err == nil {
		err = b.fill(0)
	}
	if err != nil {
		r.failf("disk: %v", err)
	}
	r.bridge.start()
	r.nats.unstall()
	r.kafka.unstall()
	d.refusesFull(ctx, r, b)
	if err := r.ledger.awaitDelivered(context.WithoutCancel(ctx), "nats", "kafka"); err != nil {
		r.failf("a start on a full disk: %v", err)
	}
	if err := errors.Join(b.remove(), r.takesWebhooks(ctx)); err != nil {
		r.failf("after a start on a full disk: %v", err)
	}
}

// playStreamLost has a killed bridge's embedded server lose all that it stores. The bridge has to see it, and to
// publish again by itself what the journal has.
func (d *diskSide) playStreamLost(ctx context.Context, r *run) {
	r.bridge.kill()
	if err := os.RemoveAll(filepath.Join(d.dir(), "nats")); err != nil {
		r.failf("disk: %v", err)
	}
	r.startBridge(ctx)
	if err := r.await(ctx, recoveryLimit, func() error {
		m, err := r.bridge.metrics(ctx)
		if err != nil {
			return err
		}
		// What another sink's broker has lost stays missing until somebody has it replayed.
		back, missing := m.of("local", "fnbridge_sink_went_back_total"), m.of("local", "fnbridge_sink_missing_webhooks")
		if back == 0 || missing > 0 {
			return fmt.Errorf("it was seen %v times, and the events of %v webhooks are missing", back, missing)
		}
		return nil
	}); err != nil {
		r.failf("the embedded server has lost its stream: %v", err)
	}
}

// playStandstill has every write wait, for longer than the sender does.
func (d *diskSide) playStandstill(ctx context.Context, r *run) {
	if err := d.control(ioctlFreeze, 0); err != nil {
		r.failf("disk: %v", err)
		return
	}
	r.stay(ctx, shortTimeout, shortTimeout+4*time.Second)
	if err := d.control(ioctlThaw, 0); err != nil {
		r.failf("disk: %v", err)
	}
}

// playReadOnly has the kernel refuse writes, as it does after an error of the disk, and lets the bridge meet such a
// disk at its start too.
func (d *diskSide) playReadOnly(ctx context.Context, r *run) {
	// ext4 can report a sync as done that is under way at the moment when it gives up its journal, and throw away
	// what was to be synced. No program can know of that, and so nothing is being synced then.
	r.load.pause(ctx)
	err := r.ledger.awaitDelivered(context.WithoutCancel(ctx))
	if err == nil {
		err = command("mount", "-o", "remount,abort", d.point)
	}
	r.load.resume()
	if err != nil {
		r.failf("disk: before it turns read-only: %v", err)
		return
	}
	d.awaitRefusals(ctx, r)
	r.bridge.kill()
	if err := errors.Join(d.unmount(), d.repair(), d.mount("ro")); err != nil {
		r.failf("disk: %v", err)
		return
	}
	if out := d.refusedStart(ctx, r); !strings.Contains(out, "read-only") || !strings.Contains(out, d.dir()) {
		r.failf("a start on a read-only disk does not say so:\n%s", lastLines(out))
	}
	if err := errors.Join(d.unmount(), d.mount()); err != nil {
		r.failf("disk: %v", err)
		return
	}
	r.startBridge(ctx)
}

// repair checks the file system and mends what it finds.
func (d *diskSide) repair() error {
	err := command("e2fsck", "-fy", d.image)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() == 1 {
		return nil // there was something to mend
	}
	return err
}

// playPowerLoss ends the bridge and its disk at once: what has not been synced is gone. The bridge goes first, since it
// would still be told that what the disk has thrown away were synced (see playReadOnly), which a machine without power
// does not do.
func (d *diskSide) playPowerLoss(ctx context.Context, r *run) {
	r.stay(ctx, 0, time.Second)
	r.bridge.kill()
	if err := d.control(ioctlShutdown, shutdownNoFlush); err != nil {
		r.failf("disk: %v", err)
		return
	}
	r.stay(ctx, 0, time.Second)
	// A machine that lost its power has another boot after that; this one has not.
	if err := errors.Join(d.unmount(), d.mount(), os.RemoveAll(d.journal()+"-boot")); err != nil {
		r.failf("disk: %v", err)
		return
	}
	r.startBridge(ctx)
}

// refusedStart starts the bridge, which has to end by itself, and returns what it says.
func (d *diskSide) refusedStart(ctx context.Context, r *run) string {
	r.bridge.start()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readyLimit)
	defer cancel()
	switch code, err := r.bridge.awaitExit(ctx); {
	case err != nil:
		r.failf("a start that has to be refused: %v", err)
		r.bridge.kill()
	case code == 0:
		r.failf("a start that has to be refused ends with exit code 0")
	}
	return r.bridge.output()
}

// damage is one way to spoil a journal at rest.
type damage struct {
	kind   string
	killed bool // the bridge was killed, and so has left its log
	do     func(r *run, journal string) error
}

func (d *diskSide) damages() []damage {
	overwrite := func(r *run, journal string, at int64, length int) error {
		file, err := os.OpenFile(journal, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		noise := make([]byte, length)
		for i := range noise {
			noise[i] = byte(r.rand.Uint32())
		}
		_, err = file.WriteAt(noise, at)
		return errors.Join(err, file.Close())
	}
	const page = 4096
	header := func(r *run, journal string) error { return overwrite(r, journal, 0, 100) }
	// The tables begin in the first pages and stay there.
	table := func(r *run, journal string) error { return overwrite(r, journal, int64(1+r.rand.IntN(4))*page, page) }
	short := func(r *run, journal string) error {
		info, err := os.Stat(journal)
		if err != nil {
			return err
		}
		return os.Truncate(journal, r.rand.Int64N(info.Size()))
	}
	gone := func(_ *run, journal string) error { return os.Remove(journal) }
	return []damage{
		{"header overwritten", false, header},
		{"header overwritten, with its log", true, header},
		{"table overwritten", false, table},
		{"cut off", false, short},
		{"gone, with its log left", true, gone},
	}
}

func (d *diskSide) playDamaged(ctx context.Context, r *run) {
	all := d.damages()
	d.playDamage(ctx, r, all[r.rand.IntN(len(all))])
}

// playSectorLost loses a sector in the middle of what a killed bridge has left in its log.
func (d *diskSide) playSectorLost(ctx context.Context, r *run) {
	// A log that has just begun anew has no middle. Once it has one, it stands still until the bridge is killed.
	if err := r.await(ctx, recoveryLimit, func() error {
		r.bridge.pause()
		_, err := middleSectors(d.journal())
		if err != nil {
			r.bridge.resume()
		}
		return err
	}); err != nil {
		r.failf("a log: %v", err)
	}
	d.playDamage(ctx, r, damage{"a sector of its log lost", true, func(r *run, journal string) error {
		at, err := middleSectors(journal)
		if err != nil {
			return err
		}
		log, err := os.OpenFile(journal+"-wal", os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = log.WriteAt(make([]byte, sector), at[r.rand.IntN(len(at))])
		return errors.Join(err, log.Close())
	}})
}

// sector is the least that a disk writes.
const sector = 512

// middleSectors are where the sectors of a journal's log begin that are not zero, before the last frame of the log's
// present use.
func middleSectors(journal string) (all []int64, err error) {
	const header, frame = 32, 24 + 4096 // SQLite's
	content, err := os.ReadFile(journal + "-wal")
	if err != nil {
		return nil, err
	}
	last := 0 // where the last frame with the salts of the header begins
	for at := header; at+frame <= len(content) && bytes.Equal(content[at+8:at+16], content[16:24]); at += frame {
		last = at
	}
	for at := sector; at+sector <= last; at += sector {
		if !bytes.Equal(content[at:at+sector], make([]byte, sector)) {
			all = append(all, int64(at))
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("the log has %d bytes, and no sector that could be lost before its last frame, at %d",
			len(content), last)
	}
	return all, nil
}

// playDamage damages the journal of a bridge that does not run. The start has to be refused, with everything left as
// it is; then the journal is put back.
func (d *diskSide) playDamage(ctx context.Context, r *run, chosen damage) {
	r.logf("     %s", chosen.kind)
	if chosen.killed {
		r.bridge.kill()
	} else {
		r.bridge.terminate(context.WithoutCancel(ctx))
	}
	if err := d.copyJournal(d.dir(), d.aside); err != nil {
		r.failf("disk: %v", err)
		return
	}
	if err := chosen.do(r, d.journal()); err != nil {
		r.failf("disk: %v", err)
	}
	before, err := d.digest()
	if err != nil {
		r.failf("disk: %v", err)
	}
	out := d.refusedStart(ctx, r)
	for _, text := range []string{d.journal(), "damaged", "Restore"} {
		if !strings.Contains(out, text) {
			r.failf("a start with a journal that is damaged (%s) does not say %q:\n%s", chosen.kind, text, lastLines(out))
		}
	}
	if after, err := d.digest(); err != nil || after != before {
		r.failf("a start with a journal that is damaged (%s) has changed it: %v\n%s\n%s", chosen.kind, err, before, after)
	}
	if err := d.copyJournal(d.aside, d.dir()); err != nil {
		r.failf("disk: %v", err)
		return
	}
	r.startBridge(ctx)
}

// journalFiles are the names of the journal's files in a directory.
func journalFiles(dir string) ([]string, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "journal.db*"))
	for i, path := range paths {
		paths[i] = filepath.Base(path)
	}
	return paths, err
}

// copyJournal replaces the journal in to by the one in from.
func (d *diskSide) copyJournal(from, to string) error {
	old, err := journalFiles(to)
	if err != nil {
		return err
	}
	for _, name := range old {
		if err := os.Remove(filepath.Join(to, name)); err != nil {
			return err
		}
	}
	names, err := journalFiles(from)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := copyFile(filepath.Join(from, name), filepath.Join(to, name)); err != nil {
			return err
		}
	}
	return nil
}

func copyFile(from, to string) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(target, source)
	return errors.Join(err, target.Sync(), target.Close())
}

// digest tells whether the journal's files have changed. The index of the log is none of them: SQLite makes it anew.
func (d *diskSide) digest() (string, error) {
	names, err := journalFiles(d.dir())
	if err != nil {
		return "", err
	}
	var all strings.Builder
	for _, name := range names {
		if strings.HasSuffix(name, "-shm") {
			continue
		}
		content, err := os.ReadFile(filepath.Join(d.dir(), name))
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&all, "%s: %d bytes, %x\n", name, len(content), sha256.Sum256(content))
	}
	return all.String(), nil
}
