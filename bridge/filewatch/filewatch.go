// Package filewatch notices that files change: at once where the system tells of it, and otherwise when it looks.
package filewatch

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// settle is how long after the first news the files are read: a certificate and its key are written one by one.
	settle = 100 * time.Millisecond
	// poll is the time between two looks, for file systems that tell of nothing, such as those of a network.
	poll = 30 * time.Second
	// patience is how long a look that is under way is waited for at the end. A file may never be read to its end, such as
	// one of a server that is away.
	patience = time.Second
	// maxLinks bounds how many links are followed on the way to a file.
	maxLinks = 64
)

// Files are what is watched.
type Files interface {
	// Paths returns the path of each file.
	Paths() []string
	// Refresh reads them.
	Refresh()
}

// Run has files read whenever one of them, or a link on the way to it, has changed, and every 30 s, until ctx ends.
// What is watched are the folders, since files are replaced rather than written: Kubernetes exchanges a link to the
// folder of all of them. log hears when the system does not tell of changes. A file that cannot be read to its end
// outlives Run, with the goroutine that reads it.
func Run(ctx context.Context, files Files, log *slog.Logger) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		(&watch{log: log}).run(ctx, files)
	}()
	select {
	case <-ended:
		return
	case <-ctx.Done():
	}
	select {
	case <-ended:
	case <-time.After(patience):
		log.Warn("a file that a variable names is not read to its end, and is waited for no longer")
	}
}

func (w *watch) run(ctx context.Context, files Files) {
	defer w.close()
	w.follow(files.Paths())
	ticker := time.NewTicker(poll)
	defer ticker.Stop()
	due := time.After(0) // nil: nothing was heard. What changed since the files were read first was not.
	for {
		select {
		case <-ctx.Done():
			return
		case event := <-w.events:
			if due == nil && w.concerns(event) {
				due = time.After(settle)
			}
			continue
		case err := <-w.errors:
			if !errors.Is(err, fsnotify.ErrEventOverflow) {
				w.complain(err)
			} else if due == nil {
				due = time.After(settle)
			}
			continue
		case <-due:
		case <-ticker.C:
		}
		due = nil
		// Before the files are read: what changes from then on is heard.
		w.follow(files.Paths())
		files.Refresh()
	}
}

type watch struct {
	log     *slog.Logger
	watcher *fsnotify.Watcher // nil: there is no file, or the system tells of nothing
	events  chan fsnotify.Event
	errors  chan error
	names   []string // whose change matters: files, and links on the way to them
	said    bool
}

func (w *watch) complain(err error) {
	if !w.said {
		w.said = true
		w.log.Warn("changes of files cannot all be noticed at once; they are noticed within half a minute",
			slog.Any("error", err))
	}
}

func (w *watch) close() {
	if w.watcher != nil {
		_ = w.watcher.Close()
	}
}

// follow watches the folders of everything on the way to the files, which may be another way than before.
func (w *watch) follow(paths []string) {
	if len(paths) > 0 && w.watcher == nil {
		watcher, err := fsnotify.NewWatcher()
		if err != nil {
			w.complain(err)
			return
		}
		w.watcher, w.events, w.errors = watcher, watcher.Events, watcher.Errors
	}
	if w.watcher == nil {
		return
	}
	w.names = nil
	var folders []string
	for _, path := range paths {
		w.names = append(w.names, wayTo(path)...)
	}
	for _, name := range w.names {
		if folder := filepath.Dir(name); !slices.Contains(folders, folder) {
			folders = append(folders, folder)
		}
	}
	watched := w.watcher.WatchList()
	for _, folder := range watched {
		if !slices.Contains(folders, folder) {
			_ = w.watcher.Remove(folder) // it may be gone
		}
	}
	for _, folder := range folders {
		// A folder that was replaced by another of its name is added anew; to add one twice changes nothing.
		if err := w.watcher.Add(folder); err != nil && !errors.Is(err, os.ErrNotExist) {
			w.complain(err)
		}
	}
}

func (w *watch) concerns(event fsnotify.Event) bool {
	return slices.Contains(w.names, filepath.Clean(event.Name))
}

// wayTo returns the names whose exchange can make path another file: the file, and each link on the way to it. None of
// their folders has a link in its own path.
func wayTo(path string) []string {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil
	}
	var names []string
	at, rest := string(filepath.Separator), strings.Split(path, string(filepath.Separator))
	for links := 0; len(rest) > 0 && links < maxLinks; {
		part := rest[0]
		rest = rest[1:]
		if part == "" || part == "." {
			continue
		}
		name := filepath.Join(at, part) // which also goes up for ..
		target, err := os.Readlink(name)
		if err != nil {
			if at = name; len(rest) == 0 || !exists(name) {
				names = append(names, name)
			}
			if !exists(name) {
				break // and its folder tells when it is there
			}
			continue
		}
		links++
		names = append(names, name)
		rest = append(strings.Split(target, string(filepath.Separator)), rest...)
		if filepath.IsAbs(target) {
			at = string(filepath.Separator)
		}
	}
	return names
}

func exists(name string) bool {
	_, err := os.Lstat(name)
	return err == nil
}
