package e2e

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"taproot/test/lab"
)

// serveWeb starts a web server on the outside, at every address of both
// families:
//
//	GET /bytes/N  N bytes that look random (see body)
//	PUT /hash     answers with the SHA-256 of what it got, in hexadecimal
//	GET /peer     answers with the client's address
func serveWeb(t *testing.T, n *lab.Namespace) net.Listener {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /bytes/{n}", func(w http.ResponseWriter, r *http.Request) {
		size, err := strconv.ParseInt(r.PathValue("n"), 10, 64)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Length", fmt.Sprint(size))
		io.Copy(w, body(size))
	})
	mux.HandleFunc("PUT /hash", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, hash(r.Body))
	})
	mux.HandleFunc("GET /peer", func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.RemoteAddr)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		fmt.Fprint(w, host)
	})
	return serveHandler(t, n, mux)
}

// serveHandler serves HTTP on a port of the kernel's choice until the test
// ends.
func serveHandler(t *testing.T, n *lab.Namespace, handler http.Handler) net.Listener {
	t.Helper()
	listener := n.Listen("tcp", ":0")
	server := &http.Server{Handler: handler}
	done := make(chan struct{})
	go func() {
		defer close(done)
		server.Serve(listener)
	}()
	t.Cleanup(func() { server.Close(); <-done })
	return listener
}

// body is n bytes of a stream that any loss, repetition or exchange of bytes
// changes.
func body(n int64) io.Reader { return io.LimitReader(&counterStream{}, n) }

// A counterStream is an endless row of 64-bit numbers, each a mix of its place.
type counterStream struct {
	next uint64
	word [8]byte
	left int // bytes of word not yet read
}

// Read never fails.
func (s *counterStream) Read(p []byte) (int, error) {
	for n := 0; n < len(p); {
		if s.left == 0 {
			s.next++
			binary.LittleEndian.PutUint64(s.word[:], s.next*0x9e3779b97f4a7c15) // Knuth's multiplicative hash
			s.left = len(s.word)
		}
		copied := copy(p[n:], s.word[len(s.word)-s.left:])
		s.left -= copied
		n += copied
	}
	return len(p), nil
}

// hash is the SHA-256 of everything r has, in hexadecimal.
func hash(r io.Reader) string {
	sum := sha256.New()
	if _, err := io.Copy(sum, r); err != nil {
		return err.Error()
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// serveTCP calls handle for each connection to a port of the kernel's choice,
// on a goroutine of its own, and closes the connection after it.
func serveTCP(t *testing.T, n *lab.Namespace, handle func(*net.TCPConn)) int {
	t.Helper()
	listener := n.Listen("tcp", ":0")
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				handle(conn.(*net.TCPConn))
			}()
		}
	}()
	return port(listener.Addr())
}

// echo sends back what it gets until the peer has nothing more to say.
func echo(conn *net.TCPConn) { io.Copy(conn, conn) }

// serveUDPEcho sends each datagram back to where it came from, from the very
// address it came to.
func serveUDPEcho(t *testing.T, n *lab.Namespace, address string) int {
	t.Helper()
	conn := n.ListenPacket("udp", address)
	go func() {
		b := make([]byte, 65536)
		for {
			size, peer, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			conn.WriteTo(b[:size], peer)
		}
	}()
	return port(conn.LocalAddr())
}

// bigText is an answer of a little over 4 KB.
var bigText = strings.Repeat(strings.Repeat("x", 250)+".", 16)

