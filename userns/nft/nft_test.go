package nft

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"syscall"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// A kernel is a transport that answers as nf_tables does. It refuses messages of
// kinds and with texts in them.
type kernel struct {
	refuse  map[string]syscall.Errno // by a text in the message
	dump    []netlink.Message
	silent  bool
	got     []netlink.Message
	answers []netlink.Message
}

func (k *kernel) SendMessages(messages []netlink.Message) error {
	k.got = append(k.got, messages...)
	for _, m := range messages {
		for text, errno := range k.refuse {
			if bytes.Contains(m.Data, []byte(text)) {
				k.answer(m, errno)
			}
		}
		if m.Header.Flags&netlink.Acknowledge != 0 && !k.silent {
			k.answer(m, 0)
		}
		if m.Header.Flags&netlink.Dump == netlink.Dump {
			for _, d := range k.dump {
				d.Header.Sequence = m.Header.Sequence
				k.answers = append(k.answers, d)
			}
		}
	}
	return nil
}

func (k *kernel) answer(m netlink.Message, errno syscall.Errno) {
	k.answers = append(k.answers, netlink.Message{
		Header: netlink.Header{Type: netlink.Error, Sequence: m.Header.Sequence},
		Data:   binary.NativeEndian.AppendUint32(nil, uint32(-int32(errno))),
	})
}

func (k *kernel) Receive() ([]netlink.Message, error) {
	if len(k.answers) == 0 {
		return nil, syscall.EAGAIN
	}
	first := k.answers[:1]
	k.answers = k.answers[1:]
	return first, nil
}

// testTable has a chain to jump to and a chain at a hook, with a rule each.
func testTable() Table {
	return Table{Family: unix.NFPROTO_IPV4, Name: "table9", Chains: []Chain{
		{Name: "side9", Rules: []Rule{{Name: "one", Exprs: Accept()}}},
		{Name: "main9", Type: "filter", Hook: unix.NF_INET_LOCAL_OUT, Priority: -90, Rules: []Rule{
			{Name: "two", Exprs: Jump("side9")},
		}},
	}}
}

