// Package app puts the parts together: it opens them in the order in which they need each other, runs them, and stops
// them in the opposite order so that nothing that was accepted is lost.
package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/admin"
	"github.com/fnbridge/fnbridge/bridge/delivery"
	"github.com/fnbridge/fnbridge/bridge/delivery/forward"
	"github.com/fnbridge/fnbridge/bridge/delivery/queue"
	"github.com/fnbridge/fnbridge/bridge/filewatch"
	"github.com/fnbridge/fnbridge/bridge/ingest"
	"github.com/fnbridge/fnbridge/bridge/journal"
	"github.com/fnbridge/fnbridge/bridge/ops"
	"github.com/fnbridge/fnbridge/bridge/ops/page"
	"github.com/fnbridge/fnbridge/bridge/reload"
	"github.com/fnbridge/fnbridge/bridge/tensorlake"
	"github.com/fnbridge/fnbridge/bridge/tlsfiles"
	"github.com/fnbridge/fnbridge/config"
	"github.com/fnbridge/fnbridge/sinks"
	"github.com/fnbridge/fnbridge/sinks/embeddednats"
)

// closeTimeout bounds what must happen on a stop even when FNBRIDGE_SHUTDOWN_TIMEOUT is spent: closing connections
// and the journal. When it is used up, each further step still has leastCloseTimeout.
const (
	closeTimeout      = 4 * time.Second
	leastCloseTimeout = 250 * time.Millisecond
	// lastRequests is how long connections may take to bring their requests once no more are taken.
	lastRequests = 100 * time.Millisecond
)

// Options of an App. Config is required and must have passed Validate.
type Options struct {
	Config   *config.Config
	Logger   *slog.Logger
	Version  string
	Revision string
	// Warnings are what is odd about the configuration. The status shows them; whoever loaded it has logged them.
	Warnings []config.Warning
	// Now is the wall clock: what signatures are judged by and the journal keeps. Nil is time.Now.
	Now func() time.Time
}

// App is the whole bridge in one process.
type App struct {
	cfg     *config.Config
	log     *slog.Logger
	metrics *prometheus.Registry
	files   *reload.Files
	now     func() time.Time
	bounds  bounds
	shares  shares
	// warnings are those of the bridge itself.
	warnings []bridge.Warning

	journal    *journal.Journal       // nil with FNBRIDGE_ACK=sinks
	queue      *queue.Queue           // nil with FNBRIDGE_ACK=journal
	lock       *journal.DirectoryLock // nil with a journal, which has its own, and without an embedded server
	embedded   *embeddednats.Server
	sinks      []admin.RunningSink
	forwarders []*forward.Forwarder

	handler  *ingest.Handler
	public   *http.Server
	publicAt net.Listener
	ops      *http.Server
	opsAt    net.Listener
	page     *page.Page
	observer atomic.Pointer[page.Page] // nil until there is a page
	finder   *admin.Finder             // nil with FNBRIDGE_ACK=sinks
	control  *admin.Control            // nil without a journal, or if it could not be made

	stopping atomic.Bool
	teardown []step
}

// step undoes one step of New.
type step struct {
	name string
	undo func(ctx context.Context) error
}

// New opens the data directory, starts the embedded NATS server if a sink uses it, and binds both listeners, so that
// whatever cannot work is an error here and not later. A broker that is out of reach is no such error. Webhooks are
// taken once Run is called; call it, or Close.
func New(ctx context.Context, o Options) (a *App, err error) {
	a = &App{cfg: o.Config, log: o.Logger, metrics: prometheus.NewRegistry(), now: o.Now}
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	a.files = reload.New(a.log)
	defer func() {
		if err != nil {
			err = errors.Join(err, a.Close(ctx))
			a = nil
		}
	}()
	if a.bounds, err = boundsOf(a.cfg, memoryLimit(), ingest.MaxOpenFiles()); err != nil {
		return a, err
	}
	a.warnings = Warnings(a.cfg, o.Warnings)
	for _, w := range a.warnings[len(o.Warnings):] { // serve has said the others
		a.log.Warn("look at the data directory", "warning", w.Text)
	}
	a.shareVolume()
	a.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if err := ops.RegisterBuildInfo(a.metrics, o.Version, o.Revision); err != nil {
		return a, err
	}
	for _, open := range []func(context.Context) error{
		// What holds accepted webhooks comes first: it also keeps other bridges out of the data directory, which
		// all that follows writes to, and as the first it is closed last.
		a.openStorage,
		// The embedded server comes before the sinks that publish to it.
		a.startEmbedded,
		// Sinks and their dispatchers come before the listener: no webhook is taken that nobody delivers.
		a.openSinks,
		// Binding the listeners proves their addresses free. Nothing is answered there before Run.
		a.openPublic,
		a.openOps,
		func(context.Context) error { return a.registerMetrics() },
		func(context.Context) error { return a.registerFiles() },
		// Commands come last: what they ask for is all there.
		a.openControl,
	} {
		if err := open(ctx); err != nil {
			return a, err
		}
	}
	return a, nil
}

