package ingest

import (
	"errors"
	"net"
	"os"
	"syscall"
)

// lastConnections closes l and returns the connections that nobody had accepted yet: closing a listener resets these,
// and with them a request that may be there. In the end there is no moment between looking and closing in which more
// than a few could come.
func lastConnections(l net.Listener) (last []net.Conn, err error) {
	tcp, ok := l.(syscall.Conn)
	if !ok {
		return nil, l.Close()
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	var sockets []int
	uncontrolled := raw.Control(func(fd uintptr) {
		for {
			socket, _, err := syscall.Accept4(int(fd), syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC)
			switch {
			case err == nil:
				sockets = append(sockets, socket)
			case !errors.Is(err, syscall.EINTR) && !errors.Is(err, syscall.ECONNABORTED):
				return
			}
		}
	})
	err = errors.Join(uncontrolled, l.Close())
	for _, socket := range sockets {
		file := os.NewFile(uintptr(socket), "")
		conn, failed := net.FileConn(file) // has a descriptor of its own
		err = errors.Join(err, failed, file.Close())
		if failed == nil {
			last = append(last, conn)
		}
	}
	return last, err
}
