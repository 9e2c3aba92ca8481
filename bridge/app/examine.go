package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/fnbridge/fnbridge/bridge/admin"
	"github.com/fnbridge/fnbridge/bridge/volume"
	"github.com/fnbridge/fnbridge/bridge/wire"
	"github.com/fnbridge/fnbridge/config"
)

// listenerTimeout bounds what whoever holds the public listener's address is asked.
const listenerTimeout = 2 * time.Second

// Examine looks at what a bridge with this configuration needs of its own machine, whether one runs or not.
func Examine(ctx context.Context, cfg *config.Config) []admin.Step {
	steps := []admin.Step{examineSecrets(cfg)}
	if !cfg.AcksFromSinks() || cfg.UsesEmbedded() {
		steps = append(steps, examineDirectory(cfg.DataDir))
		if space, known := volume.Of(cfg.DataDir); known {
			steps = append(steps, examineSpace(cfg, space))
		}
	}
	if servesTLS(cfg) {
		steps = append(steps, examineCertificate(cfg))
	}
	return append(steps, examineListener(ctx, cfg))
}

// examineSecrets tells how many there are. What is wrong with one is an error of the configuration.
func examineSecrets(cfg *config.Config) admin.Step {
	step := admin.Step{Name: "webhook secrets", Detail: fmt.Sprintf("%d configured", len(cfg.WebhookSecrets))}
	switch {
	case cfg.InsecureUnsigned:
		step.Warning = "FNBRIDGE_INSECURE_UNSIGNED is set: anybody who can reach the listener can publish events"
	case len(cfg.WebhookSecrets) == 0:
		step.Warning = "only webhooks signed with this bridge's own secret are taken: set FNBRIDGE_WEBHOOK_SECRETS to the " +
			"signing secret that Tensorlake shows for the endpoint"
	}
	return step
}

// examineDirectory makes a file in the data directory, or where that is to be, and removes it.
func examineDirectory(dir string) admin.Step {
	step := admin.Step{Name: "data directory", Detail: dir + " can be written to"}
	at := dir
	for {
		info, err := os.Stat(at)
		if err == nil && !info.IsDir() {
			step.Err = fmt.Errorf("%s is not a directory: set FNBRIDGE_DATA_DIR to another", at)
			return step
		}
		if err == nil || filepath.Dir(at) == at {
			break
		}
		at = filepath.Dir(at)
		step.Detail = dir + " is made at the first start"
	}
	file, err := os.CreateTemp(at, ".fnbridge-check-*")
	if err == nil {
		_, err = file.WriteString("\n") // a full disk may take an empty file
		err = errors.Join(err, file.Close(), os.Remove(file.Name()))
	}
	switch {
	case errors.Is(err, syscall.ENOSPC):
		step.Warning = fmt.Sprintf("nothing can be written to %s: %v; make room", at, err)
	case err != nil:
		step.Err = fmt.Errorf("%s cannot be written to by this user: change its owner or mode, or FNBRIDGE_DATA_DIR: %w",
			at, err)
	}
	return step
}

// examineSpace compares what the bridge may keep with what its volume has for it.
func examineSpace(cfg *config.Config, space volume.Space) admin.Step {
	const unit = 1 << 20
	step := admin.Step{Name: "free space", Detail: fmt.Sprintf("%d of %d MiB", space.Free/unit, space.Size/unit)}
	if !cfg.AcksFromSinks() {
		step.Detail += fmt.Sprintf("; the journal takes at most %d MiB", sharesOf(cfg, space).journal/unit)
	}
	step.Warning = strings.Join(lacksOf(cfg, space), ". ")
	return step
}

// examineCertificate tells until when the public listener's certificate is valid.
func examineCertificate(cfg *config.Config) admin.Step {
	step := admin.Step{Name: "certificate"}
	pair, err := tls.LoadX509KeyPair(cfg.TLSCertFile, cfg.TLSKeyFile)
	if err == nil {
		var leaf *x509.Certificate
		if leaf, err = x509.ParseCertificate(pair.Certificate[0]); err == nil {
			step.Detail, step.Warning = wire.Validity(leaf, time.Now())
		}
	}
	if err != nil {
		step.Err = fmt.Errorf("FNBRIDGE_TLS_CERT_FILE and FNBRIDGE_TLS_KEY_FILE: %w", err)
	}
	return step
}

// examineListener tells whether the public listener's address is free, or held by the bridge that runs.
func examineListener(ctx context.Context, cfg *config.Config) admin.Step {
	step := admin.Step{Name: "public listener"}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", cfg.Listen)
	switch {
	case err == nil:
		step.Detail = cfg.Listen + " is free: no bridge runs there"
		step.Err = l.Close()
	case !errors.Is(err, syscall.EADDRINUSE):
		step.Err = fmt.Errorf("cannot listen on %s: set FNBRIDGE_LISTEN to another address: %w", cfg.Listen, err)
	case publicAnswers(ctx, cfg) && admin.CheckLive(ctx, LocalAddress(cfg.OpsListen)) == nil:
		step.Detail = cfg.Listen + " is held by the bridge that runs"
	default:
		step.Err = fmt.Errorf("%s is held by something that is no bridge with this configuration: "+
			"free the address, or set FNBRIDGE_LISTEN to another: %w", cfg.Listen, err)
	}
	return step
}

// publicAnswers tells whether a public listener answers as a bridge's does.
func publicAnswers(ctx context.Context, cfg *config.Config) bool {
	ctx, cancel := context.WithTimeout(ctx, listenerTimeout)
	defer cancel()
	url := strings.TrimSuffix(WebhookURL(cfg), cfg.Path) + "/livez"
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return false
	}
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // this machine is asked who it is, for people
	}}
	response, err := client.Do(request)
	if err != nil {
		return false
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 16))
	return err == nil && response.StatusCode == http.StatusOK && string(text) == "ok\n"
}
