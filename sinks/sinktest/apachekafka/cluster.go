// Package apachekafka runs a real Apache Kafka on loopback for tests: one broker or a cluster, in KRaft mode,
// started from the jars by Java itself, with whatever a client meets in production: plaintext, SASL_SSL with PLAIN
// and SCRAM, TLS with client certificates, ACLs, and brokers that are killed, stopped, paused and started again.
//
// It needs Java 17 and, in the first run, Maven and its repository. See Require for what happens without.
// It runs on Linux and other Unix systems; only on Linux are the brokers certain to die with a test that panics.
package apachekafka

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fnbridge/fnbridge/sinks/sinktest/child"
	"github.com/fnbridge/fnbridge/sinks/sinktest/testcert"
)

const (
	startTimeout = 3 * time.Minute  // until a node is up, on a machine that does much else
	stopTimeout  = 10 * time.Second // until a node has stopped in good order, or is killed
	tickInterval = 50 * time.Millisecond
)

// Options says what cluster Start starts. The zero value is one broker with a plaintext listener.
type Options struct {
	// Nodes is how many there are, each broker and controller in one. 0 means 1. From 3 on, topics have three
	// replicas and need two in sync.
	Nodes int
	// Users are names and passwords. With any, each node listens for SASL_SSL with PLAIN, SCRAM-SHA-256 and SCRAM-SHA-512.
	Users map[string]string
	// ClientCertificates adds a TLS listener that takes only clients with a certificate of the cluster's authority.
	ClientCertificates bool
	// Proxy adds a plaintext listener to each node that clients reach by another address, that of a proxy say. It gets
	// the address where the node listens and returns the one that the node tells its clients. See ProxiedBrokers.
	Proxy func(node int, address string) string
	// ProxyUsers has that listener take Users instead, by SASL_SSL.
	ProxyUsers bool
	// Config are settings of the brokers that go before those of this package.
	Config map[string]string
	// JVM are flags of the Java machine that go after those of this package, for a test that needs a larger heap.
	JVM []string
}

// Cluster is a running Apache Kafka. Its methods may be called from several goroutines, except that what starts and
// ends nodes comes from one at a time. They fail the test that they are given when they cannot do their work.
type Cluster struct {
	options Options
	java    java
	ca      *testcert.CA
	id      string
	mu      sync.Mutex // guards the processes of the nodes
	nodes   []*node
}

// listener is one of a node's addresses.
type listener struct {
	name       string // as the broker knows it, and the security protocol
	port       child.Port
	advertised string // what clients are told; empty for the controller's
}

const (
	plaintext     = "PLAINTEXT"
	controller    = "CONTROLLER"
	saslListener  = "SASL_SSL"
	certListener  = "SSL"
	proxyListener = "PROXIED"
)

type node struct {
	id        int
	dir       string
	directory string // the identity of its storage, for the controllers' quorum
	listeners []listener
	process   *child.Process // nil until it is started, and once it has been stopped or killed
	paused    bool
}

func (n *node) listener(name string) (listener, bool) {
	i := slices.IndexFunc(n.listeners, func(l listener) bool { return l.name == name })
	if i < 0 {
		return listener{}, false
	}
	return n.listeners[i], true
}

func (n *node) logFile() string    { return filepath.Join(n.dir, "server.log") }
func (n *node) configFile() string { return filepath.Join(n.dir, "server.properties") }

// Start starts a cluster, waits until it serves, and ends it with the test. A machine that cannot run it is handled as
// Require says. When the test fails, the ends of the nodes' logs are shown.
func Start(tb testing.TB, o Options) *Cluster {
	tb.Helper()
	if o.Nodes == 0 {
		o.Nodes = 1
	}
	return start(tb, o, withClasses(tb, needJava(tb)))
}

