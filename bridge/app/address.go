package app

import (
	"net"

	"github.com/fnbridge/fnbridge/config"
)

// LocalAddress is where something that listens on the address listen (host:port) is reached from this machine: an
// address that stands for all of the machine's is replaced by its loopback address.
func LocalAddress(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return listen
	}
	switch ip := net.ParseIP(host); {
	case host == "", ip != nil && ip.IsUnspecified() && ip.To4() != nil:
		host = "127.0.0.1"
	case ip != nil && ip.IsUnspecified():
		host = "::1"
	}
	return net.JoinHostPort(host, port)
}

// WebhookURL is where a bridge with this configuration takes webhooks, as it is reached from this machine.
func WebhookURL(cfg *config.Config) string { return webhookURL(cfg, LocalAddress(cfg.Listen)) }

func webhookURL(cfg *config.Config, address string) string {
	scheme := "http"
	if servesTLS(cfg) {
		scheme = "https"
	}
	return scheme + "://" + address + cfg.Path
}
