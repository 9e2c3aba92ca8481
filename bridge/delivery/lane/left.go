package lane

import (
	"cmp"
	"hash/maphash"
	"slices"
	"time"
)

// Left is what a stream has left behind: events that it has read and that are neither finished nor in memory, since
// what they belong to stands still. Of a webhook it keeps the number, and of a key a digest. The webhooks are read
// again, oldest first, in passes.
//
// While an event of a key is left behind, no later one of that key may be taken: Has says so to who reads on, and
// Passed to who reads again.
type Left struct {
	seed   maphash.Seed
	keys   map[uint64]leftKey
	pass   uint32
	ahead  []leftWebhook // of this pass, in order, what has not been read again
	next   []leftWebhook // for the next pass, in any order
	oldest leftWebhook   // of next
	// parts are those of which something is finished or in memory.
	parts map[int64]*Webhook
}

type leftWebhook struct {
	number     int64
	receivedAt int64 // Unix nanoseconds
}

type leftKey struct {
	events uint32 // of the key that are left behind
	pass   uint32 // in which one was left behind last that later ones may follow in that pass
	since  time.Time
}

// partCost is how many numbers or digests one of the parts counts for.
const partCost = 8

// NewLeft returns one that is empty.
func NewLeft() *Left {
	return &Left{seed: maphash.MakeSeed(), keys: make(map[uint64]leftKey), parts: make(map[int64]*Webhook)}
}

// Webhooks is how many webhooks have events that were left behind.
func (l *Left) Webhooks() int { return len(l.ahead) + len(l.next) }

// Size is what it takes up, in webhooks and keys.
func (l *Left) Size() int { return l.Webhooks() + len(l.keys) + partCost*len(l.parts) }

// Has tells whether an event of a key is left behind.
func (l *Left) Has(key string) bool {
	_, has := l.keys[maphash.String(l.seed, key)]
	return has
}

// Passed tells whether an event of a key was left behind in this pass that later ones may follow in it.
func (l *Left) Passed(key string) bool {
	k, has := l.keys[maphash.String(l.seed, key)]
	return has && k.pass == l.pass
}

// Leave leaves an event behind that is newer than all that was left of its key. No pass under way comes to what follows
// it, so the key goes on in that: else one with steady traffic would never be taken.
func (l *Left) Leave(it *Item, now time.Time) {
	digest := maphash.String(l.seed, it.Key)
	k := l.keys[digest]
	if k.events == 0 {
		k.since = now
		if !it.waiting.IsZero() {
			k.since = it.waiting
		}
	}
	k.events++
	l.keys[digest] = k
	it.Webhook.left.Add(it.Event.Origin.Index)
}

// PutBack leaves an event behind that had been taken. Later ones of its key may be in this pass.
func (l *Left) PutBack(it *Item, now time.Time) {
	l.Leave(it, now)
	l.LeaveAgain(it)
}

// LeaveAgain leaves an event behind that a pass has come to.
func (l *Left) LeaveAgain(it *Item) {
	digest := maphash.String(l.seed, it.Key)
	k := l.keys[digest]
	k.pass = l.pass
	l.keys[digest] = k
	it.Webhook.left.Add(it.Event.Origin.Index)
}

// Take takes an event that a pass has come to, and returns since when its key has been left behind.
func (l *Left) Take(it *Item) (since time.Time) {
	digest := maphash.String(l.seed, it.Key)
	k := l.keys[digest]
	if k.events--; k.events == 0 {
		delete(l.keys, digest)
	} else {
		l.keys[digest] = k
	}
	return k.since
}

// Put notes a webhook of which all events have been taken or left behind, and some left.
func (l *Left) Put(hook *Webhook) {
	if hook.put || hook.left.Empty() {
		return
	}
	hook.put = true
	if hook.open > 0 || !hook.finished.Empty() {
		l.parts[hook.Number] = hook
	}
	w := leftWebhook{hook.Number, hook.ReceivedAt.UnixNano()}
	if len(l.next) == 0 || w.number < l.oldest.number {
		l.oldest = w
	}
	l.next = append(l.next, w)
}

// Begin begins a pass. The one before has ended, with what was read in it.
func (l *Left) Begin() {
	l.pass++
	slices.SortFunc(l.next, byNumber)
	l.ahead, l.next = l.next, nil
}

func byNumber(a, b leftWebhook) int { return cmp.Compare(a.number, b.number) }

// Ahead returns the number of the next webhook to be read again in this pass, if there is one.
func (l *Left) Ahead() (number int64, ok bool) {
	if len(l.ahead) == 0 {
		return 0, false
	}
	return l.ahead[0].number, true
}

// Read takes the webhook with a number out, to be read again: hook is the webhook if something of it is finished or in
// memory, and then only events at the places that were left behind are to be taken. It tells whether the webhook is to
// be read again at all. Numbers must be asked for in order.
func (l *Left) Read(number int64) (hook *Webhook, places Places, ok bool) {
	for len(l.ahead) > 0 && l.ahead[0].number < number {
		l.ahead = l.ahead[1:] // which the journal does not have
	}
	if len(l.ahead) == 0 || l.ahead[0].number != number {
		return nil, Places{}, false
	}
	l.ahead = l.ahead[1:]
	hook = l.parts[number]
	if hook == nil {
		return nil, Places{}, true
	}
	delete(l.parts, number)
	places, hook.left, hook.put = hook.left, Places{}, false
	return hook, places, true
}

// first returns the oldest webhook, if there is one.
func (l *Left) first() (w leftWebhook, ok bool) {
	switch {
	case len(l.ahead) == 0 && len(l.next) == 0:
		return w, false
	case len(l.ahead) == 0 || (len(l.next) > 0 && l.oldest.number < l.ahead[0].number):
		return l.oldest, true
	default:
		return l.ahead[0], true
	}
}
