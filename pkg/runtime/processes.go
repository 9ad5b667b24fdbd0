package runtime

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"
)

// Process is a process of a box, as its guest tells it.
type Process struct {
	PID     int
	PPID    int
	UID     uint32        // effective user
	State   string        // a letter: R running, S sleeping, D waiting for a disk, Z ended, T stopped
	Threads int           //
	TTY     string        // controlling terminal, such as "pts/0"; empty for none
	RSS     int64         // bytes of RAM
	CPU     time.Duration // user and system time
	Start   time.Time     // by the host's clock
	Command string        // arguments with spaces between, "[name]" where there are none; at most 256 bytes, printable
}

// Processes lists the processes of a running box, by pid. The guest's kernel
// threads and agent are left out, and what is beyond 3072 processes. A box that
// does not run is ErrInvalidState.
func (b *LiteBox) Processes(ctx context.Context) ([]Process, error) {
	link, err := b.running(ctx, "list the processes")
	if err != nil {
		return nil, err
	}
	list, err := link.client.Processes(ctx)
	if err != nil {
		return nil, b.observeError(err, "list the processes")
	}
	out := make([]Process, 0, len(list.List))
	now := time.Now()
	for _, p := range list.List {
		out = append(out, Process{
			PID: int(p.PID), PPID: int(p.PPID), UID: p.UID, State: printable(string(rune(p.State))), Threads: int(min(p.Threads, 1<<30)),
			TTY: terminalName(p.TTY), RSS: int64(min(p.RSS, 1<<62)), CPU: max(p.CPU, 0),
			Start: now.Add(-max(max(list.Now, 0)-max(p.Start, 0), 0)), Command: printable(p.Command),
		})
	}
	slices.SortFunc(out, func(a, b Process) int { return cmp.Compare(a.PID, b.PID) })
	return out, nil
}

// terminalName names a terminal by its device number, as /proc/<pid>/stat has
// it: the minor number's bits are on both sides of the major's.
func terminalName(dev uint32) string {
	major, minor := dev>>8&0xfff, dev&0xff|dev>>12&0xfff00
	switch {
	case dev == 0:
		return ""
	case major >= 136 && major <= 143: // UNIX98_PTY_SLAVE_MAJOR, eight of them
		return fmt.Sprintf("pts/%d", (major-136)<<20|minor)
	case major == 4 && minor < 64:
		return fmt.Sprintf("tty%d", minor)
	case major == 4:
		return fmt.Sprintf("ttyS%d", minor-64)
	case major == 5 && minor == 1:
		return "console"
	case major == 229:
		return fmt.Sprintf("hvc%d", minor)
	}
	return fmt.Sprintf("%d:%d", major, minor)
}

// running connects to the guest of a box that runs, without starting it.
func (b *LiteBox) running(ctx context.Context, what string) (*guestLink, error) {
	row, err := b.rt.find(ctx, string(b.id))
	if err != nil {
		return nil, err
	}
	if s := BoxStatus(row.Status); !s.IsRunning() {
		return nil, fail(ErrInvalidState, "%s of box %s: it is %s, not running: start it first", what, b, s)
	}
	if l := b.currentLink(); l != nil {
		return l, nil
	}
	return b.connect(ctx)
}

func (b *LiteBox) observeError(err error, what string) error {
	return b.lost(err, fmt.Sprintf("%s of box %s", what, b))
}