func TestReplace(t *testing.T) {
	var k kernel
	if err := NewConn(&k).Replace([]Table{testTable()}); err != nil {
		t.Fatal(err)
	}
	want := []netlink.HeaderType{
		unix.NFNL_MSG_BATCH_BEGIN,
		nftType(unix.NFT_MSG_NEWTABLE), nftType(unix.NFT_MSG_DELTABLE), nftType(unix.NFT_MSG_NEWTABLE),
		nftType(unix.NFT_MSG_NEWCHAIN), nftType(unix.NFT_MSG_NEWCHAIN),
		nftType(unix.NFT_MSG_NEWRULE), nftType(unix.NFT_MSG_NEWRULE),
		unix.NFNL_MSG_BATCH_END,
	}
	var got []netlink.HeaderType
	for i, m := range k.got {
		got = append(got, m.Header.Type)
		if i > 0 && m.Header.Sequence != k.got[i-1].Header.Sequence+1 {
			t.Errorf("message %d: got sequence number %d after %d", i, m.Header.Sequence, k.got[i-1].Header.Sequence)
		}
		if int(m.Header.Length) != unix.NLMSG_HDRLEN+len(m.Data) || len(m.Data)%unix.NLMSG_ALIGNTO != 0 {
			t.Errorf("message %d: got length %d of %d bytes", i, m.Header.Length, len(m.Data))
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("got messages %#x, want %#x", got, want)
	}
}

func TestAmend(t *testing.T) {
	var k kernel
	old := Table{Family: unix.NFPROTO_IPV4, Name: "table9", Chains: []Chain{{Name: "old9", Rules: []Rule{{Name: "gone", Exprs: Accept()}}}}}
	if err := NewConn(&k).Amend([]Table{old}, []Table{testTable()}); err != nil {
		t.Fatal(err)
	}
	want := []netlink.HeaderType{
		unix.NFNL_MSG_BATCH_BEGIN,
		nftType(unix.NFT_MSG_DELRULE), nftType(unix.NFT_MSG_DELCHAIN),
		nftType(unix.NFT_MSG_NEWCHAIN), nftType(unix.NFT_MSG_NEWCHAIN),
		nftType(unix.NFT_MSG_NEWRULE), nftType(unix.NFT_MSG_NEWRULE),
		unix.NFNL_MSG_BATCH_END,
	}
	var got []netlink.HeaderType
	for _, m := range k.got {
		got = append(got, m.Header.Type)
	}
	if !slices.Equal(got, want) {
		t.Errorf("got messages %#x, want %#x", got, want)
	}
	k.refuse = map[string]syscall.Errno{"old9": syscall.ENOENT}
	err := NewConn(&k).Amend([]Table{old}, nil)
	if want := "rules of old9: no such file or directory"; err == nil || err.Error() != want {
		t.Errorf("refused: got %v, want %q", err, want)
	}
}

func TestHasOthers(t *testing.T) {
	table := func(name string) netlink.Message {
		a := newAttributes()
		a.String(unix.NFTA_TABLE_NAME, name)
		m, err := message(unix.NFT_MSG_NEWTABLE, unix.NFPROTO_INET, 0, a)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	done := netlink.Message{Header: netlink.Header{Type: netlink.Done}}
	short := table("table9")
	short.Data = short.Data[:3]
	for _, tt := range []struct {
		dump []netlink.Message
		want bool
	}{
		{nil, false},
		{[]netlink.Message{table("table9"), table("table9")}, false},
		{[]netlink.Message{table("table9"), table("table99")}, true},
		{[]netlink.Message{short}, true},
	} {
		k := kernel{dump: append(tt.dump, done)}
		if got, err := NewConn(&k).HasOthers("table9"); got != tt.want || err != nil {
			t.Errorf("%d tables: got %v, %v, want %v", len(tt.dump), got, err, tt.want)
		}
	}
}

func TestErrors(t *testing.T) {
	for _, tt := range []struct {
		refuse string
		errno  syscall.Errno
		want   string
	}{
		{"main9", syscall.ENOENT, "chain main9: no such file or directory"},
		{"side9", syscall.EOPNOTSUPP, "chain side9: operation not supported"},
		{"table9", syscall.EPERM, "table table9: operation not permitted"},
		{"immediate", syscall.ENOENT, "rule side9 one: no such file or directory"},
	} {
		k := kernel{refuse: map[string]syscall.Errno{tt.refuse: tt.errno}}
		c := NewConn(&k)
		err := c.Replace([]Table{testTable()})
		var e *Error
		if !errors.As(err, &e) || !errors.Is(err, tt.errno) || err.Error() != tt.want {
			t.Errorf("%s refused: got %v, want %q", tt.refuse, err, tt.want)
		}
		k.refuse = nil
		if err := c.Remove([]Table{testTable()}); err != nil {
			t.Errorf("after %s was refused: %v", tt.refuse, err)
		}
	}
	silent := kernel{silent: true}
	if err := NewConn(&silent).Remove([]Table{testTable()}); !errors.Is(err, syscall.EPROTO) {
		t.Errorf("no answer: got %v, want %v", err, syscall.EPROTO)
	}
}

func TestCount(t *testing.T) {
	rule := netlink.Message{Header: netlink.Header{Type: nftType(unix.NFT_MSG_NEWRULE)}}
	done := netlink.Message{Header: netlink.Header{Type: netlink.Done}}
	table := testTable()
	k := kernel{dump: []netlink.Message{rule, rule, done}}
	if n, err := NewConn(&k).Count(&table); n != table.Count() || err != nil {
		t.Errorf("got %d rules and error %v, want %d", n, err, table.Count())
	}
	cut := kernel{dump: []netlink.Message{rule}}
	if _, err := NewConn(&cut).Count(&table); err == nil {
		t.Error("dump without end: got no error")
	}
	k = kernel{refuse: map[string]syscall.Errno{"table9": syscall.EPERM}}
	if _, err := NewConn(&k).Count(&table); !errors.Is(err, syscall.EPERM) {
		t.Errorf("refused: got %v, want %v", err, syscall.EPERM)
	}
}
