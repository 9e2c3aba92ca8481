package reload_test

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge/reload"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
}

func pair(texts []string) (string, error) {
	if strings.Contains(texts[0]+texts[1], "wrong") {
		return "", errors.New("it is wrong")
	}
	return texts[0] + ":" + texts[1], nil
}

func TestWhatFilesHoldIsTakenOverTogether(t *testing.T) {
	dir := t.TempDir()
	user, password := filepath.Join(dir, "user"), filepath.Join(dir, "password")
	write(t, user, "one")
	write(t, password, "a")
	var log strings.Builder
	files := reload.New(slog.New(slog.NewTextHandler(&log, nil)))
	part := files.Part(func(setting string) reload.Source {
		return map[string]reload.Source{
			"USER":     {Variable: "FNBRIDGE_USER_FILE", Path: user},
			"PASSWORD": {Variable: "FNBRIDGE_PASSWORD_FILE", Path: password},
		}[setting]
	})
	heard := 0
	part.OnChange(func() { heard++ })
	v, err := reload.Open(part, pair, reload.Text{Setting: "USER"}, reload.Text{Setting: "PASSWORD"})
	require.NoError(t, err)
	require.Equal(t, "one:a", v.Get())
	files.Refresh()
	require.Zero(t, heard)
	require.Empty(t, log.String())
	require.Equal(t, []string{user, password}, files.Paths())

	write(t, user, "two")
	write(t, password, "b")
	files.Refresh()
	require.Equal(t, "two:b", v.Get())
	require.Equal(t, 1, heard)
	require.Contains(t, log.String(), "in use from now on")

	for range 2 { // said once
		write(t, password, "wrong")
		files.Refresh()
		require.Equal(t, "two:b", v.Get(), "what there was stays")
		require.EqualError(t, v.Err(), "it is wrong")
	}
	require.NoError(t, os.Remove(user))
	files.Refresh()
	require.ErrorIs(t, v.Err(), os.ErrNotExist)
	require.ErrorContains(t, v.Err(), "FNBRIDGE_USER_FILE: ")
	require.Equal(t, 2, strings.Count(log.String(), "level=ERROR"))
	states := files.States()
	require.Len(t, states, 2)
	for _, s := range states {
		require.Equal(t, v.Err().Error(), s.Refused)
		require.EqualValues(t, 1, s.Taken)
	}

	write(t, user, "two")
	write(t, password, "b")
	files.Refresh()
	require.NoError(t, v.Err(), "as it was")
	require.Equal(t, 1, heard)
	require.Contains(t, log.String(), "holds again what is in use")
}

func TestAValueWithoutFilesNeverChanges(t *testing.T) {
	v, err := reload.Open(nil, pair, reload.Text{Setting: "USER", Given: "one"}, reload.Text{Setting: "PASSWORD"})
	require.NoError(t, err)
	require.Equal(t, "one:", v.Get())

	files := reload.New(nil)
	part := files.Part(func(setting string) reload.Source { return reload.Source{Variable: setting} })
	_, err = reload.Open(part, pair, reload.Text{Setting: "USER", Given: "one"}, reload.Text{Setting: "PASSWORD"})
	require.NoError(t, err)
	require.Empty(t, files.Paths())
	require.Empty(t, files.States())
}

func TestAValueThatCouldNeverBeMadeIsMadeLater(t *testing.T) {
	path := filepath.Join(t.TempDir(), "later")
	files := reload.New(nil)
	part := files.Part(func(setting string) reload.Source { return reload.Source{Variable: setting} })
	heard := 0
	part.OnChange(func() { heard++ })
	v, err := reload.Open(part, func(texts []string) (string, error) { return texts[0], nil },
		reload.Text{Setting: "CREDS_FILE", Path: path})
	require.ErrorIs(t, err, os.ErrNotExist)
	require.Empty(t, v.Get())
	write(t, path, "now")
	files.Refresh()
	require.Equal(t, "now", v.Get())
	require.Equal(t, 1, heard)
}
