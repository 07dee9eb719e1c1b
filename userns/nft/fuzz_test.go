package nft

import (
	"errors"
	"syscall"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// A parrot is a transport that answers each question with the next of its packets.
type parrot struct{ packets [][]netlink.Message }

func (p *parrot) SendMessages([]netlink.Message) error { return nil }

func (p *parrot) Receive() ([]netlink.Message, error) {
	if len(p.packets) == 0 {
		return nil, syscall.EAGAIN
	}
	next := p.packets[0]
	p.packets = p.packets[1:]
	return next, nil
}

// FuzzAnswers has the kernel say anything, in the guest's namespace, where modules and
// versions may be other ones: answers are understood or an error, and come to an end.
func FuzzAnswers(f *testing.F) {
	table := append([]byte{unix.AF_INET, 0, 0, 0}, 9, 0, unix.NFTA_TABLE_NAME, 0, 'n', 'a', 't', 'v', 0, 0, 0, 0)
	f.Add(uint16(nftType(unix.NFT_MSG_NEWTABLE)), uint32(1), table, true)
	f.Add(uint16(nftType(unix.NFT_MSG_NEWRULE)), uint32(1), table, true)
	f.Add(uint16(netlink.Error), uint32(2), []byte{0xff, 0xff, 0xff, 0xff}, false)
	f.Add(uint16(netlink.Error), uint32(2), []byte{0, 0, 0, 0}, false)
	f.Add(uint16(netlink.Error), uint32(0xffffffff), []byte{1}, false)
	f.Add(uint16(netlink.Done), uint32(1), []byte{}, true)
	f.Fuzz(func(t *testing.T, kind uint16, sequence uint32, data []byte, done bool) {
		for _, ask := range []func(*Conn) error{
			func(c *Conn) error { _, err := c.HasOthers("name"); return err },
			func(c *Conn) error { _, err := c.Count(&Table{Family: unix.AF_INET, Name: "name"}); return err },
			func(c *Conn) error { return c.Replace([]Table{{Family: unix.AF_INET, Name: "name"}}) },
		} {
			answers := []netlink.Message{{Header: netlink.Header{Type: netlink.HeaderType(kind), Sequence: sequence}, Data: data}}
			if done {
				answers = append(answers, netlink.Message{Header: netlink.Header{Type: netlink.Done, Sequence: 1}})
			}
			err := ask(NewConn(&parrot{[][]netlink.Message{answers}}))
			if refused := (*Error)(nil); errors.As(err, &refused) && refused.Object == "" {
				t.Errorf("got %v, want what was refused", err)
			}
		}
	})
}