// Addr is the address of the public listener.
func (a *App) Addr() net.Addr { return a.publicAt.Addr() }

// OpsAddr is the address of the operations listener.
func (a *App) OpsAddr() net.Addr { return a.opsAt.Addr() }

// NATSURL is where the embedded NATS server is reached, and empty if no sink uses it.
func (a *App) NATSURL() string {
	if a.embedded == nil {
		return ""
	}
	return a.embedded.ClientURL()
}

func (a *App) undoLater(name string, undo func(context.Context) error) {
	a.teardown = append(a.teardown, step{name, undo})
}

// openStorage opens the journal, or the queue that takes its place.
func (a *App) openStorage(ctx context.Context) (err error) {
	if !a.cfg.AcksFromSinks() {
		a.journal, err = journal.Open(ctx, journal.Options{
			Dir: a.cfg.DataDir, MaxBytes: a.shares.journal, Retention: a.cfg.Retention,
			Tolerance: a.cfg.WebhookTolerance, Sinks: sinkNames(a.cfg), Logger: a.log, Registerer: a.metrics, Now: a.now,
		})
		if err == nil {
			a.undoLater("journal", a.journal.Close)
		}
		return err
	}
	if err := refuseJournal(ctx, a.cfg, a.log); err != nil {
		return err
	}
	if a.cfg.UsesEmbedded() { // else nothing is written, and bridges may share what they do not use
		if a.lock, err = journal.LockDirectory(a.cfg.DataDir); err != nil {
			return err
		}
		a.undoLater("data directory", func(context.Context) error { return a.lock.Close() })
	}
	a.queue, err = queue.New(queue.Options{
		Events: EventOptions(a.cfg), MaxWebhooks: a.cfg.MaxInFlight, MaxBytes: a.bounds.bodies,
		Tolerance: a.cfg.WebhookTolerance, Registerer: a.metrics,
	})
	if err == nil {
		a.undoLater("queue", func(context.Context) error { a.queue.Close(); return nil })
	}
	return err
}

func (a *App) startEmbedded(ctx context.Context) error {
	if !a.cfg.UsesEmbedded() {
		return nil
	}
	files := ingest.MaxOpenFiles()
	o := embeddednats.Options{
		Listen: a.cfg.EmbeddedNATSListen, MaxClients: natsClients(files), Dir: embeddedDir(a.cfg), Logger: a.log,
		Monitor: a.cfg.EmbeddedNATSMonitorListen,
		LimitMonitor: func(l net.Listener, server *http.Server) net.Listener {
			return ingest.LimitConnections(l, monitorConnections(files), server, a.log)
		},
	}
	var err error
	if a.cfg.AsksNATSToken() {
		if o.Token, err = a.openNATSToken(); err != nil {
			return err
		}
	}
	server, err := embeddednats.Start(ctx, o)
	if err != nil {
		variable := "FNBRIDGE_DATA_DIR" // which holds all that it needs but its addresses
		if taken, ok := errors.AsType[*embeddednats.ListenError](err); ok {
			if variable = "FNBRIDGE_EMBEDDED_NATS_LISTEN"; taken.Monitor {
				variable = "FNBRIDGE_EMBEDDED_NATS_MONITOR_LISTEN"
			}
		}
		return fmt.Errorf("%w (%s)", err, variable)
	}
	a.embedded = server
	a.undoLater("embedded NATS server", server.Shutdown)
	return nil
}