// serveDNS starts a name server on port 53 of an address, over UDP and TCP. It
// knows:
//
//	www.example.test   A, AAAA
//	big.example.test   TXT, a little over 4 KB
//	name.example.test  TXT: the name given to serveDNS
//	do.example.test    TXT: whether the query had the DO bit
//
// and answers NXDOMAIN for all others.
func serveDNS(t *testing.T, n *lab.Namespace, address, name string) {
	t.Helper()
	packets := n.ListenPacket("udp", net.JoinHostPort(address, "53"))
	listener := n.Listen("tcp", net.JoinHostPort(address, "53"))
	go func() {
		b := make([]byte, 65536)
		for {
			size, peer, err := packets.ReadFrom(b)
			if err != nil {
				return
			}
			if reply, err := answer(b[:size], name, true); err == nil {
				packets.WriteTo(reply, peer)
			}
		}
	}()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				for answerStream(conn, name) == nil {
				}
			}()
		}
	}()
}

// answerStream answers one query of a TCP connection (RFC 1035 section 4.2.2).
func answerStream(conn net.Conn, name string) error {
	var size uint16
	if err := binary.Read(conn, binary.BigEndian, &size); err != nil {
		return err
	}
	query := make([]byte, size)
	if _, err := io.ReadFull(conn, query); err != nil {
		return err
	}
	reply, err := answer(query, name, false)
	if err != nil {
		return err
	}
	_, err = conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...))
	return err
}

// answer makes the reply to a query; cut says whether it has to fit into what
// the query allows.
func answer(query []byte, name string, cut bool) ([]byte, error) {
	var q dnsmessage.Message
	if err := q.Unpack(query); err != nil {
		return nil, err
	}
	reply := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: q.ID, Response: true, RecursionDesired: q.RecursionDesired, RecursionAvailable: true},
		Questions: q.Questions,
	}
	limit, do := 512, false // RFC 1035 section 2.3.4
	for _, r := range q.Additionals {
		if r.Header.Type == dnsmessage.TypeOPT {
			limit, do = max(limit, int(r.Header.Class)), r.Header.DNSSECAllowed()
			reply.Additionals = append(reply.Additionals, r)
		}
	}
	for _, question := range q.Questions {
		records, ok := records(question, name, do)
		if !ok {
			reply.RCode = dnsmessage.RCodeNameError
		}
		reply.Answers = append(reply.Answers, records...)
	}
	b, err := reply.Pack()
	if err == nil && cut && len(b) > limit {
		reply.Truncated, reply.Answers = true, nil
		return reply.Pack()
	}
	return b, err
}

// rebound is the domain of names that map to the address that they have in them, as
// 192-0-2-1 below it does.
const rebound = "rebound.test"

// records are the answers to one question; ok says whether the name exists.
func records(q dnsmessage.Question, name string, do bool) (_ []dnsmessage.Resource, ok bool) {
	var body dnsmessage.ResourceBody
	switch owner := q.Name.String(); {
	case owner == "www.example.test." && q.Type == dnsmessage.TypeA:
		body = &dnsmessage.AResource{A: [4]byte(net.ParseIP(lab.Outside4).To4())}
	case owner == "www.example.test." && q.Type == dnsmessage.TypeAAAA:
		body = &dnsmessage.AAAAResource{AAAA: [16]byte(net.ParseIP(lab.Outside6))}
	case owner == "www.example.test.":
		return nil, true
	case owner == "big.example.test.":
		body = &dnsmessage.TXTResource{TXT: strings.SplitAfter(bigText, ".")}
	case strings.HasSuffix(owner, rebound+".") && q.Type == dnsmessage.TypeA:
		address, err := netip.ParseAddr(strings.ReplaceAll(strings.TrimSuffix(owner, "."+rebound+"."), "-", "."))
		if err != nil || !address.Is4() {
			return nil, false
		}
		body = &dnsmessage.AResource{A: address.As4()}
	case strings.HasSuffix(owner, rebound+"."):
		return nil, true
	case owner == "name.example.test.":
		body = &dnsmessage.TXTResource{TXT: []string{name}}
	case owner == "do.example.test.":
		body = &dnsmessage.TXTResource{TXT: []string{fmt.Sprintf("do=%v", do)}}
	default:
		return nil, false
	}
	header := dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 60}
	return []dnsmessage.Resource{{Header: header, Body: body}}, true
}
