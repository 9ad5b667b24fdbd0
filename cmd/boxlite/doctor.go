package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/anthropics/boxlite/pkg/kvm"
	"github.com/spf13/cobra"
)

// doctorLimit ends a probe of a host where even that hangs.
const doctorLimit = 30 * time.Second

func doctorCommand() *cobra.Command {
	var probe bool
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Tell whether this host can run boxes, and how fast",
		Long: `Opens /dev/kvm and runs tiny guests that do, one at a time, what a Linux kernel
does in kernel mode. Prints what is missing and what to do about it, and what a
guest instruction, an exit to the VMM and a port access cost here. The exit code
is 0 when boxes can run and 1 when they cannot.`,
		Example: "  boxlite doctor",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), doctorLimit)
			defer cancel()
			r, err := kvm.Probe(ctx)
			if err != nil {
				return &exitError{code: 1, err: fmt.Errorf("this host cannot run boxes: %w", err)}
			}
			if !probe {
				fmt.Fprint(&stdout, r)
			}
			if !r.Usable {
				if probe {
					return &exitError{code: 1, err: errors.New("this host cannot run boxes: boxlite doctor says why")}
				}
				return &exitError{code: 1, err: errors.New("this host cannot run boxes")}
			}
			return nil
		},
	}
	c.Flags().BoolVar(&probe, "probe", false, "print nothing but an error, for scripts")
	return c
}
