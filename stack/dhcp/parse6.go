package dhcp

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/insomniacslk/dhcp/dhcpv6"
)

// parse6 reads a message that a client may send: identifiers, identity
// associations and addresses. Of other options only the codes are kept. The
// codec would read all of them, and refuse a message for one that nobody
// asked about; and lists of compressed names cost it 90 ms for 1,400 bytes.
func parse6(b []byte) (*dhcpv6.Message, error) {
	if len(b) > maxRequest || len(b) < dhcpv6.MessageHeaderSize {
		return nil, fmt.Errorf("parse dhcpv6 request: size of %d bytes", len(b))
	}
	m := &dhcpv6.Message{
		MessageType:   dhcpv6.MessageType(b[0]),
		TransactionID: dhcpv6.TransactionID(b[1:dhcpv6.MessageHeaderSize]),
	}
	switch m.MessageType {
	case dhcpv6.MessageTypeRelayForward, dhcpv6.MessageTypeRelayReply:
		return nil, errors.New("parse dhcpv6 request: relayed")
	}
	if err := m.Options.FromBytesWithParser(b[dhcpv6.MessageHeaderSize:], parseOption); err != nil {
		return nil, fmt.Errorf("parse dhcpv6 request: %w", err)
	}
	return m, nil
}

// parseOption reads an option of a message.
func parseOption(code dhcpv6.OptionCode, b []byte) (dhcpv6.Option, error) {
	const idSize, timesSize = 4, 8 // bytes of IAID; of T1 and T2
	switch code {
	case dhcpv6.OptionClientID, dhcpv6.OptionServerID:
		return dhcpv6.ParseOption(code, b)
	case dhcpv6.OptionIANA, dhcpv6.OptionIATA, dhcpv6.OptionIAPD:
		if len(b) < idSize {
			return nil, fmt.Errorf("%v: %w", code, io.ErrUnexpectedEOF)
		}
	}
	switch code {
	case dhcpv6.OptionIANA:
		if len(b) < idSize+timesSize {
			return nil, fmt.Errorf("%v: %w", code, io.ErrUnexpectedEOF)
		}
		ia := &dhcpv6.OptIANA{IaId: [4]byte(b[:idSize])}
		return ia, ia.Options.FromBytesWithParser(b[idSize+timesSize:], parseAddress)
	case dhcpv6.OptionIATA:
		return &dhcpv6.OptIATA{IaId: [4]byte(b[:idSize])}, nil
	case dhcpv6.OptionIAPD:
		return &dhcpv6.OptIAPD{IaId: [4]byte(b[:idSize])}, nil
	}
	return &dhcpv6.OptionGeneric{OptionCode: code}, nil
}

// parseAddress reads an option of an IA_NA. The lifetimes that a client
// wishes for do not matter.
func parseAddress(code dhcpv6.OptionCode, b []byte) (dhcpv6.Option, error) {
	const addrSize = 16
	if code != dhcpv6.OptionIAAddr {
		return &dhcpv6.OptionGeneric{OptionCode: code}, nil
	}
	if len(b) < addrSize {
		return nil, fmt.Errorf("%v: %w", code, io.ErrUnexpectedEOF)
	}
	return &dhcpv6.OptIAAddress{IPv6Addr: bytes.Clone(b[:addrSize])}, nil
}
