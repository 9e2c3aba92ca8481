package apachekafka

import (
	"fmt"
	"runtime"
	"strconv"
	"syscall"
)

// port is a TCP port on 127.0.0.1 that is kept for a broker.
type port struct {
	number int
	socket int
}

// reservePort has the kernel pick a port and keeps it for the cluster's whole life, also while its broker is down:
// a socket stays bound to it without listening. Linux lets the broker listen there beside it, since both allow
// the address to be reused, and gives the port to nobody else. Elsewhere the port is free again at once.
func reservePort() (port, error) {
	syscall.ForkLock.RLock()
	socket, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(socket)
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return port{}, fmt.Errorf("making a socket: %w", err)
	}
	number, err := bindLoopback(socket)
	if err != nil || runtime.GOOS != "linux" {
		_ = syscall.Close(socket)
		socket = -1
	}
	if err != nil {
		return port{}, fmt.Errorf("reserving a port on 127.0.0.1: %w", err)
	}
	return port{number: number, socket: socket}, nil
}

func bindLoopback(socket int) (int, error) {
	if err := syscall.SetsockoptInt(socket, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err != nil {
		return 0, err
	}
	if err := syscall.Bind(socket, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return 0, err
	}
	bound, err := syscall.Getsockname(socket)
	if err != nil {
		return 0, err
	}
	address, ok := bound.(*syscall.SockaddrInet4)
	if !ok {
		return 0, fmt.Errorf("bound to %T", bound)
	}
	return address.Port, nil
}

func (p port) address() string { return "127.0.0.1:" + strconv.Itoa(p.number) }

func (p port) release() {
	if p.socket >= 0 {
		_ = syscall.Close(p.socket)
	}
}
