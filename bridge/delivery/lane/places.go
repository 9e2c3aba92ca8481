package lane

import "slices"

// Places are places of events within a webhook: those before upTo, and those of some ranges behind it. In the usual
// case, where events are finished in their order, there are no ranges.
type Places struct {
	upTo int
	more []placeRange // in order; between any two lies a place that is in neither
}

// placeRange holds the places from from on, before to.
type placeRange struct{ from, to int }

// Empty tells whether there are none.
func (p *Places) Empty() bool { return p.upTo == 0 && len(p.more) == 0 }

// Has tells whether a place is among them.
func (p *Places) Has(place int) bool {
	if place < p.upTo {
		return true
	}
	i := p.behind(place)
	return i > 0 && place < p.more[i-1].to
}

// behind returns the index of the first range that begins behind a place.
func (p *Places) behind(place int) int {
	i, _ := slices.BinarySearchFunc(p.more, place, func(r placeRange, place int) int {
		if r.from > place {
			return 1
		}
		return -1
	})
	return i
}

// Add adds a place.
func (p *Places) Add(place int) {
	if p.Has(place) {
		return
	}
	if place == p.upTo {
		if p.upTo++; len(p.more) > 0 && p.more[0].from == p.upTo {
			p.upTo, p.more = p.more[0].to, p.more[1:]
		}
		return
	}
	i := p.behind(place)
	joinsLast, joinsNext := i > 0 && p.more[i-1].to == place, i < len(p.more) && p.more[i].from == place+1
	switch {
	case joinsLast && joinsNext:
		p.more[i-1].to = p.more[i].to
		p.more = slices.Delete(p.more, i, i+1)
	case joinsLast:
		p.more[i-1].to++
	case joinsNext:
		p.more[i].from--
	default:
		p.more = slices.Insert(p.more, i, placeRange{place, place + 1})
	}
}

// ranges returns them all.
func (p *Places) ranges() []placeRange {
	if p.upTo == 0 {
		return p.more
	}
	return append([]placeRange{{0, p.upTo}}, p.more...)
}
