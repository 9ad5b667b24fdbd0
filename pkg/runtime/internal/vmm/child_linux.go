package vmm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"github.com/anthropics/boxlite/pkg/hv"
	"github.com/anthropics/boxlite/pkg/machine"
	"github.com/anthropics/boxlite/pkg/runtime/internal/boxlog"
	"github.com/anthropics/boxlite/pkg/virtio/fs"
	"golang.org/x/sys/unix"
)

// heapLimit keeps the VMM's own memory near its working set; guest RAM is not heap.
const heapLimit = 16 << 20

// networkHeapLimit is for boxes with a network: what connections have in flight is
// on the heap, and collecting it all the time would cost more than it saves.
const networkHeapLimit = 64 << 20

// child is the VMM process at work.
type child struct {
	cfg     Config
	log     *slog.Logger
	parent  *parentLink
	console *console
	devices devices
	network *network     // nil for none
	mapped  []*fs.Device // the volumes whose files belong to the box's user
	m       *machine.Machine
	socket  *bridge
	command *supervisor // nil without a main command
	output  *boxlog.Writer
	stops   chan time.Duration // a request to stop, with its grace; has room for one

	mu       sync.Mutex
	stage    Stage
	cause    Cause // first one wins
	why      error
	patience *patience // of the stop under way
	adopted  bool      // the parent's death does not matter any more
}

// childMain is the whole life of a VMM process. Its result is the exit code:
// 0 when the VM ended as somebody wanted.
func childMain() int {
	debug.SetMemoryLimit(heapLimit)
	c := &child{log: slog.New(slog.NewTextHandler(os.Stderr, nil)), parent: newParentLink(controlFD), stops: make(chan time.Duration, 1)}
	if err := readFrame(c.parent.conn, &c.cfg); err != nil {
		fmt.Fprintln(os.Stderr, "boxlite-vmm: this program is started by boxlite, not by hand:", err)
		return 125
	}
	// A running vCPU holds a P until the scheduler takes it back, which would
	// make devices wait; with a P each they never do.
	runtime.GOMAXPROCS(max(runtime.NumCPU(), c.cfg.CPUs+2))
	go c.parent.watch()
	c.reached(Event{Stage: StageSpawn})
	outcome := c.run()
	r := c.report(outcome)
	c.parent.send(Event{Stage: StageEnd, At: Now(), Report: r})
	c.cleanUp(r)
	if !r.Clean() {
		return 1
	}
	return 0
}

// reached notes a stage and tells the parent.
func (c *child) reached(e Event) {
	e.At = Now()
	c.mu.Lock()
	c.stage = e.Stage
	c.mu.Unlock()
	c.parent.send(e)
}

// noteCause remembers why the VM ends. Only the first cause counts.
func (c *child) noteCause(cause Cause, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause == "" {
		c.cause, c.why = cause, err
	}
}

// end notes why the VM ends and stops it.
func (c *child) end(cause Cause, err error) {
	c.noteCause(cause, err)
	if c.m != nil {
		c.m.Stop()
	}
}

// run builds the VM and lets it run to its end.
func (c *child) run() machine.Outcome {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	// The terminal's signals are the caller's business; SIGTERM asks for an orderly end.
	signal.Ignore(unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGPIPE)
	terms := make(chan os.Signal, 1)
	signal.Notify(terms, unix.SIGTERM)

	if err := c.build(); err != nil {
		c.end(CauseConfig, err)
		return machine.Outcome{}
	}
	built := Event{Stage: StageBuild}
	if c.network != nil {
		built.Ports = c.network.ports()
	}
	c.reached(built)
	agent, err := newAgentLink(c)
	if err == nil && c.cfg.Main != nil {
		c.output = boxlog.NewWriter(c.cfg.Dir)
		c.command = newSupervisor(c.cfg.Main, c.output)
	}
	if err != nil {
		c.end(CauseConfig, err)
		c.free()
		return machine.Outcome{}
	}
	var helpers sync.WaitGroup
	helpers.Go(func() { agent.serve(ctx) })
	helpers.Go(func() { c.socket.serve(ctx) })
	helpers.Go(func() { c.watchProgress(ctx, agent.ready) })
	helpers.Go(func() { c.watchEnd(ctx, agent, terms) })
	if c.command != nil {
		helpers.Go(func() { c.runMain(ctx, agent) })
	}
	c.reached(Event{Stage: StageGuest})
	outcome, err := c.m.Run(ctx)
	if err != nil {
		c.end(CauseFailed, err)
	}
	c.parent.send(Event{Stage: StageDown, At: Now()}) // no stage of its own: a report names what was reached before
	cancel()
	c.free()
	helpers.Wait() // each ends with ctx, with the socket, or with its connections
	return outcome
}

