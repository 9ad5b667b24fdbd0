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
// becomes one, before main and before most packages of the program. Go
// initialises packages in the order of their import paths as far as imports
// allow, and this path sorts before those of nearly all our dependencies, so
// that a VMM does not pay for them.
func init() {
	if len(os.Args) > 0 && strings.HasPrefix(os.Args[0], argv0) {
		os.Exit(childMain())
	}
}
