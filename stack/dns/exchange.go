package dns

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
)

// overTCP asks server over a connection of its own and closes it.
func (f *Forwarder) overTCP(ctx context.Context, server netip.AddrPort, query []byte) ([]byte, error) {
	conn, reply, err := f.openTCP(ctx, server, query)
	if err != nil {
		return nil, err
	}
	conn.Close()
	return reply, nil
}

// openTCP asks server over a connection of its own, and returns it with the
// first message of the answer.
func (f *Forwarder) openTCP(ctx context.Context, server netip.AddrPort, query []byte) (net.Conn, []byte, error) {
	conn, err := f.dial(ctx, "tcp", server.String())
	if err != nil {
		return nil, nil, err
	}
	defer interrupt(ctx, conn)()
	reply, err := f.askTCP(conn, query)
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	return conn, reply, nil
}

func (f *Forwarder) askTCP(conn net.Conn, query []byte) ([]byte, error) {
	sent := withID(query, randomID())
	if err := writeMessage(conn, sent); err != nil {
		return nil, err
	}
	reply, err := readMessage(conn)
	if err != nil {
		return nil, err
	}
	if !isReply(sent, reply) {
		f.mismatched.Add(1)
		return nil, fmt.Errorf("read from %s: reply to another query", conn.RemoteAddr())
	}
	binary.BigEndian.PutUint16(reply, id(query))
	return reply, nil
}

// interrupt makes the end of ctx close conn, so that nothing blocks on it any
// more, until the caller calls release. Closing and not a deadline, because a
// deadline can be overwritten.
func interrupt(ctx context.Context, conn net.Conn) (release func()) {
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		conn.Close()
	})
	return func() {
		if !stop() {
			<-done
		}
	}
}

// readMessage reads one message of DNS over TCP: two bytes of length, then
// the message (RFC 1035 section 4.2.2). The error is io.EOF only if the other
// end closed between messages.
//
// Memory grows with what arrives, not with what the length promises.
func readMessage(r io.Reader) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	n := int64(binary.BigEndian.Uint16(size[:]))
	var b bytes.Buffer
	if _, err := io.CopyN(&b, r, n); err != nil {
		return nil, fmt.Errorf("read message of %d bytes: %w", n, noEOF(err))
	}
	return b.Bytes(), nil
}

// writeMessage writes b with its length in one piece, as RFC 7766 section 8
// asks for.
func writeMessage(w io.Writer, b []byte) error {
	if len(b) > maxMessage {
		return fmt.Errorf("write message of %d bytes: too long", len(b))
	}
	framed := make([]byte, 0, 2+len(b))
	framed = binary.BigEndian.AppendUint16(framed, uint16(len(b)))
	_, err := w.Write(append(framed, b...))
	return err
}

// noEOF makes the end in the middle of something an unexpected one.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

func randomID() uint16 {
	var b [2]byte
	rand.Read(b[:]) // never fails, see crypto/rand
	return binary.BigEndian.Uint16(b[:])
}
