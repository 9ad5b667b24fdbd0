package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/anthropics/boxlite/pkg/agentapi"
	"github.com/anthropics/boxlite/pkg/machine"
	"github.com/anthropics/boxlite/pkg/oci"
	"github.com/anthropics/boxlite/pkg/runtime/internal/disk"
	"github.com/anthropics/boxlite/pkg/runtime/internal/state"
	"github.com/anthropics/boxlite/pkg/runtime/internal/vmm"
)

// shutdownSlack is what a stop may take beyond the grace of the processes:
// unmounting and the death of the VM.
const shutdownSlack = 20 * time.Second

// imageConfig is what an image says about running it.
type imageConfig = oci.Config

// Start boots the box and returns when its guest takes commands and its main
// command, if it has one, runs; one that cannot be started is a [*CommandError].
// On a running box it does nothing. The image is pulled when it is not in the store.
func (b *LiteBox) Start(ctx context.Context) error {
	_, err := b.ensure(ctx, bootMain)
	return err
}

// startWithoutMain boots the box without its main command, for work on its files,
// and reports whether it did: a box that runs is left as it is.
func (b *LiteBox) startWithoutMain(ctx context.Context) (booted bool, err error) {
	return b.ensure(ctx, bootIdle)
}

// ensure makes sure that the box runs. mode is only of meaning where it did not.
func (b *LiteBox) ensure(ctx context.Context, mode bootMode) (booted bool, err error) {
	booted, err = b.bringUp(ctx, mode)
	if err != nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrInvalidState) {
		b.rt.counter.add(b.id, state.CounterFailed, 1)
	}
	return booted, err
}

func (b *LiteBox) bringUp(ctx context.Context, mode bootMode) (booted bool, err error) {
	row, err := b.row(ctx)
	if err != nil {
		return false, err
	}
	if s := BoxStatus(row.Status); !s.IsRunning() {
		if !s.CanStart() && !s.IsTransient() { // nothing that a wait would change
			return false, fail(ErrInvalidState, "box %s is %s and cannot be started", b, s)
		}
		if _, err := b.opts.Rootfs.reference(); err != nil {
			return false, err
		}
		if err := b.rt.checkHost(ctx); err != nil { // before the pull: it would be in vain
			return false, fail(ErrUnsupportedEngine, "start box %s: this host cannot run boxes: %w", b, err)
		}
		if err := b.Pull(ctx); err != nil { // before the lock: a pull may take long
			return false, err
		}
	}
	// It may be booting: whoever boots it holds the lock until it is ready.
	lock, err := lockDir(ctx, b.dir())
	if err != nil {
		return false, wrap(ErrStorage, err, "lock box %s", b.id)
	}
	defer lock.Close()
	if row, err = b.row(ctx); err != nil { // somebody may have been first
		return false, err
	}
	if BoxStatus(row.Status).IsRunning() {
		if ending, err := b.ending(ctx, row, mode); !ending || err != nil {
			return false, err
		}
		if row, err = b.rt.find(ctx, string(b.id)); err != nil {
			return false, err
		}
	}
	if s := BoxStatus(row.Status); !s.CanStart() {
		return false, fail(ErrInvalidState, "box %s is %s and cannot be started now", b, s)
	}
	b.times.note(PhaseStarting)
	b.rt.reach(stepLocked)
	p, err := b.boot(ctx, mode)
	if err != nil {
		return false, err
	}
	wait := p.WaitReady
	if b.opts.Main != nil && mode == bootMain {
		wait = p.WaitMain
	}
	events, err := wait(ctx)
	if err != nil {
		return false, b.bootFailed(p, err)
	}
	b.rt.reach(stepReady)
	b.times.noteBoot(events)
	b.keepTimings(ctx)
	for _, e := range events {
		if len(e.Ports) > 0 {
			if err := b.keepPorts(ctx, e.Ports); err != nil {
				b.rt.opts.Log.Warn("ports of a box", "error", err)
			}
		}
	}
	if b.opts.Main != nil && mode == bootMain {
		b.countRun(nil)
	}
	return true, nil
}

// ending waits for the end of a running box whose command has ended already, so
// that it can be started again. It reports false for a box that goes on.
func (b *LiteBox) ending(ctx context.Context, row *state.Box, mode bootMode) (bool, error) {
	if b.opts.Main == nil || mode == bootIdle {
		return false, nil
	}
	asking, cancel := b.patient(ctx)
	defer cancel()
	if ended, err := vmm.MainEnded(asking, b.dir()); err == nil && !ended {
		return false, nil
	} else if err != nil && !errors.Is(err, vmm.ErrGone) {
		return false, wrap(ErrPortal, err, "start box %s", b)
	}
	_, err := b.waitEnd(ctx, row)
	return true, err
}

