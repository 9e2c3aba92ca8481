package nats

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

const (
	// maxHead is more than a server, or a proxy before it, has to say when it takes a WebSocket.
	maxHead = 64 << 10
	// frameHeader is the size of the header of a frame that the guard makes, and maxControl that of the longest frame
	// between those with data.
	frameHeader = 4
	maxControl  = 2 + 125
)

// errControl ends a read at a frame that is none of data.
var errControl = errors.New("a frame of control has come")

// readWebSocket hands on the answer to the handshake, and then what comes in frames, checked as if it came without
// them, in frames of its own: they claim no more than they have.
func (g *guard) readWebSocket(p []byte) (int, error) {
	for len(g.framed) == 0 {
		if refused := g.refused.Load(); refused != nil {
			return 0, *refused
		}
		if g.frames == nil {
			head, err := g.head()
			if err != nil {
				return 0, err
			}
			g.framed = head
			continue
		}
		n, err := g.read(g.buf[frameHeader : len(g.buf)-maxControl])
		if n > 0 {
			g.framed = g.buf[:frameHeader+n]
			g.framed[0], g.framed[1] = 0x82, 126                // all of a binary message, with its size in two bytes
			binary.BigEndian.PutUint16(g.framed[2:], uint16(n)) //nolint:gosec // the buffer is smaller
		}
		if errors.Is(err, errControl) {
			g.framed = append(g.framed, g.frames.control...)
		} else if n == 0 {
			return 0, err
		}
	}
	n := copy(p, g.framed)
	g.framed = g.framed[n:]
	return n, nil
}

// head reads the answer to the handshake. Behind one that does not take the WebSocket there is nothing of interest.
func (g *guard) head() ([]byte, error) {
	var head []byte
	for {
		line, err := g.in.ReadSlice('\n')
		head = append(head, line...)
		switch {
		case len(head) >= len("HTTP/") && !bytes.HasPrefix(head, []byte("HTTP/")):
			g.bare.Store(bytes.HasPrefix(head, []byte(greeting)))
			return nil, g.refuse(fmt.Errorf("it answers %s, which is no WebSocket; check the address and its port",
				quoted(bytes.TrimRight(head, "\r\n"))))
		case len(head) > maxHead:
			return nil, g.refuse(fmt.Errorf("its answer does not begin within %d bytes of headers", maxHead))
		case err != nil && !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		case err == nil && len(bytes.TrimRight(line, "\r\n")) == 0:
			g.frames = &frames{in: g.in, guard: g}
			_, status, _ := bytes.Cut(head, []byte(" "))
			if !bytes.HasPrefix(status, []byte("101")) {
				g.frames.in = bufio.NewReader(bytes.NewReader(nil))
			}
			g.in = bufio.NewReaderSize(g.frames, g.frames.in.Size())
			g.buf = make([]byte, frameHeader+g.in.Size()+maxControl)
			return head, nil
		}
	}
}

// frames reads what is in the frames of a WebSocket.
type frames struct {
	in    *bufio.Reader
	guard *guard
	rest  uint64 // of a frame, to be read
	// control is the frame that ended a read with errControl, until the next read.
	control []byte
	space   [maxControl]byte // where it is, and the headers
}

// Read does not care how a message is spread over frames: NATS does not either.
func (f *frames) Read(p []byte) (int, error) {
	for f.rest == 0 {
		if err := f.next(); err != nil {
			return 0, err
		}
	}
	n, err := f.in.Read(p[:min(uint64(len(p)), f.rest)])
	f.rest -= uint64(n) //nolint:gosec // it is not negative
	return n, err
}

// next reads the header of a frame, and all of one of control.
func (f *frames) next() error {
	header := f.space[:2]
	if _, err := io.ReadFull(f.in, header); err != nil {
		return err
	}
	kind, size := header[0]&0x0f, header[1]
	isControl := kind >= 8
	switch {
	// Compression has a bit of its own there, and was not asked for. A mask is the client's.
	case header[0]&0x70 != 0, size > 127, kind > 2 && kind < 8, kind > 10,
		isControl && (header[0]&0x80 == 0 || size > 125):
		return f.guard.refuse(fmt.Errorf("a frame of its WebSocket begins with %s, as none does", quoted(header)))
	case isControl:
		f.control = f.space[:2+size]
		if _, err := io.ReadFull(f.in, f.control[2:]); err != nil {
			return err
		}
		return errControl
	case size >= 126: // the size follows
		long := f.space[2 : 2+2]
		if size == 127 {
			long = f.space[2 : 2+8]
		}
		if _, err := io.ReadFull(f.in, long); err != nil {
			return err
		}
		for _, b := range long {
			f.rest = f.rest<<8 | uint64(b)
		}
		return nil
	default:
		f.rest = uint64(size)
		return nil
	}
}
