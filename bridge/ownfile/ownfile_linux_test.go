package ownfile_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/fnbridge/fnbridge/bridge/ownfile"
	"github.com/fnbridge/fnbridge/sinks/sinktest/machine"
)

// stranger is a user that is neither root nor the test's.
const stranger = 54321

func directory(t *testing.T, mode fs.FileMode) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, mode))
	return dir
}

func write(t *testing.T, path string, mode fs.FileMode) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, []byte("secret\n"), mode))
	require.NoError(t, os.Chmod(path, mode))
}

func TestWhatASecretMayBe(t *testing.T) {
	if os.Geteuid() != 0 {
		machine.Lacks(t, "root, to give files to another user")
	}
	for name, tt := range map[string]struct {
		mode  fs.FileMode // of the directory
		plant func(t *testing.T, path string)
		wrong string
	}{
		"the bridge's own": {0o700, func(t *testing.T, path string) { write(t, path, 0o600) }, ""},
		"its group's, as a volume of Kubernetes has it": {
			0o2775, func(t *testing.T, path string) { write(t, path, 0o660) }, "",
		},
		"its own where everyone may write": {0o777, func(t *testing.T, path string) { write(t, path, 0o600) }, ""},
		"another user's, put there by who owns the directory": {0o755, func(t *testing.T, path string) {
			write(t, path, 0o600)
			require.NoError(t, os.Chown(path, stranger, stranger))
		}, ""},
		"planted by another user": {0o777, func(t *testing.T, path string) {
			write(t, path, 0o600)
			require.NoError(t, os.Chown(path, stranger, stranger))
		}, "belongs to user 54321, and this is user 0"},
		"planted where files are protected, as in /tmp": {0o1777, func(t *testing.T, path string) {
			write(t, path, 0o600)
			require.NoError(t, os.Chown(path, stranger, stranger))
		}, "belongs to user 54321"},
		"a link": {0o777, func(t *testing.T, path string) {
			elsewhere := filepath.Join(t.TempDir(), "elsewhere")
			write(t, elsewhere, 0o600)
			require.NoError(t, os.Symlink(elsewhere, path))
		}, "is a link"},
		"a link of the owner's": {0o700, func(t *testing.T, path string) {
			elsewhere := filepath.Join(t.TempDir(), "elsewhere")
			write(t, elsewhere, 0o600)
			require.NoError(t, os.Symlink(elsewhere, path))
		}, ""},
		"readable by everyone": {0o700, func(t *testing.T, path string) { write(t, path, 0o604) }, "chmod 600"},
		"a directory": {0o700, func(t *testing.T, path string) {
			require.NoError(t, os.Mkdir(path, 0o700))
		}, "no regular file"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(directory(t, tt.mode), "secret")
			tt.plant(t, path)
			text, err := ownfile.ReadSecret(path)
			if tt.wrong != "" {
				require.ErrorContains(t, err, tt.wrong)
				require.ErrorContains(t, err, path)
				return
			}
			require.NoError(t, err)
			require.Equal(t, "secret", text)
			require.NoError(t, ownfile.Check(path))
		})
	}
}

// What somebody put where the secret is about to be written is not written to.
func TestASecretIsMadeInAFileOfItsOwn(t *testing.T) {
	for name, plant := range map[string]func(t *testing.T, path, elsewhere string){
		"nothing is there": func(*testing.T, string, string) {},
		"a file for everyone": func(t *testing.T, path, _ string) {
			write(t, path, 0o666)
		},
		"a link": func(t *testing.T, path, elsewhere string) { require.NoError(t, os.Symlink(elsewhere, path)) },
	} {
		t.Run(name, func(t *testing.T) {
			path, elsewhere := filepath.Join(t.TempDir(), "secret"), filepath.Join(t.TempDir(), "elsewhere")
			write(t, elsewhere, 0o666)
			plant(t, path+".new", elsewhere)
			require.NoError(t, ownfile.MakeSecret(path, "made"))
			text, err := ownfile.ReadSecret(path)
			require.NoError(t, err)
			require.Equal(t, "made", text)
			info, err := os.Lstat(path)
			require.NoError(t, err)
			require.Equal(t, fs.FileMode(0o600), info.Mode())
			untouched, err := os.ReadFile(elsewhere)
			require.NoError(t, err)
			require.Equal(t, "secret\n", string(untouched))
			require.NoFileExists(t, path+".new")
		})
	}
}