func (a *App) openSinks(context.Context) error {
	for _, c := range a.cfg.Sinks {
		o := SinkOptions(a.cfg, c, a.log)
		o.Files = filesOf(a.cfg, a.files, c.Name)
		if a.embedded != nil {
			o.EmbeddedURL = a.embedded.ClientURL() // the port may be one that was free
			o.RunsEmbedded, o.EmbeddedToken = true, a.embedded.OwnToken()
			o.EmbeddedMaxBytes, o.EmbeddedSync = a.shares.stream, a.embedded
		}
		sink, err := sinks.New(o)
		if err != nil {
			return fmt.Errorf("sink %s: %w", c.Name, err)
		}
		a.undoLater("sink "+c.Name, sink.Close)
		routes, err := ParseRoutes(c.Routes)
		if err != nil {
			return fmt.Errorf("%s: %w", a.cfg.Variable(c.Name, "ROUTES"), err)
		}
		d := delivery.Options{
			Sink: sink, Events: EventOptions(a.cfg), Routes: routes, GiveUpAfter: c.GiveUpAfter,
			Logger: a.log, Registerer: a.metrics, Now: a.now,
		}
		dispatcher, err := a.openDispatcher(c, d)
		if err != nil {
			return err
		}
		a.sinks = append(a.sinks, admin.RunningSink{
			Name: c.Name, Kind: c.Kind, Required: c.Required, Sink: sink, Dispatcher: dispatcher,
		})
	}
	if a.journal == nil {
		return nil
	}
	var err error
	a.finder, err = admin.NewFinder(a.journal, EventOptions(a.cfg), AdminSinks(a.cfg))
	return err
}

// openDispatcher makes the dispatcher of a sink: of the queue, or of the journal, beside which dead letters are
// forwarded.
func (a *App) openDispatcher(c config.Sink, d delivery.Options) (*delivery.Dispatcher, error) {
	if a.queue != nil {
		return a.queue.NewDispatcher(queue.SinkOptions{Optional: !c.Required}, d)
	}
	f, err := forward.New(forward.Options{Journal: a.journal, Sink: d.Sink, Logger: a.log, Registerer: a.metrics})
	if err != nil {
		return nil, err
	}
	a.forwarders = append(a.forwarders, f)
	d.Journal = a.journal
	d.ReplayMissing = c.Embedded // its disk is this bridge's
	return delivery.New(d)
}

// EventOptions say how a bridge with this configuration makes events of a webhook.
func EventOptions(cfg *config.Config) tensorlake.Options {
	return tensorlake.Options{SummaryEvents: cfg.SummaryEvents}
}

func (a *App) openPublic(ctx context.Context) error {
	verifier, err := openVerifier(a.cfg, a.files, a.log)
	if err != nil {
		return err
	}
	o := ingest.Options{
		Path: a.cfg.Path, Verifier: verifier, Events: EventOptions(a.cfg), Store: store{a.journal},
		MaxBody: int64(a.cfg.MaxBody), MaxInFlight: a.cfg.MaxInFlight, BodyMemory: a.bounds.bodies,
		Logger: a.log, Registerer: a.metrics, Now: a.now,
		Observe: func(answered bridge.Answered) {
			if p := a.observer.Load(); p != nil {
				p.Observe(answered)
			}
		},
	}
	if a.queue != nil {
		o.Store, o.StoredStatus = queueStore{a.queue}, http.StatusOK
		o.StoreTimeout, o.AnswerTimeout = answerTimeout, answerTimeout
	}
	a.handler, err = ingest.New(o)
	if err != nil {
		return err
	}
	a.public = ingest.NewServer(a.handler, a.log)
	if servesTLS(a.cfg) {
		files, err := tlsfiles.Open(tlsfiles.Names{Cert: a.cfg.TLSCertFile, Key: a.cfg.TLSKeyFile},
			filesOf(a.cfg, a.files, ""), a.log)
		if err != nil {
			return err
		}
		a.public.TLSConfig = files.Server()
	}
	l, err := a.listen(ctx, "FNBRIDGE_LISTEN", a.cfg.Listen)
	if err != nil {
		return err
	}
	a.publicAt = ingest.LimitConnections(l, a.bounds.connections, a.public, a.log)
	return nil
}

