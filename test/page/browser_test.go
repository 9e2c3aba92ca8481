package page

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/sinks/sinktest/machine"
)

var update = flag.Bool("update", false, "write the screenshots in docs/page anew")

// patience is how long something may take to be seen on a machine that is busy.
const patience = 2 * time.Minute

// void is an action that has no result.
type void = chromedp.Action[chromedp.Void]

// browser is a tab of Chromium. What it complains about fails the test.
type browser struct {
	t    *testing.T
	ctx  context.Context //nolint:containedctx // it is the tab
	mu   sync.Mutex
	said []string
	got  map[string]int64 // bytes by address
	// cutOff tells that the bridge cannot be reached for a while: that is said on the console, and no complaint.
	cutOff bool
}

// open opens a page in a browser of its own.
func open(t *testing.T, url string, width, height int64, setup ...void) *browser {
	t.Helper()
	path := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if found, err := exec.LookPath(name); err == nil {
			path = found
			break
		}
	}
	if path == "" {
		machine.Lacks(t, "there is no chromium: install it (Debian: apt-get install chromium)")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.NoSandbox,
		chromedp.Flag("lang", "en-GB"), chromedp.UserDataDir(t.TempDir()), chromedp.WSURLReadTimeout(patience))
	ctx, end := chromedp.NewExecAllocator(context.WithoutCancel(t.Context()), options...)
	t.Cleanup(end)
	return (&browser{t: t, ctx: ctx}).another(url, width, height, setup...)
}

// another opens a page in another tab of the same browser.
func (b *browser) another(url string, width, height int64, setup ...void) *browser {
	t := b.t
	t.Helper()
	ctx, endTab := chromedp.NewContext(b.ctx)
	t.Cleanup(endTab)
	b = &browser{t: t, ctx: ctx, got: make(map[string]int64)}
	paths := make(map[network.RequestID]string)
	require.NoError(t, chromedp.Listen(ctx, func(event any) {
		b.mu.Lock()
		defer b.mu.Unlock()
		switch e := event.(type) {
		case *runtime.EventExceptionThrown:
			b.said = append(b.said, fmt.Sprintf("%s %+v", e.ExceptionDetails.Text, e.ExceptionDetails.Exception))
		case *runtime.EventConsoleAPICalled:
			if e.Type == "error" || e.Type == "warning" {
				b.said = append(b.said, fmt.Sprintf("%s: %v", e.Type, e.Args))
			}
		case *log.EventEntryAdded:
			unreachable := b.cutOff && strings.Contains(e.Entry.Text, "net::ERR_")
			if (e.Entry.Level == log.EntryLevelError || e.Entry.Level == log.EntryLevelWarning) && !unreachable {
				b.said = append(b.said, e.Entry.Text+" "+e.Entry.URL)
			}
		case *network.EventRequestWillBeSent:
			paths[e.RequestID] = e.Request.URL
		case *network.EventLoadingFinished:
			b.got[paths[e.RequestID]] += int64(e.EncodedDataLength)
		}
	}))
	t.Cleanup(func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if len(b.said) > 0 {
			t.Errorf("the browser complains: %v", b.said)
		}
	})
	b.do(append([]void{
		call(log.Enable, cdp.Empty{}), call(network.Enable, network.EnableParams{}),
		call(emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{
			Width: width, Height: height, DeviceScaleFactor: 1, Mobile: width < 600,
		}),
	}, setup...)...)
	b.do(chromedp.Navigate(url))
	b.is(`document.querySelector('#connection[data-state="live"]') !== null`)
	return b
}

// call is the action of a command of the protocol whose result does not matter.
func call[P, R any](command cdp.Command[P, R], params P) void {
	return func(ctx context.Context, target *chromedp.Target) (v chromedp.Void, err error) {
		_, err = cdp.Call(ctx, target, command, params)
		return v, err
	}
}

func (b *browser) do(actions ...void) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	require.NoError(b.t, chromedp.Do(ctx, actions...))
}

// eval evaluates an expression of JavaScript on the page.
func eval[T any](b *browser, expression string, options ...chromedp.EvaluateOption) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	value, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression, options...))
	require.NoError(b.t, err, expression)
	return value
}

// is waits until an expression is true on the page.
func (b *browser) is(expression string) {
	b.t.Helper()
	require.Eventually(b.t, func() bool { return eval[bool](b, "!!("+expression+")") }, patience, 50*time.Millisecond,
		"%s; the page says:\n%s", expression, lazy(func() string { return eval[string](b, "document.body.innerText") }))
}

// lazy is a text that is made when it is printed.
type lazy func() string

func (l lazy) String() string { return l() }

// quoted is a text as JavaScript has it.
func quoted(b *browser, text string) string {
	b.t.Helper()
	json, err := json.Marshal(text)
	require.NoError(b.t, err)
	return string(json)
}

