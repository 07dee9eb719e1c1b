package front

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"

	"github.com/spf13/cobra"

	"taproot/cmd/internal/caller"
	"taproot/internal/api"
)

// A publishing is what `ctl publish` is asked for.
type publishing struct {
	ports, reach []string
	fd           int // of a socket, -1 for none
}

func (x *ctl) publishCommand() *cobra.Command {
	var p publishing
	c := &cobra.Command{
		Use:               "publish",
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, operands []string) error {
			p.ports = operands
			if err := p.check(); err != nil {
				return err
			}
			return x.with(c.Context(), func(ctx context.Context, client *api.Client) error {
				rules, err := p.publish(ctx, client)
				if err == nil {
					x.show(rules, func() { x.printRules(&rules) })
				}
				return err
			})
		},
	}
	c.Flags().StringArrayVar(&p.reach, "reach", nil, "port of the host on the guest's loopback")
	c.Flags().Lookup("reach").DefValue = "none"
	p.fd = -1
	c.Flags().Var(&value[int]{result: &p.fd, preset: "none", kind: "NUMBER", parse: last(parseDescriptor)}, "fd", "socket to listen with")
	return c
}

func parseDescriptor(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 || n > math.MaxInt32 {
		return 0, errors.New("not the number of a descriptor")
	}
	return n, nil
}

// check finds what is wrong although each word by itself is right.
func (p *publishing) check() error {
	if len(p.ports)+len(p.reach) == 0 {
		return &misuse{errors.New("publish: a port is missing"), "for example: taproot ctl publish 8080:80"}
	}
	if p.fd >= 0 && (len(p.ports) != 1 || len(p.reach) > 0) {
		return &misuse{errors.New("publish --fd: one port expected"), "for example: taproot ctl publish --fd=3 80"}
	}
	return nil
}

// publish publishes what is asked for.
func (p *publishing) publish(ctx context.Context, c *api.Client) (api.Rules, error) {
	what := api.Publication{Publish: p.ports, Reach: p.reach}
	if p.fd < 0 {
		return c.Publish(ctx, what)
	}
	f, err := caller.Take(p.fd).File()
	if err != nil {
		return api.Rules{}, &explained{fmt.Errorf("publish --fd: %w", err), "the caller leaves a socket open under this number"}
	}
	defer f.Close()
	return c.Adopt(ctx, what, f)
}
