package config

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/fnbridge/fnbridge/config/setting"
)

// set gives into the value of text, which decode turns into it, and returns what is wrong with it, each
// reason with what to give instead.
func (f field) set(text string, into reflect.Value, decode func() error) []string {
	if reason := checkMark(text); reason != "" {
		return []string{reason}
	}
	word := slices.IndexFunc(f.options, func(option string) bool { return strings.EqualFold(option, text) })
	if len(f.options) > 0 && word < 0 {
		return []string{f.expected(text)}
	}
	err := decode()
	switch {
	case err != nil && f.noun() != "":
		return []string{f.expected(text)}
	case err != nil:
		return reasons(err)
	}
	if word >= 0 && into.Kind() == reflect.String {
		into.SetString(f.options[word])
	}
	if !f.inRange(into) {
		return []string{f.expected(text)}
	}
	if reason := checkText(f.holds, text); reason != "" {
		return []string{reason}
	}
	return nil
}

// checkMark says that text has a byte order mark, of UTF-8 or UTF-16, which would be part of the value unseen.
func checkMark(text string) string {
	for _, mark := range []string{"\xef\xbb\xbf", "\xff\xfe", "\xfe\xff"} {
		if strings.HasPrefix(text, mark) {
			return "begins with a byte order mark: save it as UTF-8 without one"
		}
	}
	return ""
}

// reasons takes joined errors apart.
func reasons(err error) []string {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var list []string
		for _, e := range joined.Unwrap() {
			list = append(list, reasons(e)...)
		}
		return list
	}
	return []string{err.Error()}
}

// isDefault tells whether the value is the default.
func (f field) isDefault(value reflect.Value) bool {
	return fmt.Sprint(value) == f.defaultValue || f.defaultValue == "" && value.IsZero()
}

// inRange tells whether the value is within min and max, which are written like the value itself. The default is
// allowed even outside: a duration of 0 that means never.
func (f field) inRange(value reflect.Value) bool {
	if f.isDefault(value) {
		return true
	}
	within := func(limit string, sign int) bool {
		if limit == "" {
			return true
		}
		bound := reflect.New(f.typ).Elem()
		mustParse(limit, bound)
		return int64(sign)*bound.Int() <= int64(sign)*value.Int()
	}
	return within(f.min, 1) && within(f.max, -1)
}

// noun says what a value has to be; empty for types whose own errors say more.
func (f field) noun() string {
	switch f.holds {
	case holdsBool, holdsDuration, holdsSize:
		return "a " + f.holds
	case holdsNumber:
		return "a whole number"
	case holdsWord:
		return "known"
	default:
		return ""
	}
}

// expected says that text is not what is allowed, and what is, with an example.
func (f field) expected(text string) string {
	how := ""
	switch f.holds {
	case holdsBool:
		how = "true or false"
	case holdsWord:
		how = orList(f.options)
	case holdsNumber:
		how = "digits, such as " + f.example()
	case holdsDuration:
		how = "numbers with a unit of ms, s, m, h or d, such as " + f.example()
	case holdsSize:
		how = "bytes, or a whole number with a unit of KB, MB, GB, TB, KiB, MiB, GiB or TiB, such as " + f.example()
	}
	return fmt.Sprintf("%s is not %s%s: give %s", setting.Quote(text), f.noun(), f.limits(), how)
}

func (f field) example() string {
	switch {
	case f.defaultValue != "":
		return f.defaultValue
	case f.holds == holdsSize:
		return "1GiB"
	default:
		return "24h"
	}
}

func (f field) limits() string {
	switch {
	case f.min != "" && f.max != "":
		return " from " + f.min + " to " + f.max
	case f.min != "" && f.defaultValue == "":
		return " of at least " + f.min + ", or 0"
	case f.min != "":
		return " of at least " + f.min
	default:
		return ""
	}
}

// checkText says what is wrong with the text of a value, by what it holds.
func checkText(holds, text string) string {
	switch holds {
	case holdsAddress:
		if _, _, ok := setting.SplitAddress(text); !ok {
			return setting.Quote(text) + " is not an address: give host:port, or :port for every interface, with a port from " +
				"0 to 65535, such as 127.0.0.1:8080"
		}
	case holdsPath:
		return checkPath(text)
	case holdsFile, holdsKey:
		return checkFile(text)
	case holdsDirectory:
		if info, err := os.Stat(text); err == nil && !info.IsDir() {
			return setting.Quote(text) + " is a file: give the path of a directory, such as /var/lib/fnbridge"
		}
	}
	return ""
}

// checkPath says what is wrong with a path of a URL. What would need escapes, or be a pattern to a router, is not
// allowed.
func checkPath(text string) string {
	parts := strings.Split(text, "/")
	for _, part := range parts[1:] {
		odd := strings.ContainsFunc(part, func(r rune) bool {
			return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("-._~", r)
		})
		if odd || part == "" || part == "." || part == ".." {
			parts = nil
			break
		}
	}
	if len(parts) < 2 || parts[0] != "" {
		return setting.Quote(text) + " is not a path: give a slash and a name, several one behind the other, of letters, " +
			"digits and - . _ ~, such as /webhooks/tensorlake"
	}
	if text == "/livez" {
		return setting.Quote(text) + " is what load balancers ask for: give another path, such as /webhooks/tensorlake"
	}
	return ""
}

func checkFile(path string) string {
	file, err := os.Open(path)
	if err != nil {
		return fileError(path, err).Error() + ": give the path of a file that this process may read"
	}
	defer func() { _ = file.Close() }()
	if info, err := file.Stat(); err == nil && info.IsDir() {
		return quotePath(path) + " is a directory: give the path of a file"
	}
	return ""
}

// quotePath quotes a path for a message. What begins like no path may be the secret that belongs into the file.
func quotePath(path string) string {
	if filepath.IsAbs(path) || strings.HasPrefix(path, ".") {
		return setting.Quote(path)
	}
	return "(not shown, as it begins neither with a / nor with a . and may be the secret itself)"
}
