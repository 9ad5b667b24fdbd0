package runtime

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/anthropics/boxlite/pkg/agentapi"
	"github.com/anthropics/boxlite/pkg/hv"
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

// Start boots the box and returns when its guest takes commands. On a running
// box it does nothing. The image is pulled when it is not in the store.
func (b *LiteBox) Start(ctx context.Context) error {
	_, err := b.start(ctx)
	return err
}

// start makes sure that the box runs and returns the link to its guest.
func (b *LiteBox) start(ctx context.Context) (*guestLink, error) {
	if l := b.currentLink(); l != nil {
		return l, nil
	}
	row, err := b.rt.find(ctx, b.id)
	if err != nil {
		return nil, err
	}
	if BoxStatus(row.Status).IsRunning() {
		if l, err := b.connect(ctx); err == nil {
			return l, nil
		}
		// It may still be booting: whoever boots it holds the lock until it is ready.
	} else if err := b.pull(ctx); err != nil { // before the lock: a pull may take long
		return nil, err
	}
	lock, err := lockDir(ctx, b.dir())
	if err != nil {
		return nil, wrap(ErrStorage, err, "lock box %s", b.id)
	}
	defer lock.Close()
	if row, err = b.rt.find(ctx, b.id); err != nil { // somebody may have been first
		return nil, err
	}
	switch s := BoxStatus(row.Status); {
	case s.IsRunning():
		return b.connect(ctx)
	case !s.CanStart():
		return nil, fail(ErrInvalidState, "box %s is %s and cannot be started now", b, s)
	}
	p, err := b.boot(ctx)
	if err != nil {
		return nil, err
	}
	events, err := p.WaitReady(ctx)
	if err != nil {
		return nil, b.bootFailed(p, err)
	}
	b.times.noteBoot(events)
	defer b.times.note(PhaseConnected)
	return b.connect(ctx)
}

// boot starts the VM process and records it.
func (b *LiteBox) boot(ctx context.Context) (*vmProcess, error) {
	cfg, err := b.vmConfig(ctx)
	if err != nil {
		return nil, err
	}
	b.times.note(PhaseImage)
	b.times.first = true
	db, err := b.rt.state(ctx)
	if err != nil {
		return nil, err
	}
	proc, err := vmm.Spawn(b.rt.opts.VMMPath, *cfg)
	if err != nil {
		return nil, wrap(ErrEngine, err, "start box %s", b)
	}
	b.times.note(PhaseSpawned)
	p := &vmProcess{Process: proc, box: b, detached: b.opts.Detach, settled: make(chan struct{})}
	b.rt.mu.Lock()
	b.rt.procs[b.id] = p
	b.rt.mu.Unlock()
	// The row must name the process before anything can depend on it; a VM
	// whose parent dies before it is ready ends by itself, detached or not.
	_, err = db.Update(ctx, b.id, func(row *state.Box) error {
		row.Status, row.Reason, row.PID, row.PIDStart, row.BootID = string(StatusRunning), "", proc.PID, proc.Start, state.BootID()
		return nil
	})
	go p.watch()
	if err != nil {
		return nil, b.bootFailed(p, wrap(ErrDatabase, err, "record the start of box %s", b))
	}
	return p, nil
}

// bootFailed ends what is left of a failed start.
func (b *LiteBox) bootFailed(p *vmProcess, err error) error {
	ctx, cancel := context.WithTimeout(context.Background(), shutdownSlack)
	defer cancel()
	if kerr := vmm.End(ctx, p.PID, p.Start, 0); kerr != nil {
		err = errors.Join(err, kerr)
	}
	select {
	case <-p.settled:
	case <-ctx.Done():
	}
	if why := unusable(err); why != "" {
		return fail(ErrUnsupportedEngine, "start box %s: this host cannot run boxes: %s", b, why)
	}
	kind := ErrEngine
	var boot *vmm.BootError
	if errors.As(err, &boot) && boot.Report.Cause == vmm.CauseConfig {
		if _, herr := os.Stat("/dev/kvm"); herr != nil || errors.Is(err, hv.ErrUnsupported) {
			kind = ErrUnsupportedEngine
		}
	}
	return wrap(kind, err, "start box %s", b)
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

// vmConfig gathers all that the VM process needs, making what is missing.
func (b *LiteBox) vmConfig(ctx context.Context) (*vmm.Config, error) {
	rt := b.rt
	kernel, initrd, err := rt.guestFiles(ctx)
	if err != nil {
		return nil, wrap(ErrConfig, err, "start box %s", b)
	}
	rec, err := b.image(ctx)
	if err != nil {
		return nil, err
	}
	if err := disk.Create(b.diskPath(), b.opts.DiskSizeGB); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, wrap(ErrStorage, err, "disk of box %s", b)
	}
	return &vmm.Config{
		BoxID: b.id, Dir: b.dir(), CPUs: b.opts.CPUs, MemoryMiB: b.opts.MemoryMiB,
		Kernel: kernel, Initrd: initrd, Cmdline: kernelCmdline,
		Rootfs: rec.Parts, Disk: b.diskPath(),
		Setup:  b.guestSetup(),
		Detach: b.opts.Detach, Ephemeral: !b.opts.KeepOnStop,
		Stall: max(rt.opts.BootStall, 0), Grace: rt.opts.StopGrace,
	}, nil
}

// guestSetup is what the guest's agent is told before it mounts the root.
func (b *LiteBox) guestSetup() agentapi.Setup {
	return agentapi.Setup{
		Hostname: b.hostname(),
		Root:     agentapi.Root{Kind: agentapi.RootDisk, Lower: vmm.RootDevice, Upper: vmm.WriteDevice},
		Time:     time.Now(),
	}
}

// hostname is the box's name, or the short form of its id, as containers have it.
func (b *LiteBox) hostname() string {
	if b.name != "" && len(b.name) <= 63 {
		return b.name
	}
	return b.id[len(b.id)-12:]
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

// pull makes sure that the box's root filesystem is in the store. A box that was
// started before has all it needs.
func (b *LiteBox) pull(ctx context.Context) error {
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

// MainCommand is what the box's image runs by default: its entrypoint with args,
// or with the image's own arguments when there are none. The image is pulled if
// need be.
func (b *LiteBox) MainCommand(ctx context.Context, args ...string) (BoxCommand, error) {
	if err := b.pull(ctx); err != nil {
		return BoxCommand{}, err
	}
	lock, err := lockDir(ctx, b.dir())
	if err != nil {
		return BoxCommand{}, wrap(ErrStorage, err, "lock box %s", b)
	}
	rec, err := b.image(ctx)
	lock.Close()
	if err != nil {
		return BoxCommand{}, err
	}
	if len(args) == 0 {
		args = rec.Config.Cmd
	}
	argv := append(append([]string(nil), rec.Config.Entrypoint...), args...)
	if len(argv) == 0 {
		return BoxCommand{}, fail(ErrInvalidArgument, "image %s has no command of its own: give one", b.opts.Rootfs)
	}
	return Command(argv[0], argv[1:]...), nil
}

// kernelCmdline is what our kernel boots fastest with; kernel/README.md says what
// each word is worth. earlycon is the price of seeing a panic before the console
// is there; quiet precedes it, or everything up to then would be printed.
const kernelCmdline = "quiet console=hvc0 earlycon=uart8250,io,0x3f8 panic=-1 reboot=t noreplace-smp 8250.nr_uarts=0 " +
	"swiotlb=noforce dummy.numdummies=0 rcupdate.rcu_expedited=1 initcall_blacklist=slab_late_init"
