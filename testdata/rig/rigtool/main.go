// Command rigtool runs a program beside a KVM that can boot guests. Where the
// host's own /dev/kvm cannot, it boots a Debian kernel with kvm_amd in QEMU's
// emulator and runs the program there; inside that machine this same binary is
// PID 1. ../README.md is its manual.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Exit codes besides the command's own.
const (
	exitUsage   = 2   // bad flags
	exitHung    = 123 // the emulated machine does not answer any more, whatever the command does
	exitTimeout = 124 // the command ran out of time
	exitRig     = 125 // the rig itself went wrong
)

// list is a flag that may be given more than once.
type list []string

func (l *list) String() string     { return strings.Join(*l, " ") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

// options are the rig's flags.
type options struct {
	icount  bool          // count instructions instead of time
	cpus    int           // of the emulated machine
	memory  int           // of the emulated machine, in MiB
	limit   time.Duration // until the command is ended
	files   list          // SRC[:DEST]
	dirs    list          // DIR[:DEST]
	env     list          // K=V
	modules list          // kernel modules to load besides the usual
	kernel  bool          // only tell where the machine's kernel is
	verbose bool          // show the console and the phases
	argv    []string      // the command
}

func main() {
	if os.Getpid() == 1 {
		guestMain()
		return
	}
	code, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "rig:", err)
		if code == 0 {
			code = exitRig
		}
	}
	os.Exit(code)
}

func run(args []string) (int, error) {
	o, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return 0, nil
	}
	if err != nil {
		return exitUsage, err
	}
	if o.kernel {
		return printKernel()
	}
	things, err := o.things()
	if err != nil {
		return exitUsage, err
	}
	if !o.icount && os.Getenv("RIG_FORCE") == "" && hostCanBoot() {
		return runDirect(o, things)
	}
	return runEmulated(o, things)
}

func parse(args []string) (*options, error) {
	o := new(options)
	fs := flag.NewFlagSet("rig", flag.ContinueOnError)
	fs.BoolVar(&o.icount, "i", false, "count instructions: one virtual nanosecond each, one CPU")
	fs.IntVar(&o.cpus, "c", 1, "CPUs of the emulated machine")
	fs.IntVar(&o.memory, "m", 4096, "memory of the emulated machine in `MiB`")
	seconds := fs.Int("t", 600, "end the command after this many `seconds`; exit code 124")
	fs.Var(&o.files, "f", "put a file there: `SRC[:DEST]`, DEST defaults to /rig/NAME")
	fs.Var(&o.dirs, "d", "put a folder there: `DIR[:DEST]`, DEST defaults to /rig/NAME")
	fs.Var(&o.env, "e", "set an environment variable: `K=V`")
	fs.Var(&o.modules, "k", "load a kernel `module` of the emulated machine, such as erofs or loop")
	fs.BoolVar(&o.kernel, "kernel", false, "only print the path of the emulated machine's kernel, a bzImage, fetching it if need be")
	fs.BoolVar(&o.verbose, "v", false, "say how long each phase took; console to stderr")
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	o.limit = time.Duration(*seconds) * time.Second
	o.argv = fs.Args()
	switch {
	case o.kernel:
		return o, nil
	case len(o.argv) == 0:
		return nil, errors.New("no command")
	case o.cpus < 1 || o.cpus > 16:
		return nil, fmt.Errorf("%d CPUs: 1 to 16", o.cpus)
	case o.memory < 512:
		return nil, fmt.Errorf("%d MiB: the emulated machine needs 512", o.memory)
	case *seconds < 1:
		return nil, fmt.Errorf("%d seconds: at least 1", *seconds)
	}
	if o.icount {
		o.cpus = 1
	}
	if len(o.argv) == 1 { // one word may be a shell's whole line
		o.argv = []string{"/bin/sh", "-c", o.argv[0]}
	}
	return o, nil
}

// thing is a file or folder of the host and its place under /rig.
type thing struct {
	src  string
	dest string // absolute, clean
	dir  bool
}

// rigDir is where things are put, and the command's working folder.
const rigDir = "/rig"

// things resolves the -f and -d flags and checks that each exists.
func (o *options) things() ([]thing, error) {
	var all []thing
	add := func(arg string, dir bool) error {
		src, dest, given := strings.Cut(arg, ":")
		info, err := os.Stat(src)
		if err != nil {
			return err
		}
		if info.IsDir() != dir {
			return fmt.Errorf("%s: -f takes a file, -d a folder", src)
		}
		if src, err = filepath.Abs(src); err != nil {
			return err
		}
		if !given {
			dest = filepath.Base(src)
		}
		if !filepath.IsAbs(dest) {
			dest = filepath.Join(rigDir, dest)
		}
		all = append(all, thing{src, filepath.Clean(dest), dir})
		return nil
	}
	for _, f := range o.files {
		if err := add(f, false); err != nil {
			return nil, err
		}
	}
	for _, d := range o.dirs {
		if err := add(d, true); err != nil {
			return nil, err
		}
	}
	return all, nil
}
