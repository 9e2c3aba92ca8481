package page

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge/admin"
)

// asked is how often a path was asked for.
func (b *browser) asked(path string) int {
	b.t.Helper()
	return eval[int](b, fmt.Sprintf(
		`performance.getEntriesByType("resource").filter((e) => new URL(e.name).pathname === %q).length`, path))
}

func TestWhatWaitsIsAskedForAgain(t *testing.T) {
	t.Parallel()
	b := start(t, nil)
	b.send()
	b.audit.Stop(t)
	b.send()
	p := open(t, b.url("/#find=req_2"), 1280, 860, call(page.AddScriptToEvaluateOnNewDocument,
		page.AddScriptToEvaluateOnNewDocumentParams{Source: `window.notes = "";
			addEventListener("DOMContentLoaded", () => new MutationObserver(() => {
				notes += document.getElementById("figure-journal").innerText;
			}).observe(document.getElementById("figures"), {childList: true, subtree: true, characterData: true}))`}))
	p.has("#found .at[data-fate=waiting]", "waiting")
	p.is(`notes.includes("growth is being measured")`) // and not that it does not grow
	p.has("#figure-journal", " wait, ")
	p.has("#figure-journal", " kept; files ")
	p.click("#found button.open")
	p.has("#detail .sinkline", "waiting")
	p.click("#detail summary") // it stays as it is
	p.is(`!document.querySelector("#detail details").open`)
	p.do(chromedp.Focus(chromedp.CSS("#detail summary")))
	b.audit.Start(t)
	p.is(`document.querySelectorAll("#detail .sinkline .at[data-fate=acknowledged]").length === 2`)
	p.is(`document.querySelectorAll("#found .at[data-fate=acknowledged]").length === 2`)
	require.True(t, eval[bool](p, `!document.querySelector("#detail details").open`))
	require.Equal(t, "SUMMARY", eval[string](p, "document.activeElement.tagName"))

	// What nobody waits for is not asked for.
	before := p.asked("/api/webhooks/2")
	require.Equal(t, http.StatusAccepted,
		b.post("msg_large", envelope("invoices", "req_large", "failed", strings.Repeat("x", 9000))))
	p.click("#tab-live")
	p.has("#live-rows .at[data-fate=dead_letter]", "audit has a dead letter of it")
	p.click("#live-rows button.open")
	p.has("#detail .sinkline", "dead letter")
	p.accessible()
	require.Equal(t, before, p.asked("/api/webhooks/2"))

	// Nor does one that was dropped look as if it had arrived.
	_, err := admin.DropDeadLetters(t.Context(), b.dir, admin.DeadLetterFilter{})
	require.NoError(t, err)
	p.has("#live-rows .at[data-fate=dropped]", "audit")
	p.has("#detail .sinkline", "dropped dead letter")
}

func TestLiveLeavesNothingOutInSilence(t *testing.T) {
	t.Parallel()
	b := start(t, nil)
	b.send()
	p := open(t, b.url("/"), 1280, 860)
	p.has("#live-rows", "req_1")
	p.click("#pause")
	const refused, accepted = 200, 150
	var group sync.WaitGroup
	for range 10 {
		group.Go(func() {
			for range refused / 10 {
				b.postSigned("msg_forged", "{}", time.Now(), "v1,AAAA")
			}
			for range accepted / 10 {
				b.send()
			}
		})
	}
	group.Wait()
	p.has("#held", fmt.Sprintf("%d requests since", refused+accepted))
	p.click("#pause")
	p.is(fmt.Sprintf(`[...document.querySelectorAll("#live-rows tr")].reduce((n, r) =>
		n + ("number" in r ? 1 : Number(/^… (\d+) more$/.exec(r.textContent)[1])), 0) >= %d`, refused+accepted))
	p.has("#live-rows", " more")
	p.click("#live-rows button.open")
	p.has("#detail", "msg_")
	p.is(`document.querySelector("#live-table th:last-child").getBoundingClientRect().right + 1 >
		document.getElementById("live-table").getBoundingClientRect().right`) // the columns that are hidden take no room
}

func TestWhyARequestWasRefusedCanBeRead(t *testing.T) {
	t.Parallel()
	b := start(t, nil)
	require.Equal(t, http.StatusUnauthorized, b.postSigned("msg_"+strings.Repeat("x", 60), "{}", time.Now(), "v1,AAAA"))
	resp, err := b.http.Post("http://"+b.Addr().String()+"/webhooks/tensorlake", "text/plain", strings.NewReader("x"))
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	for _, width := range []int64{1280, 390} {
		p := open(t, b.url("/"), width, 860)
		p.has("#live-rows .result", "unsupported media type")
		p.is(`[...document.querySelectorAll("#live-rows td *")].every((e) =>
			e.scrollWidth <= e.clientWidth || getComputedStyle(e).display === "inline")`)
		p.is(`[...document.querySelectorAll("#live-rows tr")].every((r) => {
			const right = (e) => e.getBoundingClientRect().right;
			const shown = [...r.cells].filter((c) => c.getClientRects().length);
			return shown.every((c) => [...c.querySelectorAll("*")].every((e) => right(e) <= right(c) + 1));
		})`)
	}
}

func TestBackClosesAWebhook(t *testing.T) {
	t.Parallel()
	b := start(t, nil)
	b.send()
	b.send()
	p := open(t, b.url("/"), 1280, 860)
	p.is(`document.querySelectorAll("#live-rows button").length === 2`)
	p.click("#live-rows tr:last-child button")
	p.has("#detail", "msg_00000001")
	p.is(`location.hash === "#webhook=1"`)
	p.is(`[...document.querySelectorAll("#live-table th")].map((e) => e.getClientRects().length).join() === "1,1,1,0,0,1"`)
	p.click("#live-rows tr:first-child button")
	p.has("#detail", "msg_00000002")
	eval[bool](p, "history.back(); true")
	p.is(`document.getElementById("detail").hidden && location.hash === ""`)
	eval[bool](p, "history.forward(); true")
	p.has("#detail", "msg_00000002")
	p.is(`!document.getElementById("detail").hidden`)
	p.key(kb.Escape)
	p.is(`document.getElementById("detail").hidden && location.hash === ""`)

	// What was found is there still.
	p.click("#tab-find")
	p.fill("#find-what", "req_1")
	p.click("#find-form button:not([type])")
	p.click("#found button.open")
	p.has("#detail", "msg_00000001")
	p.is(`location.hash === "#webhook=1" && !document.getElementById("detail").hidden`)
	eval[bool](p, "history.back(); true")
	p.is(`document.getElementById("detail").hidden && location.hash === "#find=req_1"`)
	require.Equal(t, 1, eval[int](p, `document.getElementById("found").children.length`))
	require.Equal(t, 1, p.asked("/api/find"))
}

func TestALinkLeadsToWhatItIsOf(t *testing.T) {
	t.Parallel()
	b := start(t, nil)
	b.send()
	p := open(t, b.url("/#find=req_1"), 390, 800)
	p.has("#found", "req_1")
	p.has("#summary", "2 sinks up")
	p.is(`document.querySelector("#found button").getBoundingClientRect().bottom < innerHeight`)
}
