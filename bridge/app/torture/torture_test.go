//go:build linux

package torture
