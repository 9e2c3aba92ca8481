package app_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge/app"
)

func TestAnAddressOfAllInterfacesIsReachedOnTheLoopback(t *testing.T) {
	for listen, want := range map[string]string{
		":8080": "127.0.0.1:8080", "0.0.0.0:8080": "127.0.0.1:8080", "[::]:8080": "[::1]:8080",
		"10.1.2.3:8080": "10.1.2.3:8080", "[2001:db8::1]:8080": "[2001:db8::1]:8080", "localhost:8080": "localhost:8080",
	} {
		require.Equal(t, want, app.LocalAddress(listen))
	}
}