// click clicks once nothing lies over the element. A pointer that is moved there could come when the page has moved
// what is below it.
func (b *browser) click(selector string) {
	b.t.Helper()
	b.is(fmt.Sprintf(`(() => {
		const e = document.querySelector(%q);
		if (!e) return false;
		e.scrollIntoView({block: "nearest"});
		const r = e.getBoundingClientRect();
		if (!e.contains(document.elementFromPoint(r.x + r.width / 2, r.y + r.height / 2))) return false;
		e.click();
		return true;
	})()`, selector))
}

func (b *browser) fill(selector, value string) {
	b.t.Helper()
	eval[string](b, fmt.Sprintf("document.querySelector(%q).value = %s", selector, quoted(b, value)))
}

func (b *browser) has(selector, text string) {
	b.t.Helper()
	b.is(fmt.Sprintf("[...document.querySelectorAll(%q)].some((e) => e.textContent.includes(%s))",
		selector, quoted(b, text)))
}

func (b *browser) key(keys ...string) {
	b.t.Helper()
	for _, k := range keys {
		b.do(chromedp.KeyEvent(k))
	}
}

// shot takes a picture of what the window shows, into the docs if they are to be made anew.
func (b *browser) shot(name string) {
	b.t.Helper()
	eval[bool](b, "document.activeElement.blur(); scrollTo(0, 0); true")
	picture, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
	require.NoError(b.t, err)
	require.NotEmpty(b.t, picture)
	if !*update {
		return
	}
	folder := filepath.Join("..", "..", "docs", "page")
	require.NoError(b.t, os.MkdirAll(folder, 0o755))
	require.NoError(b.t, os.WriteFile(filepath.Join(folder, name+".png"), picture, 0o644))
}

// accessible has axe-core look at the page as it is.
func (b *browser) accessible() {
	b.t.Helper()
	file, err := os.Open("testdata/axe.min.js.gz")
	require.NoError(b.t, err)
	defer file.Close()
	unpacked, err := gzip.NewReader(file)
	require.NoError(b.t, err)
	axe, err := io.ReadAll(unpacked)
	require.NoError(b.t, err)
	eval[bool](b, string(axe)+";true")
	b.is(`document.getAnimations().length === 0`) // what fades has less contrast
	require.Empty(b.t, eval[[]string](b, `axe.run().then((r) => r.violations
		.filter((v) => v.impact === "serious" || v.impact === "critical")
		.map((v) => v.id + ": " + v.help + ": " + v.nodes.map((n) => n.html + " " + n.failureSummary).join(" | ")))`,
		chromedp.EvalAwaitPromise))
}

func dark(on bool) void {
	return call(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
		{Name: "prefers-color-scheme", Value: map[bool]string{true: "dark", false: "light"}[on]},
	}})
}

func TestThePageShowsWhatTheBridgeDoes(t *testing.T) {
	t.Parallel()
	b := start(t, nil)
	p := open(t, b.url("/"), 1280, 860, dark(false))
	p.has("#live-empty", "fnbridge send")
	p.has(".state", "up")
	p.accessible()

	var weight int64
	p.mu.Lock()
	for url, n := range p.got {
		own := strings.HasPrefix(url, b.url("/")) || strings.HasPrefix(url, "data:")
		require.True(t, own, "it loads from elsewhere: %s", url)
		weight += n
	}
	requests := len(p.got)
	p.mu.Unlock()
	t.Logf("%d requests, %d bytes until the page is live", requests, weight)
	require.Less(t, weight, int64(100_000))

	// A webhook appears, and what became of it.
	began := time.Now()
	request := b.send()
	p.has("#live-rows", request)
	t.Logf("a webhook appears after %s", time.Since(began).Round(time.Millisecond))
	p.is(`document.querySelectorAll('#live-rows tr:first-child .at[data-fate="done"]').length === 2`)
	p.has("#summary", "2 sinks up")

	// Refused and duplicates, and why.
	require.Equal(t, http.StatusUnauthorized, b.postSigned("msg_forged", "{}", time.Now(), "v1,AAAA"))
	p.has("#live-rows", "unauthorized")
	p.has("#figure-refused", "unauthorized")
	require.Equal(t, http.StatusOK, b.post("msg_00000001", envelope("transcripts", "req_1", "completed", "")))
	p.has("#live-rows .result", "duplicate")

	// What a click shows.
	p.click("#live-rows button.open")
	p.has("#detail", "msg_00000001")
	p.has("#detail pre", `"project_id": "project_1"`)
	p.has("#detail", "tensorlake.application.transcripts.request.completed")
	p.has("#detail", "acknowledged")
	p.accessible()
	p.key(kb.Escape)
	p.is(`document.getElementById("detail").hidden`)

	// Paused, nothing moves; then all of it is there.
	p.click("#pause")
	request = b.send()
	p.has("#held", "1 request since")
	require.False(t, eval[bool](p, fmt.Sprintf(`document.getElementById("live-rows").textContent.includes(%q)`, request)))
	p.click("#pause")
	p.has("#live-rows", request)

	// A sink goes down and comes back.
	b.audit.Stop(t)
	b.send()
	p.is(`["down", "blocked"].includes(document.querySelector('[aria-label="Sink audit"] .state').dataset.state)`)
	p.has(`[aria-label="Sink audit"] .trouble`, "Last error")
	p.has("#summary", "audit is down")
	p.is(`document.querySelector('#live-rows tr:first-child .at[data-fate="waiting"]')?.textContent.startsWith("audit")`)
	p.accessible()
	b.audit.Start(t)
	p.is(`document.querySelector('[aria-label="Sink audit"] .state').dataset.state === "up"`)
	p.is(`document.querySelectorAll('#live-rows tr:first-child .at[data-fate="done"]').length === 2`)
}

