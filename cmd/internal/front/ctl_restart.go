package front

import (
	"context"
	"path/filepath"

	"github.com/spf13/cobra"

	"taproot/internal/api"
)

// restartCommand replaces an instance's engine.
func (x *ctl) restartCommand() *cobra.Command {
	var binary string
	c := &cobra.Command{
		Use: "restart", Args: noOperands, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, _ []string) error {
			return x.with(c.Context(), func(ctx context.Context, client *api.Client) error {
				return x.restart(ctx, client, binary)
			})
		},
	}
	c.Flags().StringVar(&binary, "binary", "", "program of the engine")
	c.Flags().Lookup("binary").DefValue = "the same as now"
	_ = c.MarkFlagFilename("binary") // fails only for a flag that is not there
	return c
}

// restart replaces the engine. The instance has a working directory of its own, so
// the path goes there as a whole.
func (x *ctl) restart(ctx context.Context, c *api.Client, binary string) error {
	if binary != "" {
		var err error
		if binary, err = filepath.Abs(binary); err != nil {
			return err
		}
	}
	info, err := c.Restart(ctx, binary)
	if err == nil && x.asJSON {
		x.printJSON(info)
	}
	return err
}
