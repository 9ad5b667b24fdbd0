// Command boxlite runs OCI images in micro-VMs.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
)

// Exit codes of our own; every other code is the command's in the box.
const (
	exitFailed = 125 // boxlite could not do it; see also exitSome
)

// exitError ends the program with a code, after a message where there is one.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

func main() {
	err := root().ExecuteContext(context.Background())
	os.Exit(exitCode(err))
}

// exitCode prints what there is to say of an error, and chooses the code.
func exitCode(err error) int {
	if err == nil {
		return 0
	}
	code := exitFailed
	var exit *exitError
	if errors.As(err, &exit) {
		code, err = exit.code, exit.err
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "boxlite: %v\n", err)
	}
	return code
}

func root() *cobra.Command {
	g := new(globalOptions)
	c := &cobra.Command{
		Use:   "boxlite",
		Short: "Run OCI images in micro-VMs of their own",
		Long: `boxlite runs any OCI image in its own hardware-isolated micro-VM: one static
binary, no daemon, no root.`,
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE:          func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	g.add(c)
	c.AddCommand(
		runCommand(g), createCommand(g), startCommand(g), attachCommand(g), logsCommand(g), waitCommand(g), execCommand(g),
		listCommand(g), inspectCommand(g), stopCommand(g), restartCommand(g), killCommand(g), removeCommand(g), renameCommand(g), eventsCommand(g),
		copyCommand(g), topCommand(g), statsCommand(g),
		pullCommand(g), listImagesCommand(g, "images"), imageCommand(g), removeImageCommand(g, "rmi"), pruneCommand(g), systemCommand(g), kernelCommand(g),
		infoCommand(g), vmCommand(), doctorCommand(), versionCommand(), completionCommand(),
	)
	c.SetHelpCommand(helpCommand())
	completeArguments(c, g)
	explainUsage(c)
	return c
}
