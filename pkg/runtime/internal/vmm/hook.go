package vmm

import (
	"os"
	"strings"
)

// argv0 marks a process that is a VMM. The box's id follows, for `ps`.
const argv0 = "boxlite-vmm:"

// A program that imports the runtime needs a VMM process and has none to start
// but itself, and its author should not have to call anything. So this is the
// one init function with an effect: where the process was started as a VMM it
// becomes one, before any other package of the program gets to run. The import
// path sorts before those of all our dependencies, which Go initialises in that
// order, so a VMM does not pay for them either.
func init() {
	if strings.HasPrefix(os.Args[0], argv0) {
		os.Exit(childMain())
	}
}