func TestThePageFindsAndTellsOfDeadLetters(t *testing.T) {
	t.Parallel()
	b := start(t, map[string]string{"AUDIT_MAX_BYTES": "64MiB"})
	for range 5 {
		b.send()
	}
	hostile := "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">\u202ereversed\u2066"
	long := strings.Repeat("long-", 2000)
	require.Equal(t, http.StatusAccepted, b.post("msg_hostile", envelope(hostile, "req_hostile", "failed", hostile)))
	require.Equal(t, http.StatusAccepted, b.post("msg_long", envelope(long, "req_long", "failed", "")))
	for i := range 3 {
		require.Equal(t, http.StatusAccepted, b.post(fmt.Sprintf("msg_large%d", i),
			envelope("invoices", fmt.Sprintf("req_large%d", i), "failed", strings.Repeat("x", 9000+i))))
	}
	// A link leads to what was found.
	p := open(t, b.url("/#find=req_4"), 1280, 860)
	p.has("#found", "transcripts/req_4")
	p.has("#find-said", "1 webhook found")
	p.click("#found button.open")
	p.has("#detail", "msg_00000004")
	p.has("#attention", "of 64.0 MiB")
	// All is well.
	p.is(`getComputedStyle(document.querySelector("#attention li")).borderLeftColor === "rgba(0, 0, 0, 0)"`)
	p.accessible()

	// Names from outside are text, and cannot turn or hide what is around them.
	p.fill("#find-what", "req_hostile")
	p.click("#find-form button:not([type])")
	p.has("#found", "req_hostile")
	p.click("#found button.open")
	p.has("#detail pre", "<script>document.title='taken'</script>")
	p.has("#detail pre", "‹U+202E›reversed‹U+2066›")
	p.fill("#find-what", "req_long")
	p.click("#find-form button:not([type])")
	p.is(`document.querySelector("#found")?.textContent.includes("long-long-")`)
	p.click("#tab-live")
	p.has("#live-rows", "long-long-")
	p.is(`document.documentElement.scrollWidth <= document.documentElement.clientWidth`)
	p.is(`!document.title.includes("taken") && document.querySelectorAll("main script, main img").length === 0`)

	// Text in payloads, and what there is not.
	p.click("#tab-find")
	p.fill("#find-what", "nothing has this")
	p.fill("#find-as", "text")
	p.click("#find-form button:not([type])")
	p.has("#find-said", "Nothing found")

	// Dead letters by reason, with commands.
	p.is(`document.getElementById("letter-count").textContent === "4" && !document.getElementById("letter-count").hidden`)
	p.click("#tab-letters")
	p.has("#letter-groups code", "fnbridge dead-letters retry --sink audit --reason ")
	p.has("#letter-groups code", "fnbridge dead-letters drop --sink audit --reason ")
	p.has("#letter-groups .reason", "the message is too large")
	// It is said for a moment only.
	eval[bool](p, `window.said = ""; new MutationObserver(() => { said += document.getElementById("copied").textContent; })
		.observe(document.getElementById("copied"), {childList: true}); true`)
	p.click("#letter-groups .command button")
	p.is(`said.includes("Command copied")`)
	p.accessible()
	p.do(dark(true))
	p.accessible()
}

func TestTheKeyboardReachesEverything(t *testing.T) {
	t.Parallel()
	for _, width := range []int64{1280, 390} {
		t.Run(strconv.FormatInt(width, 10), func(t *testing.T) {
			t.Parallel()
			theKeyboardReachesEverything(t, width)
		})
	}
}

