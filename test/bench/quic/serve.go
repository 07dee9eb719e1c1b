package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"math/big"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
)

// serve answers requests until ctx ends. It owns a goroutine for each
// connection.
func serve(ctx context.Context, address string) error {
	certificate, err := newCertificate()
	if err != nil {
		return err
	}
	config := &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{protocol}}
	listener, err := quic.ListenAddr(address, config, nil)
	if err != nil {
		return err
	}
	defer listener.Close()
	return accept(ctx, listener)
}

// accept serves the connections of listener until ctx ends.
func accept(ctx context.Context, listener *quic.Listener) error {
	var group sync.WaitGroup
	defer group.Wait()
	for {
		conn, err := listener.Accept(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		group.Go(func() {
			defer context.AfterFunc(ctx, func() { conn.CloseWithError(0, "the server ends") })()
			// A transfer that fails is reported by the client.
			if err := answer(ctx, conn); err != nil {
				conn.CloseWithError(1, err.Error())
			}
		})
	}
}

// answer is the server's part of a request.
func answer(ctx context.Context, conn *quic.Conn) error {
	stream, err := conn.AcceptStream(ctx)
	if err != nil {
		return err
	}
	asked, err := readRequest(stream)
	if err != nil {
		return err
	}
	if asked.down {
		send(stream)
		return nil
	}
	got, err := receive(stream, asked)
	if err != nil {
		return err
	}
	stream.CancelRead(0)
	if err := binary.Write(stream, binary.BigEndian, got); err != nil {
		return err
	}
	if err := stream.Close(); err != nil {
		return err
	}
	<-conn.Context().Done() // the client closes
	return nil
}

// newCertificate makes a key and signs it with itself.
func newCertificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour)}
	signed, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{signed}, PrivateKey: key}, nil
}