// free closes what build made. The connections of the guest end with its
// devices, and with them whoever waits for one.
func (c *child) free() {
	c.socket.close()
	if c.command != nil {
		c.command.close()
	}
	if err := errors.Join(c.m.Close(), c.devices.close(), c.closeNetwork()); err != nil {
		c.log.Warn("close the machine", "error", err)
	}
}

// build makes devices, machine and socket; what it made is freed when it fails.
func (c *child) build() (err error) {
	if c.console, err = newConsole(ConsolePath(c.cfg.Dir)); err != nil {
		return fmt.Errorf("vmm: console log: %w", err)
	}
	if c.devices, err = openDevices(&c.cfg, c.console, c.log); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			c.devices.close()
			c.closeNetwork()
		}
	}()
	if err := c.openNetwork(); err != nil {
		return err
	}
	if err := c.openVolumes(); err != nil {
		return err
	}
	kernel, err := os.Open(c.cfg.Kernel)
	if err != nil {
		return fmt.Errorf("vmm: kernel: %w", err)
	}
	defer kernel.Close()
	initrd, err := os.Open(c.cfg.Initrd)
	if err != nil {
		return fmt.Errorf("vmm: initramfs: %w", err)
	}
	defer initrd.Close()
	if c.socket, err = newBridge(filepath.Join(c.cfg.Dir, socketName), c.devices.vsock, c, c.log); err != nil {
		return err
	}
	m, err := machine.New(machine.Config{
		CPUs: c.cfg.CPUs, MemoryMiB: c.cfg.MemoryMiB,
		Kernel: kernel, Initrd: initrd, Cmdline: c.cfg.Cmdline,
		Devices: c.devices.list, Serial: c.console, Log: c.log,
	})
	if err != nil {
		c.socket.close()
		return err
	}
	c.m = m // before any goroutine that looks at it
	return nil
}

// openNetwork adds the network card after the disks, whose names depend on the order.
func (c *child) openNetwork() (err error) {
	if c.cfg.Network == nil {
		return nil
	}
	debug.SetMemoryLimit(networkHeapLimit)
	if c.network, err = openNetwork(&c.cfg, c.log); err != nil {
		return fmt.Errorf("vmm: network: %w", err)
	}
	c.devices.list = append(c.devices.list, c.network.card)
	c.cfg.Setup.Network, c.cfg.Setup.ResolvConf = guestNetwork(), resolvConf
	return nil
}

func (c *child) closeNetwork() error {
	if c.network == nil {
		return nil
	}
	return c.network.close()
}

// watchProgress ends a boot that shows no sign of life for too long: no exit to
// the VMM and no console output. A slow boot may take as long as it likes.
func (c *child) watchProgress(ctx context.Context, ready <-chan struct{}) {
	if c.cfg.Stall <= 0 {
		return
	}
	signs := func() uint64 { return c.m.ExitTotal() + c.console.Seen() }
	last, since := signs(), time.Now()
	tick := time.NewTicker(min(c.cfg.Stall/4+1, time.Second))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ready:
			return
		case <-tick.C:
		}
		if n := signs(); n != last {
			last, since = n, time.Now()
		} else if time.Since(since) > c.cfg.Stall {
			c.mu.Lock()
			stage := c.stage
			c.mu.Unlock()
			c.end(CauseStall, fmt.Errorf("the guest did nothing for %v on its way from %q", c.cfg.Stall, stage))
			return
		}
	}
}

