package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// explainUsage makes a wrong command line an error of one line that says what is
// right, for a command and those below it. Cobra's own say only what is wrong.
func explainUsage(c *cobra.Command) {
	for _, sub := range c.Commands() {
		explainUsage(sub)
	}
	c.SetFlagErrorFunc(explainFlag)
	switch check := c.Args; {
	case check == nil && c.HasSubCommands():
		c.Args = unknownCommand
	case check != nil:
		c.Args = func(c *cobra.Command, args []string) error { return explainArgs(c, args, check) }
	}
}

// explainFlag says where to read of a flag, and what kind of value it takes in
// place of which of Go's functions refused the one given.
func explainFlag(c *cobra.Command, err error) error {
	var value *pflag.InvalidValueError
	var number *strconv.NumError
	var unknown *pflag.NotExistError
	if errors.As(err, &unknown) {
		if help := insteadOf(c, unknown); help != "" {
			return errors.New(prefix(c) + help)
		}
		return fmt.Errorf("%s%w: %ssee %s --help", prefix(c), err, didYouMean(likeFlags(c.Flags(), unknown)), c.CommandPath())
	}
	if errors.As(err, &value) && value.GetFlag().Value.Type() == "size" {
		return fmt.Errorf("%s--%s %q: want %w: see %s --help", prefix(c), value.GetFlag().Name, value.GetValue(), value.Unwrap(), c.CommandPath())
	}
	if errors.As(err, &value) && errors.As(err, &number) {
		return fmt.Errorf("%s--%s %q: want %s: see %s --help", prefix(c), value.GetFlag().Name, value.GetValue(), kindOf(value.GetFlag().Value.Type(), number.Err), c.CommandPath())
	}
	return fmt.Errorf("%s%w: see %s --help", prefix(c), err, c.CommandPath())
}

// kindOf puts the type of a flag whose value was refused for err in a user's words.
func kindOf(flagType string, err error) string {
	switch {
	case flagType == "bool":
		return "true or false"
	case errors.Is(err, strconv.ErrRange):
		return "a smaller number"
	case strings.HasPrefix(flagType, "float"):
		return "a number"
	}
	return "a whole number"
}

// called is what a command is called in errors: all its words but the program's, so
// that "volume ls" is told from "ls".
func called(c *cobra.Command) string {
	_, words, _ := strings.Cut(c.CommandPath(), " ")
	return words
}

// prefix is what an error of a command begins with.
func prefix(c *cobra.Command) string {
	if !c.HasParent() {
		return ""
	}
	return called(c) + ": "
}

// explainArgs tells of arguments that check refuses which of them is too much, or
// that there are too few. What a check of our own says, which begins with the
// command's name, stands.
func explainArgs(c *cobra.Command, args []string, check cobra.PositionalArgs) error {
	err := check(c, args)
	if err == nil || strings.HasPrefix(err.Error(), prefix(c)) {
		return err
	}
	for n := len(args) - 1; n >= 0; n-- {
		if check(c, args[:n]) == nil {
			return fmt.Errorf("%s%q is one argument too many: %s", prefix(c), args[n], usageLine(c))
		}
	}
	return errors.New(prefix(c) + "too few arguments: " + usageLine(c))
}

// usageLine is how to call a command; several ways in one line, too.
func usageLine(c *cobra.Command) string { return strings.ReplaceAll(c.UseLine(), "\n  ", ", or ") }

// unknownCommand tells of a word that is no command what it may have been, or, below
// a command that only holds others, which there are.
func unknownCommand(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if err := noCommand(c, args[0]); err != nil {
		return err
	}
	help := didYouMean(likeCommands(c, args[0]))
	if help == "" && c.HasParent() && c.HasSubCommands() {
		var names []string
		for _, sub := range c.Commands() {
			if sub.IsAvailableCommand() {
				names = append(names, sub.Name())
			}
		}
		help = "choose " + oneOf(names) + "; "
	}
	return fmt.Errorf("there is no command %q: %ssee %s --help", strings.TrimSpace(called(c)+" "+args[0]), help, c.CommandPath())
}

// helpCommand is cobra's, except that a word that is no command is an error.
func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]...",
		Short: "Show what a command does and its flags",
		Long:  "Shows what a command does, its flags and examples, as COMMAND --help does.",
		Example: `  boxlite help run
  boxlite help image save`,
		ValidArgsFunction: func(c *cobra.Command, args []string, typed string) (out []string, _ cobra.ShellCompDirective) {
			if at, rest, err := c.Root().Find(args); err == nil && len(rest) == 0 {
				for _, sub := range at.Commands() {
					if sub.IsAvailableCommand() {
						out = append(out, cobra.CompletionWithDesc(sub.Name(), sub.Short))
					}
				}
			}
			return beginning(out, typed), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(c *cobra.Command, args []string) error {
			at, rest, err := c.Root().Find(args)
			if err != nil {
				return err
			}
			if err := unknownCommand(at, rest); err != nil {
				return err
			}
			at.InitDefaultHelpFlag()
			return at.Help()
		},
	}
}