func start(tb testing.TB, o Options, j java) *Cluster {
	tb.Helper()
	c := &Cluster{options: o, java: j, id: uuid()}
	if len(o.Users) > 0 || o.ClientCertificates {
		c.ca = testcert.New(tb)
	}
	dir := tb.TempDir()
	tb.Cleanup(func() { c.end(tb) })
	for id := 1; id <= o.Nodes; id++ {
		n := &node{id: id, dir: filepath.Join(dir, "node-"+strconv.Itoa(id)), directory: uuid()}
		if err := os.MkdirAll(filepath.Join(n.dir, "tmp"), 0o750); err != nil {
			tb.Fatalf("making the directory of node %d: %v", id, err)
		}
		c.nodes = append(c.nodes, n)
		if err := c.listen(n); err != nil {
			tb.Fatalf("node %d: %v", id, err)
		}
	}
	if err := c.format(tb.Context()); err != nil {
		tb.Fatalf("formatting Kafka's storage: %v", err)
	}
	c.StartNode(tb, c.Nodes()...)
	return c
}

// listen reserves a port for each of n's listeners.
func (c *Cluster) listen(n *node) error {
	names := []string{plaintext, controller}
	if len(c.options.Users) > 0 {
		names = append(names, saslListener)
	}
	if c.options.ClientCertificates {
		names = append(names, certListener)
	}
	if c.options.Proxy != nil {
		names = append(names, proxyListener)
	}
	for _, name := range names {
		p, err := child.ReservePort()
		if err != nil {
			return err
		}
		l := listener{name: name, port: p, advertised: p.Address()}
		switch name {
		case controller:
			l.advertised = ""
		case proxyListener:
			l.advertised = c.options.Proxy(n.id, p.Address())
		}
		n.listeners = append(n.listeners, l)
	}
	return nil
}

// Nodes returns the numbers of all nodes, from 1 on, whether they run or not.
func (c *Cluster) Nodes() []int {
	ids := make([]int, len(c.nodes))
	for i, n := range c.nodes {
		ids[i] = n.id
	}
	return ids
}

// Brokers returns the plaintext addresses of all nodes, in the order of Nodes. A client there may do everything.
func (c *Cluster) Brokers() []string { return c.addresses(plaintext) }

// SASLBrokers returns the addresses for TLS and SASL; none without Options.Users.
func (c *Cluster) SASLBrokers() []string { return c.addresses(saslListener) }

// TLSBrokers returns the addresses for TLS with a client certificate; none without Options.ClientCertificates.
func (c *Cluster) TLSBrokers() []string { return c.addresses(certListener) }

// ProxiedBrokers returns the addresses that Options.Proxy gave; none without it. A client there may do everything,
// unless Options.ProxyUsers has it log in.
func (c *Cluster) ProxiedBrokers() []string { return c.addresses(proxyListener) }

// CA returns the authority that signed the nodes' certificates, with a client's certificate; nil for a cluster without
// TLS.
func (c *Cluster) CA() *testcert.CA { return c.ca }

func (c *Cluster) addresses(name string) []string {
	var addresses []string
	for _, n := range c.nodes {
		if l, ok := n.listener(name); ok {
			addresses = append(addresses, l.advertised)
		}
	}
	return addresses
}