// report puts together how the VM ended.
func (c *child) report(o machine.Outcome) *Report {
	c.mu.Lock()
	r := &Report{Stage: c.stage, Cause: c.cause, Ended: time.Now(), Registers: o.Registers}
	why := c.why
	c.mu.Unlock()
	if c.console != nil {
		r.Console = c.console.Tail()
		if msg, ok := c.console.Panicked(); ok && r.Cause == "" {
			r.Cause, why = CausePanic, errors.New(msg)
		}
	}
	if r.Cause == "" {
		r.Cause = CauseGuest
		if o.Reason != hv.ExitShutdown && o.Reason != hv.ExitReset {
			r.Cause = CauseFailed
			why = fmt.Errorf("the guest's CPU %d ended with a %v exit", o.CPU, o.Reason)
		}
	}
	if why != nil {
		r.Detail = why.Error()
	}
	if c.command != nil {
		r.Main, r.LogLost = c.command.outcome(), c.output.Lost()
	}
	if c.m != nil {
		r.Exits, r.LastExits = c.m.Stats().Exits, c.m.LastExits()
	}
	r.Hint = hint(r)
	return r
}

// cleanUp leaves the box's folder as the next start wants it, or not at all.
func (c *child) cleanUp(r *Report) {
	if c.console != nil {
		c.console.Close()
	}
	if c.output != nil {
		if err := c.output.Close(); err != nil {
			c.log.Warn("close the log of the command", "error", err)
		}
	}
	if c.cfg.Ephemeral && !c.missed() {
		if err := os.RemoveAll(c.cfg.Dir); err != nil {
			c.log.Warn("remove the box's folder", "error", err)
		}
		return
	}
	if err := writeReport(c.cfg.Dir, r); err != nil {
		c.log.Warn("write the report", "error", err)
	}
	if c.cfg.Ephemeral {
		if err := removeAllBut(c.cfg.Dir, reportName); err != nil {
			c.log.Warn("empty the box's folder", "error", err)
		}
	}
}

// missed reports whether somebody may ask how the box ended: whoever started it and
// is there, or whoever looks for a box that was left to itself.
func (c *child) missed() bool {
	select {
	case <-c.parent.gone:
		return c.detached()
	default:
		return true
	}
}

// removeAllBut empties a folder, but for the file with this name.
func removeAllBut(dir, keep string) error {
	entries, err := os.ReadDir(dir)
	errs := []error{err}
	for _, e := range entries {
		if e.Name() != keep {
			errs = append(errs, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// parentLink is the socket pair to the process that started this one.
type parentLink struct {
	conn *net.UnixConn
	mu   sync.Mutex
	gone chan struct{} // closed when the other end is
}

func newParentLink(fd uintptr) *parentLink {
	p := &parentLink{gone: make(chan struct{})}
	f := os.NewFile(fd, "control")
	conn, err := net.FileConn(f)
	f.Close()
	if u, ok := conn.(*net.UnixConn); err == nil && ok {
		p.conn = u
	}
	return p
}

// send is best effort: a parent that is gone is noticed elsewhere, and one that
// does not read must not hold up the VM.
func (p *parentLink) send(e Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conn.SetWriteDeadline(time.Now().Add(5 * time.Second))
	_ = writeFrame(p.conn, e)
}

// watch closes gone when the parent is. Nothing but the configuration ever
// comes in, so that any answer to a read means the end.
func (p *parentLink) watch() {
	var b [1]byte
	_, _ = p.conn.Read(b[:])
	close(p.gone)
}
