package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"syscall"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// A Transport is a socket of NETLINK_NETFILTER that is connected to the kernel.
// Receive does not wait: it returns EAGAIN if there is nothing.
type Transport interface {
	SendMessages([]netlink.Message) error
	Receive() ([]netlink.Message, error)
}

// A Conn changes tables of the network namespace of its transport. It is safe
// for concurrent use.
type Conn struct {
	mu sync.Mutex
	// +checklocks:mu
	transport Transport
	// +checklocks:mu
	sequence uint32
}

// NewConn makes a connection of a transport, which stays the caller's and must
// have no other user.
func NewConn(t Transport) *Conn { return &Conn{transport: t} }

// An Error says which object the kernel did not take.
type Error struct {
	Object string // "table NAME", "chain NAME", "rule CHAIN NAME"
	Err    error  // a syscall.Errno
}

// Error returns the message in the form "OBJECT: cause".
func (e *Error) Error() string { return e.Object + ": " + e.Err.Error() }

// Unwrap returns the kernel's error.
func (e *Error) Unwrap() error { return e.Err }

// Replace makes the tables, in the place of those of the same names: all, or
// none and an *Error.
func (c *Conn) Replace(tables []Table) error {
	var b batch
	for i := range tables {
		t := &tables[i]
		// Made if it is not there, so that it can be removed.
		err := errors.Join(b.table(unix.NFT_MSG_NEWTABLE, t), b.table(unix.NFT_MSG_DELTABLE, t), b.add(t))
		if err != nil {
			return err
		}
	}
	return c.commit(&b)
}

// Amend changes tables that are there, of which family and name count: the chains
// of remove go with their rules, then those of add are made; all of it, or nothing
// and an *Error. Other chains stay as they are, and where they are among those of
// the same hook and priority: one that is made is called before those that exist.
func (c *Conn) Amend(remove, add []Table) error {
	var b batch
	for i := range remove {
		if err := b.removeChains(&remove[i]); err != nil {
			return err
		}
	}
	for i := range add {
		if err := b.addChains(&add[i]); err != nil {
			return err
		}
	}
	return c.commit(&b)
}

// Remove removes the tables, of which only family and name count; those that are
// not there are no error.
func (c *Conn) Remove(tables []Table) error {
	var b batch
	for i := range tables {
		t := &tables[i]
		if err := errors.Join(b.table(unix.NFT_MSG_NEWTABLE, t), b.table(unix.NFT_MSG_DELTABLE, t)); err != nil {
			return err
		}
	}
	return c.commit(&b)
}

// Count returns how many rules the kernel has in a table of that family and
// name; none if there is no such table.
func (c *Conn) Count(t *Table) (int, error) {
	a := newAttributes()
	a.String(unix.NFTA_RULE_TABLE, t.Name)
	rules, err := c.dump(unix.NFT_MSG_GETRULE, unix.NFT_MSG_NEWRULE, t.Family, a)
	if err != nil {
		return 0, fmt.Errorf("count rules: %w", err)
	}
	return len(rules), nil
}

// HasOthers tells whether the kernel has a table, of any family, with another
// name.
func (c *Conn) HasOthers(name string) (bool, error) {
	tables, err := c.dump(unix.NFT_MSG_GETTABLE, unix.NFT_MSG_NEWTABLE, unix.AF_UNSPEC, newAttributes())
	if err != nil {
		return false, fmt.Errorf("list tables: %w", err)
	}
	for _, m := range tables {
		if tableName(m) != name {
			return true, nil
		}
	}
	return false, nil
}

// tableName returns the name in a message about a table, or "".
func tableName(m netlink.Message) string {
	if len(m.Data) < headerSize {
		return ""
	}
	a, err := netlink.NewAttributeDecoder(m.Data[headerSize:])
	if err != nil {
		return ""
	}
	for a.Next() {
		if a.Type() == unix.NFTA_TABLE_NAME {
			return a.String()
		}
	}
	return ""
}

// dump returns the kernel's answers of a kind to a question about all there is.
func (c *Conn) dump(question, answer uint16, family uint8, a *netlink.AttributeEncoder) ([]netlink.Message, error) {
	m, err := message(question, family, netlink.Request|netlink.Dump, a)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sequence++
	m.Header.Sequence = c.sequence
	if err := c.transport.SendMessages([]netlink.Message{m}); err != nil {
		return nil, err
	}
	var found []netlink.Message
	for {
		answers, err := c.transport.Receive()
		if err != nil {
			return nil, err
		}
		for _, m := range answers {
			switch {
			case m.Header.Sequence != c.sequence:
			case m.Header.Type == netlink.Done:
				return found, nil
			case m.Header.Type == netlink.Error:
				return nil, errno(m)
			case m.Header.Type == nftType(answer):
				found = append(found, m)
			}
		}
	}
}

// commit sends a batch. The kernel has done it, or not, and answered, when it has
// been sent.
func (c *Conn) commit(b *batch) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	messages := b.sealed()
	first := c.sequence + 1
	for i := range messages {
		c.sequence++
		messages[i].Header.Sequence = c.sequence
	}
	if err := c.transport.SendMessages(messages); err != nil {
		return fmt.Errorf("change rules: %w", err)
	}
	var failed error
	acknowledged := false
	for {
		answers, err := c.transport.Receive()
		if errors.Is(err, syscall.EAGAIN) {
			break
		}
		if err != nil {
			return fmt.Errorf("change rules: %w", err)
		}
		for _, m := range answers {
			i := m.Header.Sequence - first
			if m.Header.Type != netlink.Error || i >= uint32(len(messages)) {
				continue
			}
			if err := errno(m); err != nil && failed == nil {
				failed = &Error{b.object(i), err}
			}
			acknowledged = true
		}
	}
	if failed == nil && !acknowledged {
		return fmt.Errorf("change rules: no answer: %w", syscall.EPROTO)
	}
	return failed
}

// errno returns the error of a message that says whether one was taken; nil if
// it was.
func errno(m netlink.Message) error {
	if len(m.Data) < 4 {
		return syscall.EPROTO
	}
	if n := int32(binary.NativeEndian.Uint32(m.Data)); n != 0 {
		return syscall.Errno(-n)
	}
	return nil
}
