package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"syscall"
	"time"
)

// ErrNotRunning is in the chain of an error when no bridge answers at the data directory's control socket.
var ErrNotRunning = errors.New("no bridge runs on this data directory")

// controlDial bounds the connecting: on one machine it is a matter of milliseconds, or the bridge hangs.
const controlDial = 5 * time.Second

// ask posts a request to the bridge that runs on the data directory and returns the answer's body, which the caller
// closes together with the connection. An answer that is no 200 is an error that says what the bridge said.
func ask(ctx context.Context, dir, path string, request any) (io.ReadCloser, error) {
	body, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://fnbridge"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dialControl(ctx, dir) },
	}}
	resp, err := client.Do(req)
	if err != nil {
		return nil, unreachable(err, dir)
	}
	if resp.StatusCode == http.StatusOK {
		return resp.Body, nil
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxControlBody))
	var said struct {
		Detail string `json:"detail"`
	}
	if json.Unmarshal(text, &said) != nil || said.Detail == "" {
		return nil, fmt.Errorf("the running bridge answers %s: %q", resp.Status, text)
	}
	if resp.StatusCode == http.StatusNotFound || resp.StatusCode == http.StatusBadRequest {
		said.Detail += "\nUse the program that runs there: its version may be another."
	}
	return nil, errors.New(said.Detail)
}

// askOnce is ask for an answer that is one small JSON value.
func askOnce(ctx context.Context, dir, path string, request, response any) error {
	body, err := ask(ctx, dir, path, request)
	if err != nil {
		return err
	}
	defer body.Close()
	if err := json.NewDecoder(io.LimitReader(body, maxControlBody)).Decode(response); err != nil {
		return fmt.Errorf("the running bridge ended before it had answered; it may have done what was asked: %w", err)
	}
	return nil
}

func dialControl(ctx context.Context, dir string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, controlDial)
	defer cancel()
	address, release, err := socketAddress(dir)
	if err != nil {
		return nil, err
	}
	defer release()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", address)
	if err != nil {
		return nil, err
	}
	if err := checkPeer(conn, dir); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// unreachable says what it means that a request did not get through.
func unreachable(err error, dir string) error {
	if inner, ok := errors.AsType[*url.Error](err); ok {
		err = inner.Err // its address means nothing
	}
	path := filepath.Join(dir, controlName)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w: nothing answers at %s", ErrNotRunning, path)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("the control socket %s is for the user that runs the bridge: run this command as that user: %w",
			path, err)
	default:
		return fmt.Errorf("the running bridge cannot be asked at %s: %w", path, err)
	}
}
