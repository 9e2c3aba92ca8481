package setting

import (
	"errors"
	"math"
	"strconv"
	"strings"
)

// Bytes is a size in bytes.
type Bytes int64

// sizeUnits are the units of sizes, larger ones first, each binary one before its decimal one.
//
//nolint:gochecknoglobals // a constant table; Go has no constant slices.
var sizeUnits = []struct {
	name string
	size int64
}{
	{"TiB", 1 << 40},
	{"TB", 1e12},
	{"GiB", 1 << 30},
	{"GB", 1e9},
	{"MiB", 1 << 20},
	{"MB", 1e6},
	{"KiB", 1 << 10},
	{"KB", 1e3},
}

var errNotSize = errors.New("not a size")

// Decode reads a whole number with an optional unit: B; KB, MB, GB, TB (powers of 1000); KiB, MiB, GiB, TiB or
// Ki, Mi, Gi, Ti (powers of 1024). Upper and lower case are the same, and a space may stand before the unit.
func (b *Bytes) Decode(value string) error {
	end := 0
	for end < len(value) && value[end] >= '0' && value[end] <= '9' {
		end++
	}
	n, err := strconv.ParseInt(value[:end], 10, 64)
	if err != nil {
		return errNotSize
	}
	size, ok := unitSize(strings.TrimSpace(value[end:]))
	if !ok || n > math.MaxInt64/size {
		return errNotSize
	}
	*b = Bytes(n * size)
	return nil
}

func unitSize(unit string) (int64, bool) {
	if unit == "" || strings.EqualFold(unit, "B") {
		return 1, true
	}
	for _, u := range sizeUnits {
		short, binary := strings.CutSuffix(u.name, "iB")
		if strings.EqualFold(unit, u.name) || binary && strings.EqualFold(unit, short+"i") {
			return u.size, true
		}
	}
	return 0, false
}

// String returns the size in the largest binary unit that needs no fraction, as Decode reads it.
func (b Bytes) String() string {
	for _, u := range sizeUnits {
		if strings.HasSuffix(u.name, "iB") && b != 0 && int64(b)%u.size == 0 {
			return strconv.FormatInt(int64(b)/u.size, 10) + u.name
		}
	}
	return strconv.FormatInt(int64(b), 10)
}
