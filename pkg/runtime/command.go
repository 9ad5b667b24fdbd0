package runtime

import (
	"strings"
	"time"
)

// BoxCommand is a program to run in a box. Its methods return changed copies,
// so commands can be built in a chain and shared.
type BoxCommand struct {
	args       []string
	env        []EnvVar
	dir        string
	user       string
	timeout    time.Duration
	tty        bool
	rows, cols int
	stdin      bool
	detach     bool
}

// Command is a program, looked up in the box's PATH unless it has a slash, with
// its arguments. It has a standard input; see [BoxCommand.WithStdin].
func Command(name string, args ...string) BoxCommand {
	return BoxCommand{args: append([]string{name}, args...), stdin: true}
}

// Arg adds arguments.
func (c BoxCommand) Arg(args ...string) BoxCommand {
	c.args = append(append([]string(nil), c.args...), args...)
	return c
}

// Env sets an environment variable, over those of the box and the image.
func (c BoxCommand) Env(name, value string) BoxCommand {
	c.env = append(append([]EnvVar(nil), c.env...), EnvVar{name, value})
	return c
}

// WorkingDir sets the working directory, which is made when it does not exist.
func (c BoxCommand) WorkingDir(dir string) BoxCommand { c.dir = dir; return c }

// User runs the command as "name|uid[:group|gid]" of the image.
func (c BoxCommand) User(user string) BoxCommand { c.user = user; return c }

// Timeout ends the command and all its descendants after a time, with SIGTERM
// and two seconds later SIGKILL. Zero, the default, means no limit.
func (c BoxCommand) Timeout(d time.Duration) BoxCommand { c.timeout = d; return c }

// TTY gives the command a terminal of 24 by 80, or takes it away. With a
// terminal, standard error is part of standard output.
func (c BoxCommand) TTY(enable bool) BoxCommand {
	c.tty, c.rows, c.cols = enable, 24, 80
	return c
}

// WithTTY gives the command a terminal of a size.
func (c BoxCommand) WithTTY(rows, cols int) BoxCommand {
	c.tty, c.rows, c.cols = true, rows, cols
	return c
}

// WithStdin connects standard input, or leaves it empty.
func (c BoxCommand) WithStdin(connect bool) BoxCommand { c.stdin = connect; return c }

// Detached has the command live on when this process ends. Its streams are
// connected to nothing.
func (c BoxCommand) Detached() BoxCommand { c.detach = true; return c }

// Args returns program and arguments.
func (c BoxCommand) Args() []string { return append([]string(nil), c.args...) }

func (c *BoxCommand) check() error {
	if len(c.args) == 0 || c.args[0] == "" {
		return fail(ErrInvalidArgument, "the command is empty")
	}
	for _, a := range c.args {
		if strings.ContainsRune(a, 0) {
			return fail(ErrInvalidArgument, "argument %q holds a NUL", a)
		}
	}
	for _, e := range c.env {
		if err := e.check(); err != nil {
			return err
		}
	}
	if c.dir != "" && !strings.HasPrefix(c.dir, "/") {
		return fail(ErrInvalidArgument, "working directory %q is not absolute", c.dir)
	}
	if c.timeout < 0 {
		return fail(ErrInvalidArgument, "timeout of %v", c.timeout)
	}
	if c.tty && (c.rows < 0 || c.rows > 0xffff || c.cols < 0 || c.cols > 0xffff) {
		return fail(ErrInvalidArgument, "terminal of %d by %d", c.rows, c.cols)
	}
	return checkUser(c.user)
}