// format makes each node's storage, all at the same time.
func (c *Cluster) format(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	var quorum, voters []string
	for _, n := range c.nodes {
		l, _ := n.listener(controller)
		quorum = append(quorum, l.port.Address())
		voters = append(voters, fmt.Sprintf("%d@%s:%s", n.id, l.port.Address(), n.directory))
	}
	errs := make([]error, len(c.nodes))
	var wg sync.WaitGroup
	for i, n := range c.nodes {
		wg.Go(func() { errs[i] = c.formatNode(ctx, n, quorum, voters) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (c *Cluster) formatNode(ctx context.Context, n *node, quorum, voters []string) error {
	config, err := c.config(n, quorum)
	if err != nil {
		return err
	}
	if err := os.WriteFile(n.configFile(), []byte(config), 0o600); err != nil {
		return fmt.Errorf("writing the configuration of node %d: %w", n.id, err)
	}
	args := []string{
		"format", "--config", n.configFile(), "--cluster-id", c.id,
		"--initial-controllers", strings.Join(voters, ","),
	}
	for _, user := range slices.Sorted(maps.Keys(c.options.Users)) {
		for _, mechanism := range []string{"SCRAM-SHA-256", "SCRAM-SHA-512"} {
			args = append(args, "--add-scram", fmt.Sprintf("%s=[name=%s,password=%s]", mechanism, user, c.options.Users[user]))
		}
	}
	cmd := exec.CommandContext(ctx, c.java.binary, c.java.args(n.dir, nil, "kafka.tools.StorageTool", args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("node %d: %w\n%s", n.id, err, lastLines(string(out), 20))
	}
	return nil
}

// config returns n's server.properties.
func (c *Cluster) config(n *node, quorum []string) (string, error) {
	replicas, inSync := 1, 1
	if len(c.nodes) >= 3 {
		replicas, inSync = 3, 2
	}
	var listeners, advertised []string
	protocols := []string{controller + ":" + plaintext}
	login := []string{saslListener}
	if c.options.ProxyUsers {
		protocols = append(protocols, proxyListener+":"+saslListener)
		login = append(login, proxyListener)
	} else {
		protocols = append(protocols, proxyListener+":"+plaintext)
	}
	for _, l := range n.listeners {
		listeners = append(listeners, l.name+"://"+l.port.Address())
		if l.advertised != "" {
			advertised = append(advertised, l.name+"://"+l.advertised)
		}
		if l.name != controller && l.name != proxyListener {
			protocols = append(protocols, l.name+":"+l.name)
		}
	}
	config := map[string]string{
		"process.roles":                       "broker,controller",
		"node.id":                             strconv.Itoa(n.id),
		"log.dirs":                            filepath.Join(n.dir, "data"),
		"controller.quorum.bootstrap.servers": strings.Join(quorum, ","),
		"controller.listener.names":           controller,
		"listeners":                           strings.Join(listeners, ","),
		"advertised.listeners":                strings.Join(advertised, ","),
		"listener.security.protocol.map":      strings.Join(protocols, ","),
		"inter.broker.listener.name":          plaintext,

		// A topic is there once a test has created it, not before.
		"auto.create.topics.enable":                        "false",
		"default.replication.factor":                       strconv.Itoa(replicas),
		"min.insync.replicas":                              strconv.Itoa(inSync),
		"offsets.topic.replication.factor":                 strconv.Itoa(replicas),
		"transaction.state.log.replication.factor":         strconv.Itoa(replicas),
		"transaction.state.log.min.isr":                    strconv.Itoa(inSync),
		"share.coordinator.state.topic.replication.factor": strconv.Itoa(replicas),
		"share.coordinator.state.topic.min.isr":            strconv.Itoa(inSync),

		// Whoever comes without a name, by the plaintext listener, may do everything; so may everybody until an ACL says
		// otherwise.
		"authorizer.class.name":          "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
		"super.users":                    "User:ANONYMOUS",
		"allow.everyone.if.no.acl.found": "true",

		// A dead or silent node is noticed within seconds rather than half a minute.
		"broker.heartbeat.interval.ms":          "500",
		"broker.session.timeout.ms":             "3000",
		"replica.lag.time.max.ms":               "3000",
		"controller.quorum.fetch.timeout.ms":    "1000",
		"controller.quorum.election.timeout.ms": "500",
		"group.initial.rebalance.delay.ms":      "0",

		// Small and quick to start.
		"num.network.threads":                          "2",
		"num.io.threads":                               "4",
		"offsets.topic.num.partitions":                 "1",
		"transaction.state.log.num.partitions":         "1",
		"share.coordinator.state.topic.num.partitions": "1",
		"log.cleaner.dedupe.buffer.size":               "2097152",
	}
	if c.ca != nil {
		keystore, err := c.keystore(n)
		if err != nil {
			return "", err
		}
		config["ssl.keystore.type"] = "PEM"
		config["ssl.keystore.location"] = keystore
		config["ssl.truststore.type"] = "PEM"
		config["ssl.truststore.location"] = c.ca.CAFile
		config["listener.name.ssl.ssl.client.auth"] = "required"
	}
	if len(c.options.Users) > 0 {
		var plain strings.Builder
		plain.WriteString("org.apache.kafka.common.security.plain.PlainLoginModule required")
		for _, user := range slices.Sorted(maps.Keys(c.options.Users)) {
			fmt.Fprintf(&plain, " user_%s=%q", user, c.options.Users[user])
		}
		const scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
		for _, name := range login {
			prefix := "listener.name." + strings.ToLower(name) + "."
			config[prefix+"sasl.enabled.mechanisms"] = "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512"
			config[prefix+"plain.sasl.jaas.config"] = plain.String() + ";"
			config[prefix+"scram-sha-256.sasl.jaas.config"] = scram
			config[prefix+"scram-sha-512.sasl.jaas.config"] = scram
		}
	}
	maps.Copy(config, c.options.Config)
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(config)) {
		fmt.Fprintf(&text, "%s=%s\n", name, strings.ReplaceAll(config[name], `\`, `\\`))
	}
	return text.String(), nil
}

// keystore writes the node's key and certificate as Kafka wants them, in one file.
func (c *Cluster) keystore(n *node) (string, error) {
	key, err := os.ReadFile(c.ca.ServerKeyFile)
	if err != nil {
		return "", fmt.Errorf("reading the server's key: %w", err)
	}
	cert, err := os.ReadFile(c.ca.ServerCertFile)
	if err != nil {
		return "", fmt.Errorf("reading the server's certificate: %w", err)
	}
	name := filepath.Join(n.dir, "keystore.pem")
	if err := os.WriteFile(name, append(key, cert...), 0o600); err != nil {
		return "", fmt.Errorf("writing the keystore of node %d: %w", n.id, err)
	}
	return name, nil
}

// args returns Java's arguments to run a class of Kafka's. dir is for what the machine leaves lying about.
func (j java) args(dir string, flags []string, class string, args ...string) []string {
	all := []string{
		"-Xms64m", "-Xmx256m", "-XX:TieredStopAtLevel=1",
		"-XX:+UseSerialGC", "-XX:+ExitOnOutOfMemoryError", "-XX:-UsePerfData",
		"-Xlog:cds*=off", // it would mix with what programs print
		"-Djava.awt.headless=true", "-Dfile.encoding=UTF-8", "-Djava.io.tmpdir=" + filepath.Join(dir, "tmp"),
		"-Dorg.slf4j.simpleLogger.defaultLogLevel=info",
		"-Dorg.slf4j.simpleLogger.showDateTime=true",
		"-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
		// Hundreds of lines at each start, and dozens a second while a controller is missing.
		"-Dorg.slf4j.simpleLogger.log.org.apache.kafka.common.config=warn",
		"-Dorg.slf4j.simpleLogger.log.org.apache.kafka.raft=warn",
		"-Dorg.slf4j.simpleLogger.log.org.apache.kafka.clients=error",
	}
	if j.classes != "" {
		all = append(all, "-XX:SharedArchiveFile="+j.classes)
	}
	all = append(all, flags...)
	all = append(all, "-cp", filepath.Join(j.jars, "*"), class)
	return append(all, args...)
}

// end kills what still runs, and gives the ports back.
func (c *Cluster) end(tb testing.TB) {
	tb.Helper()
	for _, n := range c.nodes {
		p := n.process
		if p == nil {
			continue
		}
		if p.Ended() {
			tb.Errorf("Kafka's node %d ended by itself: %v", n.id, p.Err)
			continue
		}
		if err := p.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			tb.Errorf("Kafka's node %d may still run: %v", n.id, err)
			continue
		}
		<-p.Done
	}
	for _, n := range c.nodes {
		for _, l := range n.listeners {
			l.port.Release()
		}
		if tb.Failed() {
			tb.Logf("The end of the log of Kafka's node %d:\n%s", n.id, n.logTail(40))
		}
	}
}

func (n *node) logTail(lines int) string {
	log, err := os.ReadFile(n.logFile())
	if err != nil {
		return err.Error()
	}
	return lastLines(string(log), lines)
}

// uuid returns an identity as Kafka writes them: 16 random bytes in base64. Kafka refuses those that begin with a dash.
func uuid() string {
	for {
		b := make([]byte, 16)
		_, _ = rand.Read(b) // never fails
		if id := base64.RawURLEncoding.EncodeToString(b); !strings.HasPrefix(id, "-") {
			return id
		}
	}
}
