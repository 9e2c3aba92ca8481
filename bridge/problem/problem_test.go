package problem_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge/problem"
)

func TestWrite(t *testing.T) {
	t.Parallel()
	w := httptest.NewRecorder()
	w.Header().Set("Allow", "POST")
	problem.New(http.StatusMethodNotAllowed, "Use POST, not <GET>.").Write(w)

	require.Equal(t, http.StatusMethodNotAllowed, w.Code)
	require.Equal(t, "application/problem+json", w.Header().Get("Content-Type"))
	require.Equal(t, "no-store", w.Header().Get("Cache-Control"))
	require.Equal(t, "nosniff", w.Header().Get("X-Content-Type-Options"))
	require.Equal(t, "POST", w.Header().Get("Allow"), "headers of the caller stay")
	require.JSONEq(t,
		`{"type":"about:blank","title":"Method Not Allowed","status":405,"detail":"Use POST, not <GET>."}`, w.Body.String())
	require.Contains(t, w.Body.String(), "not <GET>", "as people read it")
	require.True(t, strings.HasSuffix(w.Body.String(), "}\n"), "a terminal's prompt comes after it")
}

func TestWriteTakesAnyDetail(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		detail, want string
	}{
		"nothing":         {"", ""},
		"a line break":    {"one\r\ntwo\x00", "one\r\ntwo\x00"},
		"not UTF-8":       {"a\xffb", "a\ufffdb"},
		"longest":         {strings.Repeat("x", 2048), strings.Repeat("x", 2048)},
		"too long":        {strings.Repeat("x", 2049), strings.Repeat("x", 2045) + "…"},
		"too long, runes": {strings.Repeat("é", 2000), strings.Repeat("é", 1022) + "…"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := httptest.NewRecorder()
			problem.Problem{Title: "T", Status: http.StatusBadRequest, Detail: test.detail}.Write(w)
			var got problem.Problem
			require.NoError(t, json.Unmarshal(w.Body.Bytes(), &got))
			require.Equal(t, problem.Problem{Type: "about:blank", Title: "T", Status: 400, Detail: test.want}, got)
			require.Equal(t, 1, strings.Count(w.Body.String(), "\n"), "one line, whatever the detail holds")
		})
	}
}