func (a *App) openOps(ctx context.Context) error {
	l, err := a.listen(ctx, "FNBRIDGE_OPS_LISTEN", a.cfg.OpsListen)
	if err != nil {
		return err
	}
	file := filesOf(a.cfg, a.files, "")
	token, err := openPageToken(a.cfg, file)
	if err != nil {
		return err
	}
	a.page = page.New(page.Options{
		Parts: a.adminParts(), Requests: a.handler.Counts, RecentBytes: recentBytes, Logger: a.log,
	})
	file.OnChange(a.page.EndStreams) // who had the old token has to give the new one
	a.observer.Store(a.page)
	a.ops = ops.NewServer(ops.New(ops.Options{
		Registry: a.metrics, Ready: func(context.Context) error { return a.ready() }, Logger: a.log,
		Page:   a.page,
		Access: ops.Access{Token: token, Loopback: ops.IsLoopback(l.Addr())},
	}), a.log)
	a.opsAt = ingest.LimitConnections(l, opsConnections(ingest.MaxOpenFiles()), a.ops, a.log)
	return nil
}

// openControl makes the control socket. The bridge does its work without one, so a failure is only said.
func (a *App) openControl(ctx context.Context) error {
	if a.journal == nil {
		return nil // there is nothing that commands could change
	}
	control, err := admin.NewControl(ctx, a.adminParts())
	if err != nil {
		a.log.Warn("the control socket could not be made: \"fnbridge replay\" and \"fnbridge dead-letters retry\" "+
			"and \"drop\" work only while this bridge is stopped",
			"data_dir", a.cfg.DataDir, "error", err)
		return nil
	}
	a.control = control
	a.undoLater("control socket", control.Close)
	return nil
}

func (a *App) adminParts() admin.Parts {
	return admin.Parts{
		DataDir: a.cfg.DataDir, Journal: a.journal, Queue: a.queue, Sinks: a.sinks, Ready: a.ready, Files: a.files,
		Logger: a.log, Finder: a.finder, Warnings: a.warnings,
		Events: EventOptions(a.cfg), Configured: AdminSinks(a.cfg),
	}
}

func (a *App) listen(ctx context.Context, variable, address string) (net.Listener, error) {
	var c net.ListenConfig
	l, err := c.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w; free the address or set %s to another", address, err, variable)
	}
	a.undoLater("listener "+address, func(context.Context) error {
		if err := l.Close(); !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	})
	return l, nil
}

// ready tells whether webhooks should be sent here: not while they are refused. With a journal, a sink that is down
// does not matter: its events wait. Without one, another process may reach the sinks that this one does not.
func (a *App) ready() error {
	_, err := a.refusing()
	return err
}

// Run takes webhooks and delivers them until ctx ends or a part fails, and then stops everything in order. It returns
// nil when all parts ended as they should; events that have not reached a sink wait in the journal either way.
func (a *App) Run(ctx context.Context) error {
	// Delivery outlives ctx: it goes on while requests drain, and what it publishes then may take a while.
	deliver, stopDelivery := context.WithCancel(context.WithoutCancel(ctx))
	defer stopDelivery()
	publish, abandonPublish := context.WithCancel(context.WithoutCancel(ctx))
	defer abandonPublish()

	failed := make(chan error, len(a.sinks)+2)
	var serving, delivering sync.WaitGroup
	delivering.Go(func() { filewatch.Run(deliver, a.files, a.log) })
	for _, s := range a.sinks {
		delivering.Go(func() {
			if err := s.Dispatcher.Run(deliver, publish); err != nil {
				failed <- err
			}
		})
	}
	for _, f := range a.forwarders {
		delivering.Go(func() { f.Run(deliver, publish) })
	}
	serving.Go(func() {
		err := serve(a.public, a.publicAt, servesTLS(a.cfg))
		if a.stopping.Load() && errors.Is(err, net.ErrClosed) {
			err = nil // leave has closed it
		}
		failed <- err
	})
	serving.Go(func() { failed <- serve(a.ops, a.opsAt, false) })
	show, stopShowing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopShowing()
	serving.Go(func() { a.page.Run(show) })
	if a.control != nil {
		serving.Go(a.control.Serve)
	}
	a.sayReady()

	var lost <-chan error
	switch {
	case a.journal != nil:
		lost = a.journal.Lost()
	case a.lock != nil:
		lost = a.lock.Lost()
	}
	var err error
	select {
	case err = <-lost:
	case <-ctx.Done():
		a.log.Info("stopping", "within", a.cfg.ShutdownTimeout.String())
	case err = <-failed:
	}

	// Not ready from here on, so that load balancers turn away. Those that have not heard of it yet are served a while.
	a.stopping.Store(true)
	if err == nil {
		err = a.leave(failed, lost)
	}
	deadline := time.Now().Add(a.cfg.ShutdownTimeout)
	// Commands first: what they ask for now would only wait for the next start.
	if a.control != nil {
		a.control.Stop(ctx)
	}
	// Then requests, while delivery still runs: without a journal it is what answers them.
	err = errors.Join(err, a.drain(ctx, deadline))
	// Then delivery, which finishes its batches. Without a journal nobody is left who waits for them.
	if a.queue != nil {
		a.queue.Close() // answers what drain has cut
	}
	stopDelivery()
	if a.queue != nil {
		abandonPublish()
	}
	timer := time.AfterFunc(time.Until(deadline), abandonPublish)
	delivering.Wait()
	timer.Stop()
	stopShowing()
	// Last what they used: sinks, the embedded server, the journal.
	err = errors.Join(err, a.Close(ctx))
	serving.Wait()
	close(failed)
	for e := range failed {
		err = errors.Join(err, e)
	}
	switch {
	case err != nil:
	case a.queue == nil:
		a.log.Info("stopped; what has not reached a sink waits in the data directory")
	default:
		a.log.Info("stopped; every webhook that was taken has been answered, and nothing waits here")
	}
	return err
}

