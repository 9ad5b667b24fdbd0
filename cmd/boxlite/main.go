// Command boxlite runs OCI images in micro-VMs.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
)

// Exit codes of our own, as docker has them; every other code is the command's in
// the box. See docs/CLI.md.
const (
	exitSome   = 1   // what was asked for could not be done, for some boxes or all
	exitFailed = 125 // the command line is wrong, or boxlite run did not get to its command
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

// exitCode prints what there is to say of an error, and chooses the code. That
// standard output could not be written is an error, too, unless its reader left.
func exitCode(err error) int {
	if out := stdout.failure(); out != nil && !errors.Is(err, out) {
		switch {
		case readerLeft(out): // whatever else follows from that
		case err == nil:
			err = out
		default:
			warn(out)
		}
	}
	if err == nil || readerLeft(err) {
		return 0
	}
	code := exitFailed
	var exit *exitError
	switch {
	case errors.As(err, &exit):
		code, err = exit.code, exit.err
	case errors.As(err, new(*stdoutError)): // what was asked for is done
		code = exitSome
	}
	warn(err)
	return code
}

// chooseCodes gives the errors of a command, and of those below it, the code of
// docs/CLI.md: exitSome for what the command could not do, once it knew what was
// asked. What comes before, and all of it for commands whose other codes are those
// of a command in a box, is exitFailed.
func chooseCodes(c *cobra.Command, g *globalOptions) {
	for _, sub := range c.Commands() {
		chooseCodes(sub, g)
	}
	run := c.RunE
	if run == nil || c.Parent() == c.Root() && (c.Name() == "run" || c.Name() == "create") {
		return
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		err := run(c, args)
		var exit *exitError
		var wrong *formatError
		switch {
		case err == nil, errors.As(err, &exit), errors.As(err, new(*stdoutError)):
			return err
		case errors.As(err, &wrong):
			return fmt.Errorf("%s%w", prefix(c), wrong)
		case !g.opened:
			return err
		}
		return &exitError{exitSome, err}
	}
}

func root() *cobra.Command {
	g := new(globalOptions)
	c := &cobra.Command{
		Use:   "boxlite",
		Short: "Run OCI images in micro-VMs of their own",
		Long: `boxlite runs any OCI image in its own hardware-isolated micro-VM: one static
binary, no daemon, no root.

Exit codes are docker's: 0 when all was done; 1 when something that was asked for
could not be done, as with a box that is not there, or that its output could not
be written; 125 when the command line is wrong, or the home directory cannot be
opened. What boxlite run, start -a, attach
and exec end with is the code of the command in the box, 128+n when signal n ended
it, 127 and 126 when it could not be found or executed; boxlite run and create
have 125 where others have 1.`,
		Version:       versionString(),
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE:          func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	g.add(c)
	c.AddCommand(
		runCommand(g), createCommand(g), startCommand(g), attachCommand(g), logsCommand(g), waitCommand(g), execCommand(g),
		listCommand(g), inspectCommand(g), stopCommand(g), restartCommand(g), killCommand(g), removeCommand(g), renameCommand(g), eventsCommand(g),
		copyCommand(g), topCommand(g), statsCommand(g), portCommand(g), networkCommand(g), volumeCommand(g),
		pullCommand(g), listImagesCommand(g, "images"), imageCommand(g), removeImageCommand(g, "rmi"), saveCommand(g), loadCommand(g), pruneCommand(g), systemCommand(g), kernelCommand(g),
		infoCommand(g), vmCommand(), doctorCommand(), versionCommand(), completionCommand(),
	)
	c.SetHelpCommand(helpCommand())
	c.SetOut(&stdout)
	completeArguments(c, g)
	explainUsage(c)
	chooseCodes(c, g)
	return c
}