// start makes sure that the box runs and returns the link to its guest.
func (b *LiteBox) start(ctx context.Context) (*guestLink, error) {
	if l := b.currentLink(); l != nil {
		return l, nil
	}
	if b.opts.Main != nil {
		// Starting it would run its command again, which nobody asked for.
		row, err := b.row(ctx)
		if err != nil {
			return nil, err
		}
		switch s := BoxStatus(row.Status); {
		case s.IsConfigured():
			return nil, fail(ErrInvalidState, "box %s runs a command of its own and was not started yet: start it", b)
		case !s.IsRunning():
			return nil, fail(ErrInvalidState, "box %s runs a command of its own and is %s: start it", b, s)
		}
	} else if _, err := b.ensure(ctx, bootMain); err != nil {
		return nil, err
	}
	defer b.times.note(PhaseConnected)
	l, err := b.connect(ctx)
	if err != nil && b.opts.Main != nil {
		if _, serr := b.active(ctx); serr != nil {
			return nil, serr // it has just stopped
		}
	}
	return l, err
}

// boot starts the VM process and records it.
func (b *LiteBox) boot(ctx context.Context, mode bootMode) (*vmProcess, error) {
	if err := b.rt.checkOpen(); err != nil {
		return nil, err
	}
	cfg, argv, err := b.vmConfig(ctx, mode)
	if err != nil {
		return nil, err
	}
	stored, err := (&storedOptions{b.opts, argv}).marshal()
	if err != nil {
		return nil, err
	}
	b.times.note(PhaseImage)
	b.rt.reach(stepFiles)
	b.times.booted()
	db, err := b.rt.state(ctx)
	if err != nil {
		return nil, err
	}
	proc, err := vmm.Spawn(b.rt.opts.VMMPath, *cfg)
	if err != nil {
		return nil, wrap(ErrEngine, err, "start box %s", b)
	}
	b.times.note(PhaseSpawned)
	b.rt.reach(stepSpawned)
	p := &vmProcess{Process: proc, box: b, detached: b.opts.Detach, settled: make(chan struct{})}
	var life context.Context
	life, p.leave = context.WithCancel(context.Background())
	if f := b.opts.Network.Decide; f != nil {
		go p.decide(life, f)
	}
	b.rt.mu.Lock()
	b.rt.procs[b.id] = p
	b.rt.mu.Unlock()
	// The row must name the process before anything can depend on it; a VM
	// whose parent dies before it is ready ends by itself, detached or not.
	_, err = db.Update(ctx, string(b.id), func(row *state.Box) error {
		if !BoxStatus(row.Status).CanStart() {
			return fail(ErrInvalidState, "box %s is %s and cannot be started now", b, row.Status)
		}
		row.Status, row.Reason, row.PID, row.PIDStart, row.BootID = string(StatusRunning), "", proc.PID, proc.Start, state.BootID()
		if mode != bootIdle {
			row.Options, row.ExitCode = stored, nil
			row.StartedAt, row.FinishedAt = time.Now(), time.Time{}
		}
		row.Record(string(EventStart), map[string]string{"image": row.Image})
		return nil
	})
	go p.watch()
	b.rt.reach(stepStarted)
	if err != nil {
		return nil, b.bootFailed(p, wrap(ErrDatabase, err, "record the start of box %s", b))
	}
	return p, nil
}

// bootFailed ends what is left of a failed start.
func (b *LiteBox) bootFailed(p *vmProcess, err error) error {
	ctx, cancel := context.WithTimeout(context.Background(), shutdownSlack)
	defer cancel()
	if kerr := vmm.Kill(ctx, p.PID, p.Start); kerr != nil {
		err = errors.Join(err, kerr)
	}
	select {
	case <-p.settled:
	case <-ctx.Done():
	}
	if why := b.rt.killedFor(ctx, string(b.id)); why != "" {
		return &Error{Kind: ErrEngine, Op: fmt.Sprintf("start box %s", b), Err: fmt.Errorf("%s: %w", why, err)}
	}
	if rerr := b.refused(err); rerr != nil {
		return rerr
	}
	if why := unusable(err); why != "" {
		return fail(ErrUnsupportedEngine, "start box %s: this host cannot run boxes: %s", b, why)
	}
	return wrap(ErrEngine, err, "start box %s", b)
}

// unusable finds out whether a boot failed because this host's hypervisor cannot
// run kernels at all, in which case its report explains nothing.
func unusable(err error) string {
	var boot *vmm.BootError
	if !errors.As(err, &boot) || boot.Report.Cause != vmm.CauseFailed || boot.Report.Stage != vmm.StageGuest {
		return ""
	}
	ctx, cancel := context.WithTimeout(context.Background(), shutdownSlack)
	defer cancel()
	return machine.Unusable(ctx)
}

