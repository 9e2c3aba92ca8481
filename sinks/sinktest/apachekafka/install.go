package apachekafka

import (
	"cmp"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// newest is the newest release of Apache Kafka whose broker and tools are both in Maven Central.
const newest = "4.3.1"

// Version is the release that the tests run: the newest, or that in FNBRIDGE_TEST_KAFKA_VERSION, from 3.9 on.
func Version() string { return cmp.Or(os.Getenv("FNBRIDGE_TEST_KAFKA_VERSION"), newest) }

// oldestJava is the oldest feature release of Java that this Kafka's brokers run on.
const oldestJava = 17

// installTimeout bounds the first run's download, and the wait for another process that is at it.
const installTimeout = 5 * time.Minute

//go:embed pom.xml
var pom []byte

//go:embed JavaPartitions.java
var javaPartitions []byte

// java is a Java runtime with Kafka's jars.
type java struct {
	binary  string
	version string // all that it says of it
	jars    string // the directory of the jars
	classes string // the archive of Kafka's classes; empty for none
}

// Require skips the test when this machine cannot run Apache Kafka, with a line that says what is missing:
// Java 17, Maven, or the jars when Maven cannot fetch them. With FNBRIDGE_TEST_REQUIRE_ALL=1 in
// the environment, as CI has it, it fails the test instead.
func Require(tb testing.TB) {
	tb.Helper()
	needJava(tb)
}

func needJava(tb testing.TB) java {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), installTimeout)
	defer cancel()
	j, err := install(ctx)
	switch {
	case err == nil:
		return j
	case os.Getenv("FNBRIDGE_TEST_REQUIRE_ALL") == "1":
		tb.Fatalf("Apache Kafka cannot run here, and FNBRIDGE_TEST_REQUIRE_ALL=1 asks for it: %v", err)
	default:
		tb.Skipf("Skipped, Apache Kafka cannot run here: %v", err)
	}
	return java{}
}

// install finds Java, and fetches the jars unless an earlier run has.
func install(ctx context.Context) (java, error) {
	j, err := findJava(ctx)
	if err != nil {
		return java{}, err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return java{}, fmt.Errorf("no directory to keep Kafka's jars in: %w", err)
	}
	j.jars, err = installJars(ctx, filepath.Join(cache, "fnbridge-test"), copyDependencies)
	return j, err
}

var javaVersion = regexp.MustCompile(`version "(\d+)`)

func findJava(ctx context.Context) (java, error) {
	binary, err := exec.LookPath("java")

	if home := os.Getenv("JAVA_HOME"); home != "" {
		binary, err = exec.LookPath(filepath.Join(home, "bin", "java"))
	}
	if err != nil {
		return java{}, fmt.Errorf("it needs Java %d or newer: %w", oldestJava, err)
	}
	out, err := exec.CommandContext(ctx, binary, "-version").CombinedOutput()
	if err != nil {
		return java{}, fmt.Errorf("%s -version: %w", binary, err)
	}
	match := javaVersion.FindSubmatch(out)
	if match == nil {
		return java{}, fmt.Errorf("%s -version does not tell its version: %q", binary, out)
	}
	if release, err := strconv.Atoi(string(match[1])); err != nil || release < oldestJava {
		return java{}, fmt.Errorf("it needs Java %d or newer, and %s is Java %s", oldestJava, binary, match[1])
	}
	return java{binary: binary, version: string(out)}, nil
}

// installJars returns the directory under cache with the jars that fetch fetches. Whoever comes first fetches, and
// the others wait for it, in this process and in others; the directory appears only once it is whole.
func installJars(
	ctx context.Context, cache string, fetch func(ctx context.Context, pomFile, dir string) error,
) (string, error) {
	digest := sha256.Sum256(append(slices.Clone(pom), javaPartitions...))
	name := "kafka-" + Version() + "-" + hex.EncodeToString(digest[:4])
	dir := filepath.Join(cache, name)
	if isDir(dir) {
		return dir, nil
	}
	if err := os.MkdirAll(cache, 0o750); err != nil {
		return "", fmt.Errorf("making a directory for Kafka's jars: %w", err)
	}
	unlock, err := lockFile(ctx, filepath.Join(cache, name+".lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	if isDir(dir) {
		return dir, nil
	}
	partial, err := os.MkdirTemp(cache, name+".partial-")
	if err != nil {
		return "", fmt.Errorf("making a directory for Kafka's jars: %w", err)
	}
	defer func() { _ = os.RemoveAll(partial) }()
	pomFile := filepath.Join(partial, "pom.xml")
	if err := os.WriteFile(pomFile, pom, 0o600); err != nil {
		return "", fmt.Errorf("writing Maven's project file: %w", err)
	}
	if err := fetch(ctx, pomFile, partial); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(partial, "JavaPartitions.java"), javaPartitions, 0o600); err != nil {
		return "", fmt.Errorf("writing the partitions' program: %w", err)
	}
	if err := os.Rename(partial, dir); err != nil {
		return "", fmt.Errorf("putting Kafka's jars in place: %w", err)
	}
	return dir, nil
}

func copyDependencies(ctx context.Context, pomFile, dir string) error {
	maven, err := exec.LookPath("mvn")
	if err != nil {
		return fmt.Errorf("it needs Maven to fetch Kafka %s: %w", Version(), err)
	}

	cmd := exec.CommandContext(ctx, maven, "--batch-mode", "--quiet", "--file", pomFile, "dependency:copy-dependencies",
		"-Dkafka.version="+Version(), "-DoutputDirectory="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("maven could not fetch Kafka %s: %w\n%s",
			Version(), errors.Join(ctx.Err(), err), lastLines(string(out), 20))
	}
	return nil
}

// lockFile takes the lock on a file, which it makes if need be, and returns what gives it back.
func lockFile(ctx context.Context, name string) (unlock func(), err error) {
	file, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the lock of Kafka's jars: %w", err)
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = file.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			_ = file.Close()
			return nil, fmt.Errorf("locking %s: %w", name, err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			_ = file.Close()
			return nil, fmt.Errorf("another process holds %s while it fetches Kafka's jars: %w", name, ctx.Err())
		}
	}
}

func isDir(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.IsDir()
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
