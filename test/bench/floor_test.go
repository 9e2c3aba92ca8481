//go:build linux

package bench

import (
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/stretchr/testify/require"
)

// floorVariable makes the test's binary the floor, which listens at the address that it holds.
const floorVariable = "FNBRIDGE_TEST_FLOOR"

// floor is an HTTP server that does nothing: what the machine does with the same requests from the same client. No
// bridge that is an HTTP server can be faster.
type floor struct{ url string }

// serveFloor reads the body and answers 202 with as many bytes as the bridge does, in the framework that it uses.
func serveFloor(address string) error {
	e := echo.New()
	answer := []byte(`{"webhook_id":"msg_0000000000000000000000000000","events":2}`)
	e.POST("/webhooks/tensorlake", func(c echo.Context) error {
		if _, err := io.ReadAll(c.Request().Body); err != nil {
			return err
		}
		return c.Blob(http.StatusAccepted, "application/json", answer)
	})
	server := &http.Server{Addr: address, Handler: e, ReadHeaderTimeout: time.Minute}
	return server.ListenAndServe()
}

func startFloor(t *testing.T) *floor {
	t.Helper()
	binary, err := os.Executable()
	require.NoError(t, err)
	address := reserveAddress(t)
	cmd := exec.Command(binary)
	cmd.Env = []string{floorVariable + "=" + address}
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	server := start(t, cmd)
	awaitListener(t, address)
	require.False(t, server.Ended())
	return &floor{url: "http://" + address + "/webhooks/tensorlake"}
}

func awaitListener(t *testing.T, address string) {
	t.Helper()
	require.Eventually(t, func() bool {
		conn, err := net.DialTimeout("tcp", address, time.Second)
		if err != nil {
			return false
		}
		_ = conn.Close()
		return true
	}, patience, 5*time.Millisecond, "nothing listens at %s", address)
}