func (a *App) sayReady() {
	a.bounds.say(a.log)
	log := a.log.With("webhooks", webhookURL(a.cfg, a.Addr().String()), "operations", "http://"+a.OpsAddr().String(),
		"sinks", sinkNames(a.cfg))
	if a.queue == nil || a.cfg.UsesEmbedded() {
		log = log.With("data_dir", a.cfg.DataDir)
	}
	if a.queue != nil {
		log = log.With("ack", config.AckSinks)
	}
	if url := a.NATSURL(); url != "" {
		log = log.With("embedded_nats", url)
	}
	log.Info("fnbridge is ready")
}

// servesTLS tells whether the public listener speaks TLS. That the server has a TLSConfig does not: net/http sets one
// by itself.
func servesTLS(cfg *config.Config) bool { return cfg.TLSCertFile != "" }

func serve(s *http.Server, l net.Listener, withTLS bool) error {
	var err error
	if withTLS {
		err = s.ServeTLS(l, "", "")
	} else {
		err = s.Serve(l)
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("listener %s: %w", l.Addr(), err)
}

// leave goes on taking webhooks for as long as configured. A connection that is closed while it is idle may have a
// request on its way, which is lost to whoever sent it; so each is closed with an answer. The last connections get
// theirs before the server hears of the stop: from then on it ends a connection whose request it has just read.
func (a *App) leave(failed, lost <-chan error) error {
	if a.cfg.Drain == 0 {
		return nil
	}
	a.handler.Leave()
	select {
	case <-time.After(a.cfg.Drain):
	case err := <-failed:
		return err
	case err := <-lost:
		return err
	}
	err := a.publicAt.Close()
	<-time.After(lastRequests)
	return err
}

// drain lets the requests that are under way end, for at most half of the time there is: the rest is delivery's, unless
// the requests themselves wait for it.
func (a *App) drain(ctx context.Context, deadline time.Time) error {
	a.handler.Drain()
	until := deadline
	if a.queue == nil {
		until = time.Now().Add(time.Until(deadline) / 2)
	}
	ctx, cancel := context.WithDeadline(context.WithoutCancel(ctx), until)
	defer cancel()
	if err := a.public.Shutdown(ctx); err != nil {
		a.log.Warn("requests did not end in time and are cut; their senders try again", "error", err)
		return a.public.Close()
	}
	return nil
}

// Close undoes New, last step first. Only an App that never runs needs it: Run closes by itself.
func (a *App) Close(ctx context.Context) error {
	var err error
	if a.ops != nil {
		err = a.ops.Close()
	}
	deadline := time.Now().Add(closeTimeout)
	for len(a.teardown) > 0 {
		last := a.teardown[len(a.teardown)-1]
		a.teardown = a.teardown[:len(a.teardown)-1]
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), max(leastCloseTimeout, time.Until(deadline)))
		if e := last.undo(limited); e != nil {
			err = errors.Join(err, fmt.Errorf("closing %s: %w", last.name, e))
		}
		cancel()
	}
	return err
}