// What the bridge writes goes to no other place, whoever owns the directory.
func TestALinkIsNotOpened(t *testing.T) {
	path, elsewhere := filepath.Join(t.TempDir(), "lock"), filepath.Join(t.TempDir(), "elsewhere")
	write(t, elsewhere, 0o600)
	require.NoError(t, os.Symlink(elsewhere, path))
	_, err := ownfile.Open(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	require.ErrorContains(t, err, path+" is a link")
	untouched, err := os.ReadFile(elsewhere)
	require.NoError(t, err)
	require.Equal(t, "secret\n", string(untouched))
}

// open makes a file that everyone can read, whose directory everyone can enter.
func open(t *testing.T) string {
	t.Helper()
	dir := directory(t, 0o755)
	require.NoError(t, os.Chmod(filepath.Dir(dir), 0o755)) // the test's own, which is closed
	path := filepath.Join(dir, "secret")
	write(t, path, 0o644)
	return path
}

func TestOthersReadWhatTheyCanReach(t *testing.T) {
	if os.Geteuid() != 0 {
		machine.Lacks(t, "root, who is never alone")
	}
	for name, tt := range map[string]struct {
		change func(t *testing.T, path string) string // returns the path to ask for
		read   bool
	}{
		"open": {func(_ *testing.T, path string) string { return path }, true},
		"through links, as Kubernetes mounts it": {func(t *testing.T, path string) string {
			data, link := filepath.Join(t.TempDir(), "..data"), filepath.Join(t.TempDir(), "secret")
			require.NoError(t, os.Symlink(filepath.Dir(path), data))
			require.NoError(t, os.Symlink(filepath.Join(data, "secret"), link))
			return link
		}, true},
		"for owner and group alone": {func(t *testing.T, path string) string {
			require.NoError(t, os.Chmod(path, 0o640))
			return path
		}, false},
		"where others cannot enter": {func(t *testing.T, path string) string {
			require.NoError(t, os.Chmod(filepath.Dir(path), 0o750))
			return path
		}, false},
		"missing": {func(_ *testing.T, path string) string { return path + ".none" }, false},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, tt.read, ownfile.OthersRead(tt.change(t, open(t))))
		})
	}
}

// containedUser is set for the first process of a namespace of its own, which becomes that user.
const containedUser = "OWNFILE_TEST_USER"

func TestMain(m *testing.M) {
	if os.Getenv(containedUser) != "" {
		fmt.Println(contained(os.Args[1]))
		return
	}
	os.Exit(m.Run())
}

// contained goes on as a container's process does, and tells whether others read the file at path.
func contained(path string) (read bool, err error) {
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return false, err
	}
	if err := syscall.Setuid(stranger); err != nil {
		return false, err
	}
	// As after the start of a program, which takes a process from the user that it had.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0); err != nil {
		return false, err
	}
	return ownfile.OthersRead(path), nil
}

// Where the bridge's user has the machine to itself, it does not matter what others might read.
func TestNobodyElseIsInAContainer(t *testing.T) {
	path := open(t)
	program, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), program, path)
	cmd.Env = append(os.Environ(), containedUser+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWPID, Unshareflags: syscall.CLONE_NEWNS,
	}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, syscall.EPERM) {
		machine.Lacks(t, "the right to make namespaces")
	}
	require.NoError(t, err, string(out))
	require.Equal(t, "false <nil>\n", string(out))
	require.True(t, ownfile.OthersRead(path), "outside of it")
}
