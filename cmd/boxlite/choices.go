package main

import "fmt"

// choices are the options that were given in one value of a flag, by what each is
// about. Saying the same twice does no harm; two meanings are a mistake, of which
// neither must win in silence.
type choices map[string]choice

// choice is an option's meaning, and the words for it.
type choice struct{ meaning, words string }

// add is an error where another meaning was chosen before.
func (c choices) add(about, meaning, words string) error {
	if old, ok := c[about]; ok && old.meaning != meaning {
		return fmt.Errorf("%q and %q contradict each other: leave one of them out", old.words, words)
	}
	c[about] = choice{meaning, words}
	return nil
}
