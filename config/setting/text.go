package setting

import (
	"net"
	"strconv"
	"strings"
)

// List splits at commas, and drops white space around the parts and empty parts.
func List(value string) []string {
	var list []string
	for part := range strings.SplitSeq(value, ",") {
		if part = strings.TrimSpace(part); part != "" {
			list = append(list, part)
		}
	}
	return list
}

// SplitAddress splits host:port with a port from 0 to 65535. The host may be empty.
func SplitAddress(address string) (host string, port int, ok bool) {
	host, portText, err := net.SplitHostPort(address)
	if err != nil || strings.ContainsAny(host, " \t\r\n/\\@,") {
		return "", 0, false
	}
	n, err := strconv.ParseUint(portText, 10, 16)
	return host, int(n), err == nil
}

// Quote quotes a value for a message, and shortens it when it is long.
func Quote(text string) string {
	const most = 80
	if runes := []rune(text); len(runes) > most {
		return strconv.Quote(string(runes[:most])) + "…"
	}
	return strconv.Quote(text)
}
