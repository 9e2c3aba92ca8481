package nats

import "net"

// Guard puts a guard before a connection.
func Guard(conn net.Conn) net.Conn { return newGuard(conn) }
