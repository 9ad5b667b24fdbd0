package main

import (
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// insteadFlags and insteadCommands are docker's that there are none of here, with what
// does the same. docs/CLI.md has them as a table.
var (
	insteadFlags = map[string]string{
		"env-file":    "give -e NAME=VALUE for each",
		"hostname":    "a box is called by its name: give --name",
		"restart":     "boxlite start starts a box again",
		"privileged":  "root has the box's kernel to itself as it is: leave it out",
		"publish-all": "give -p PORT for each",
		"P":           "give -p PORT for each",
	}
	insteadCommands = map[string]string{
		"container": "leave the word out: boxlite ls, boxlite rm",
		"login":     "credentials are those of docker login, or of any tool that writes docker's config.json",
		"logout":    "credentials are those of docker login, or of any tool that writes docker's config.json",
		"tag":       "an image keeps the name that it was pulled or loaded under",
		"push":      "boxlite save writes an archive, which other tools push",
	}
)

// insteadOf says what to give in place of a flag of docker's that a command that makes
// boxes has not; empty for all others.
func insteadOf(c *cobra.Command, unknown *pflag.NotExistError) string {
	word, dashes := unknown.GetSpecifiedName(), "--"
	if unknown.GetSpecifiedShortnames() != "" {
		dashes = "-"
	}
	help := insteadFlags[word]
	if help == "" || c.Flags().Lookup("env") == nil {
		return ""
	}
	return fmt.Sprintf("there is no %s%s: %s", dashes, word, help)
}

// noCommand says what to do in place of a command of docker's, nil for other words.
func noCommand(c *cobra.Command, word string) error {
	help := insteadCommands[word]
	if c.HasParent() || help == "" {
		return nil
	}
	return fmt.Errorf("there is no command %q: %s", word, help)
}