// vmConfig gathers all that the VM process needs, making what is missing. argv is
// the main command.
func (b *LiteBox) vmConfig(ctx context.Context, mode bootMode) (cfg *vmm.Config, argv []string, err error) {
	rt := b.rt
	kernel, initrd, err := rt.guestFiles(ctx)
	if err != nil {
		return nil, nil, wrap(ErrConfig, err, "start box %s", b)
	}
	rec, err := b.image(ctx)
	if err != nil {
		return nil, nil, err
	}
	main, err := b.vmmMain(rec, mode)
	if err != nil {
		return nil, nil, err
	}
	if main != nil {
		argv = main.Spec.Args
	}
	if err := disk.Create(b.diskPath(), b.opts.DiskSizeGB); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, nil, wrap(ErrStorage, err, "disk of box %s", b)
	}
	network, err := b.vmmNetwork(ctx)
	if err != nil {
		return nil, nil, err
	}
	mounts, err := b.vmmMounts(ctx)
	if err != nil {
		return nil, nil, err
	}
	if err := rt.checkCapture(&b.opts); err != nil { // links may have changed, and volumes are there now
		return nil, nil, err
	}
	return &vmm.Config{
		BoxID: string(b.id), Dir: b.dir(), CPUs: b.opts.CPUs, MemoryMiB: b.opts.MemoryMiB,
		Kernel: kernel, Initrd: initrd, Cmdline: kernelCmdline,
		Rootfs: rec.Parts, Disk: b.diskPath(),
		Setup: b.guestSetup(rec), Mounts: mounts,
		Main: main, Network: network,
		Detach: b.opts.Detach, Ephemeral: !b.opts.KeepOnStop,
		Stall: max(rt.opts.BootStall, 0), Grace: rt.opts.StopGrace,
	}, argv, nil
}

// guestSetup is what the guest's agent is told before it mounts the root.
func (b *LiteBox) guestSetup(rec *bootRecord) agentapi.Setup {
	return agentapi.Setup{
		Hostname: b.hostname(),
		User:     first(b.opts.User, rec.Config.User),
		Root:     agentapi.Root{Kind: agentapi.RootDisk, Lower: vmm.RootDevice, Upper: vmm.WriteDevice},
		Time:     time.Now().UnixNano(),
	}
}

// hostname is the box's name, or the short form of its id, as containers have it.
func (b *LiteBox) hostname() string {
	if name := b.Name(); name != "" && len(name) <= 63 {
		return name
	}
	return string(b.id[len(b.id)-12:])
}

// image returns what the box boots from: as recorded at its first start, or
// else from the store.
func (b *LiteBox) image(ctx context.Context) (*bootRecord, error) {
	rec, err := b.recorded()
	if err != nil || rec.usable() {
		return rec, err
	}
	return b.recordImage(ctx, rec)
}

// recorded returns the box's record, nil if it was never started.
func (b *LiteBox) recorded() (*bootRecord, error) {
	rec, err := readRecord(b.dir())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return rec, wrap(ErrMetadata, err, "image of box %s", b)
}

// usable reports whether the files that a record names are still there.
func (rec *bootRecord) usable() bool {
	if rec == nil {
		return false
	}
	for _, p := range rec.Parts {
		if fi, err := os.Stat(p.Path); err != nil || fi.Size() < p.Offset+p.Length {
			return false
		}
	}
	return len(rec.Parts) > 0
}

// Pull makes sure that the box's image is in the store, as Start does. A box that was
// started before has all it needs.
func (b *LiteBox) Pull(ctx context.Context) error {
	rec, err := b.recorded()
	if err != nil || rec.usable() {
		return err
	}
	store, err := b.rt.Images()
	if err != nil {
		return err
	}
	return b.pullImage(ctx, store, rec)
}

// reference is the spec in the image store's terms.
func (s RootfsSpec) reference() (string, error) {
	if s.Path == "" {
		return s.Image, nil
	}
	fi, err := os.Stat(s.Path)
	if err != nil {
		return "", wrap(ErrImage, err, "root filesystem")
	} else if !fi.IsDir() {
		return "", fail(ErrImage, "root filesystem %s is not a folder; give an archive as an image", s.Path)
	}
	if _, err := os.Stat(filepath.Join(s.Path, "oci-layout")); err == nil {
		return "oci:" + s.Path, nil
	}
	return "dir:" + s.Path, nil
}

// kernelCmdline is what our kernel boots fastest with; kernel/README.md says what
// each word is worth. earlycon is the price of seeing a panic before the console
// is there; quiet precedes it, or everything up to then would be printed.
const kernelCmdline = "quiet console=hvc0 earlycon=uart8250,io,0x3f8 panic=-1 reboot=t noreplace-smp 8250.nr_uarts=0 " +
	"swiotlb=noforce dummy.numdummies=0 rcupdate.rcu_expedited=1 initcall_blacklist=slab_late_init"