func theKeyboardReachesEverything(t *testing.T, width int64) {
	t.Helper()
	b := start(t, nil)
	b.send()
	p := open(t, b.url("/"), width, 860)
	p.is(`document.querySelectorAll("#live-rows button").length === 1`)
	const focused = `(document.activeElement.id || document.activeElement.className) + ""`
	var order []string
	for range 6 {
		p.key(kb.Tab)
		order = append(order, eval[string](p, focused))
	}
	require.Equal(t, []string{"skip", "tab-live", "pause", "open"}, order[:4])
	p.do(chromedp.Focus(chromedp.CSS("#live-rows button")))
	p.key(kb.Enter)
	p.is(`document.activeElement.id === "detail-title"`)
	if width < 600 { // it covers all else
		for range 12 {
			p.key(kb.Tab)
			require.True(t, eval[bool](p, `document.activeElement === document.body ||
				document.activeElement.closest("#detail") !== null`))
		}
	}
	p.key(kb.Escape)
	p.is(`document.activeElement.className === "open"`) // the focus is back where it came from
	p.do(chromedp.Focus(chromedp.CSS("#tab-live")))
	p.key(kb.ArrowRight)
	p.is(`!document.getElementById("find").hidden && document.activeElement.id === "tab-find"`)
	p.key(kb.ArrowRight)
	p.is(`!document.getElementById("letters").hidden`)
	p.key("/")
	p.is(`document.activeElement.id === "find-what"`)
	p.fill("#find-what", "") // a key that is driven is typed even where the page takes it
	p.key("req_1")
	p.key(kb.Enter)
	p.has("#find-said", "1 webhook found")

	// Where a link has opened a webhook, closing it leads to its row.
	linked := open(t, b.url("/#webhook=1"), width, 860)
	linked.is(`document.activeElement.id === "detail-title"`)
	linked.key(kb.Escape)
	linked.is(`document.activeElement.className === "open"`)
}

func TestThePageAsksForItsToken(t *testing.T) {
	t.Parallel()
	b := start(t, map[string]string{"PAGE_TOKEN": token, "ACK": "sinks"})
	status, _ := b.get("/", nil)
	require.Equal(t, http.StatusUnauthorized, status)
	p := open(t, strings.Replace(b.url("/"), "http://", "http://operator:"+token+"@", 1), 390, 800, dark(true))
	require.Equal(t, http.StatusOK, b.post("msg_1", envelope("invoices", "req_1", "failed", "")))
	p.has("#live-rows", "req_1")
	p.has("#figure-journal", "Nothing is stored here")
	p.click("#live-rows button.open")
	p.has("#detail pre", "req_1")
	p.accessible()
	// Nothing is stored that could be found, and a number is another webhook's after a restart.
	p.is(`["tab-find", "tab-letters"].every((id) => document.getElementById(id).hidden)`)
	p.is(`![...document.querySelectorAll("#detail button")].some((b) => b.textContent === "Copy link")`)
	p.key(kb.Escape)
	p.key("/")
	require.True(t, eval[bool](p, `document.getElementById("find").hidden`))
}

// TestPictures makes the pictures of the docs, with go test ./page -run Pictures -update.
func TestPictures(t *testing.T) {
	t.Parallel()
	b := start(t, nil)
	seconds := 2
	if *update {
		seconds = 30
	}
	load := func(n int) {
		ticker := time.NewTicker(time.Second / 12)
		defer ticker.Stop()
		for i := range n * 12 {
			<-ticker.C
			for range 1 + i%3 + i/24%4 {
				b.send()
			}
			if i%50 == 0 {
				b.post("msg_00000001", envelope("transcripts", "req_1", "completed", ""))
			}
		}
	}
	load(seconds)
	p := open(t, b.url("/"), 1280, 820, dark(false))
	load(2)
	p.is(`document.querySelectorAll("#live-rows tr").length > 5`)
	p.shot("healthy")

	b.audit.Stop(t)
	load(seconds / 4)
	p.has("#summary", "audit is down")
	p.shot("sink-down")
	b.audit.Start(t)
	p.has("#summary", "2 sinks up")

	p.click("#tab-find")
	p.fill("#find-what", "req_21")
	p.click("#find-form button:not([type])")
	p.has("#find-said", "found")
	p.click("#found button.open")
	p.has("#detail pre", "req_21")
	p.shot("find")
	p.key(kb.Escape)

	for i := range 12 {
		b.post(fmt.Sprintf("msg_large%d", i), envelope("transcripts", fmt.Sprintf("req_large%d", i), "completed",
			strings.Repeat("x", 9000+i)))
	}
	p.click("#tab-letters")
	p.is(`document.getElementById("letter-count").textContent === "12"`)
	p.has("#letter-groups .reason", "12")
	p.shot("dead-letters")

	phone := open(t, b.url("/"), 390, 844, dark(true))
	load(1)
	phone.is(`document.querySelectorAll("#live-rows tr").length > 5 && document.documentElement.scrollWidth <= 390`)
	phone.shot("phone")
}
