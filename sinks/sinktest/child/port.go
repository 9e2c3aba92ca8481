package child

import (
	"fmt"
	"runtime"
	"strconv"
	"syscall"
)

// Port is a TCP port on 127.0.0.1 that is kept for a server.
type Port struct {
	number int
	socket int
}

// ReservePort has the kernel pick a port and keeps it until it is released, also while its server is down: a socket
// stays bound to it without listening. Linux lets a server listen there beside it that allows the address to be reused,
// and gives the port to nobody else. Elsewhere the port is free again at once.
func ReservePort() (Port, error) {
	syscall.ForkLock.RLock()
	socket, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(socket)
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return Port{}, fmt.Errorf("making a socket: %w", err)
	}
	number, err := bindLoopback(socket)
	if err != nil || runtime.GOOS != "linux" {
		_ = syscall.Close(socket)
		socket = -1
	}
	if err != nil {
		return Port{}, fmt.Errorf("reserving a port on 127.0.0.1: %w", err)
	}
	return Port{number: number, socket: socket}, nil
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

// Address is 127.0.0.1 and the port.
func (p Port) Address() string { return "127.0.0.1:" + strconv.Itoa(p.number) }

// Release gives the port back.
func (p Port) Release() {
	if p.socket >= 0 {
		_ = syscall.Close(p.socket)
	}
}
