//go:build !linux && !darwin

package volume

func spaceOf(string) (Space, bool) { return Space{}, false }

func networkOf(string) string { return "" }
