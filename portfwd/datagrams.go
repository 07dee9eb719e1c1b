package portfwd

import (
	"time"

	"taproot/internal/socket"
)

// tickLength is how exact idle times are: a flow lives up to this much longer.
const tickLength = time.Second

type datagrams struct {
	publisher *Publisher
	poller    *socket.Poller
}

func newDatagrams(p *Publisher) (*datagrams, error) {
	poller, err := socket.NewPoller()
	return &datagrams{p, poller}, err
}
func (d *datagrams) listen(l *listener) error { return nil }
func (d *datagrams) close(l *listener)        {}
func (d *datagrams) read() error              { <-d.publisher.ctx.Done(); return nil }
func (d *datagrams) sweep()                   {}
func (d *datagrams) end()                     { d.poller.Close() }
