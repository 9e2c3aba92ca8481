package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/fnbridge/fnbridge/bridge/journal"
	"github.com/fnbridge/fnbridge/bridge/problem"
)

// controlName is the socket in the data directory through which commands reach the bridge that runs on it. The journal
// has one writer, the bridge, and the operations listener only tells: what changes something goes through here.
//
// It speaks HTTP with JSON. The paths carry the version: a bridge that does not know a path, or a field of a request,
// refuses the request, so that commands of another version never do more than they were asked to.
const controlName = "fnbridge.sock"

const (
	// maxControlBody bounds a request; an answer that is not a stream is smaller.
	maxControlBody = 1 << 20
	// controlPatience is how long the other side may take to send a request, or to take a line of an answer.
	controlPatience = 10 * time.Second
	// controlStop is how long requests have to say that they end because the bridge stops.
	controlStop = time.Second
)

// errStopping ends what the control socket's requests have begun.
var errStopping = errors.New("fnbridge is shutting down")

// Control serves the control socket.
type Control struct {
	path     string
	listener net.Listener
	server   *http.Server
	log      *slog.Logger
	end      context.CancelCauseFunc
}

// NewControl makes the control socket of a bridge with a journal. Whoever calls it holds the lock of the data
// directory, and calls Close.
func NewControl(ctx context.Context, p Parts) (*Control, error) {
	path := filepath.Join(p.DataDir, controlName)
	l, err := listenControl(ctx, p.DataDir)
	if err != nil {
		return nil, err
	}
	base, end := context.WithCancelCause(context.WithoutCancel(ctx))
	return &Control{path: path, listener: l, log: p.Logger, end: end, server: &http.Server{
		Handler:                      p.controlHandler(),
		BaseContext:                  func(net.Listener) context.Context { return base },
		DisableGeneralOptionsHandler: true,
		ReadHeaderTimeout:            controlPatience,
		IdleTimeout:                  controlPatience,
		MaxHeaderBytes:               16 << 10,
		ErrorLog:                     slog.NewLogLogger(p.Logger.Handler(), slog.LevelWarn),
	}}, nil
}

// listenControl listens on the socket in dir. The caller holds the lock of dir, so a socket that is there already was
// left by a process that is gone.
func listenControl(ctx context.Context, dir string) (net.Listener, error) {
	path := filepath.Join(dir, controlName)
	switch info, err := os.Lstat(path); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	case info.IsDir() || info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is there and is no socket: move it away", path)
	default:
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	address, release, err := socketAddress(dir)
	if err != nil {
		return nil, err
	}
	defer release()
	config := net.ListenConfig{Control: ownersSocket}
	l, err := config.Listen(ctx, "unix", address)
	if err != nil {
		return nil, err
	}
	if u, ok := l.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false) // the address may be a short-lived name of the directory; Close removes the path
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close(), os.Remove(path))
	}
	return l, nil
}

// Serve takes requests until Stop or Close.
func (c *Control) Serve() {
	if err := c.server.Serve(c.listener); !errors.Is(err, http.ErrServerClosed) {
		c.log.Warn("the control socket failed: commands do not reach this bridge until it is started again",
			"path", c.path, "error", err)
	}
}

// Stop ends the requests that run, and waits a moment for them to say so.
func (c *Control) Stop(ctx context.Context) {
	c.end(errStopping)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), controlStop)
	defer cancel()
	if c.server.Shutdown(ctx) != nil {
		_ = c.server.Close()
	}
}

// Close ends everything and removes the socket.
func (c *Control) Close(context.Context) error {
	c.end(errStopping)
	err := c.server.Close()
	if e := c.listener.Close(); !errors.Is(e, net.ErrClosed) {
		err = errors.Join(err, e)
	}
	if e := os.Remove(c.path); !errors.Is(e, fs.ErrNotExist) {
		err = errors.Join(err, e)
	}
	return err
}

func (p Parts) controlHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+retryPath, p.changesLetters("asked another try for", (*journal.Journal).RetryDeadLetters))
	mux.HandleFunc("POST "+dropPath, p.changesLetters("dropped", (*journal.Journal).DropDeadLetters))
	mux.HandleFunc("POST "+replayPath, p.asksReplay)
	mux.HandleFunc("POST "+cancelPath, p.cancelsReplay)
	mux.HandleFunc("POST "+forgetPath, p.changesSink("forgotten", forgetSink))
	mux.HandleFunc("POST "+renamePath, p.changesSink("renamed", renameSink))
	mux.HandleFunc("POST "+findPath, p.finds)
	mux.HandleFunc("POST "+reportPath, p.reports)
	mux.HandleFunc("POST "+filesPath, p.tellsFiles)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		refuse(w, http.StatusNotFound, fmt.Errorf("this fnbridge does not know %s %s", r.Method, r.URL.Path))
	})
	return mux
}

// readRequest reads a request's JSON into v, or refuses the request.
func readRequest(w http.ResponseWriter, r *http.Request, v any) bool {
	conn := http.NewResponseController(w)
	_ = conn.SetReadDeadline(time.Now().Add(controlPatience))
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxControlBody))
	d.DisallowUnknownFields()
	err := d.Decode(v)
	if err == nil {
		if _, after := d.Token(); !errors.Is(after, io.EOF) {
			err = errors.New("there is more than one value")
		}
	}
	if err != nil {
		refuse(w, http.StatusBadRequest, fmt.Errorf("this fnbridge does not understand the request: %w", err))
		return false
	}
	// From here on reading only notices that the other side has gone, however long that takes.
	_ = conn.SetReadDeadline(time.Time{})
	return true
}

// answer writes v as JSON.
func answer(w http.ResponseWriter, v any) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(controlPatience))
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // whoever asked has gone
}

// refuse says why a request was not, or not wholly, carried out.
func refuse(w http.ResponseWriter, status int, err error) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(controlPatience))
	problem.New(status, err.Error()).Write(w)
}

// asText is a request as the log shows it.
func asText(request any) string {
	text, err := json.Marshal(request)
	if err != nil {
		return err.Error()
	}
	return string(text)
}
