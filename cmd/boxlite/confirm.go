package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"
)

// confirm asks on a terminal before much is removed. Where there is none only
// force goes on.
func confirm(command string, force bool, question string) error {
	switch {
	case force:
		return nil
	case !isTerminal(os.Stdin):
		return &exitError{exitFailed, fmt.Errorf("%s: nobody can be asked here: add -f to remove without a question", command)}
	}
	fmt.Fprintf(os.Stderr, "%s [y/N] ", question)
	answer, _ := bufio.NewReader(os.Stdin).ReadString('\n') // no answer is a no
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	return &exitError{exitSome, fmt.Errorf("%s: nothing was removed", command)}
}
