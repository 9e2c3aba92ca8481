package machine

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What ends a file system without writing anything more, from the kernel's ext4.h.
const (
	ioctlShutdown   = 0x8004587d
	shutdownNoFlush = 2
)

// Disk is a file system of its own, which can lose its power. It is for one goroutine.
type Disk struct {
	// Dir is where it is mounted.
	Dir   string
	image string
}

// NewDisk makes a disk of that many MiB, which is there until the test has ended. The test lacks it where it may not
// mount one.
func NewDisk(tb testing.TB, size int64) *Disk {
	tb.Helper()
	return newDisk(tb, tb.TempDir(), size)
}

// newDisk keeps what is on the disk in a file in dir.
func newDisk(tb testing.TB, dir string, size int64, options ...string) *Disk {
	tb.Helper()
	d := &Disk{Dir: tb.TempDir(), image: filepath.Join(dir, "disk")}
	file, err := os.Create(d.image)
	if err == nil {
		err = errors.Join(file.Truncate(size<<20), file.Close())
	}
	if err != nil {
		tb.Fatal(err)
	}
	if err := errors.Join(command("mkfs.ext4", append(options, "-q", "-m", "0", d.image)...), d.mount()); err != nil {
		Lacks(tb, "a disk of its own cannot be mounted here: %v", err)
	}
	tb.Cleanup(func() {
		if err := d.unmount(); err != nil {
			tb.Error(err)
		}
	})
	return d
}

// LosePower takes away what has not been synced. Nothing may use the disk any more.
func (d *Disk) LosePower(tb testing.TB) {
	tb.Helper()
	dir, err := os.Open(d.Dir)
	if err == nil {
		err = errors.Join(unix.IoctlSetPointerInt(int(dir.Fd()), ioctlShutdown, shutdownNoFlush), dir.Close())
	}
	if err := errors.Join(err, d.unmount(), d.mount()); err != nil {
		tb.Fatalf("the disk does not lose its power: %v", err)
	}
}

// ThinDisk is a disk that claims more room than there is. Where there is none, what is written to it fails once the
// system writes it back.
type ThinDisk struct {
	*Disk
	beneath string
}

// NewThinDisk makes a disk that claims 128 MiB, of which there are 32.
func NewThinDisk(tb testing.TB) *ThinDisk {
	tb.Helper()
	beneath := SmallDisk(tb, 32)
	// Its own tables have their room from the start, and it goes on when it cannot write.
	return &ThinDisk{beneath: beneath, Disk: newDisk(tb, beneath, 128,
		"-O", "^has_journal", "-E", "nodiscard,lazy_itable_init=0")}
}

// Fill takes all the room that is left.
func (d *ThinDisk) Fill(tb testing.TB) {
	tb.Helper()
	file, err := os.Create(d.ballast())
	if err != nil {
		tb.Fatal(err)
	}
	for err == nil {
		_, err = file.Write(make([]byte, os.Getpagesize()))
	}
	if err := file.Close(); err != nil {
		tb.Fatal(err)
	}
}

// Empty gives it back.
func (d *ThinDisk) Empty(tb testing.TB) {
	tb.Helper()
	if err := os.Remove(d.ballast()); err != nil {
		tb.Fatal(err)
	}
}

func (d *ThinDisk) ballast() string { return filepath.Join(d.beneath, "ballast") }

func (d *Disk) mount() error { return command("mount", "-o", "loop", d.image, d.Dir) }

func (d *Disk) unmount() error { return unused(func() error { return command("umount", d.Dir) }) }

// unused unmounts once the kernel has noticed that nobody uses the file system any more: a process that is just being
// started may for a moment.
func unused(unmount func() error) (err error) {
	pause := time.NewTicker(50 * time.Millisecond)
	defer pause.Stop()
	for range 100 {
		if err = unmount(); err == nil {
			return nil
		}
		<-pause.C
	}
	return err
}

func command(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(out))
	}
	return nil
}
