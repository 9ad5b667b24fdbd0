package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"

	"github.com/anthropics/boxlite/pkg/hv"
	"github.com/anthropics/boxlite/pkg/machine"
	"github.com/anthropics/boxlite/pkg/virtio"
	"github.com/anthropics/boxlite/pkg/virtio/blk"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// vmOptions are the flags of `boxlite vm`.
type vmOptions struct {
	kernel, initrd, cmdline string
	disks                   []string
	cpus, memory            int
	stats                   bool
}

func vmCommand() *cobra.Command {
	var o vmOptions
	c := &cobra.Command{
		Use:   "vm --kernel FILE [flags]",
		Short: "Boot a kernel to its serial console",
		Long: `Boots any x86-64 bzImage, or a vmlinux with a PVH note, with its first serial
port on standard input and output. The virtual machine runs in this process and
ends when the guest resets, or on SIGTERM, or, at a terminal, on Ctrl-] typed
three times. Other distributions' kernels boot too.`,
		Example: `  boxlite vm --kernel vmlinux --initrd initramfs.cpio --cmdline "console=ttyS0"
  boxlite vm --kernel bzImage --disk root.img:ro --cmdline "console=ttyS0 root=/dev/vda ro"`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runVM(cmd.Context(), &o) },
	}
	f := c.Flags()
	f.StringVar(&o.kernel, "kernel", "", "kernel to boot (required)")
	f.StringVar(&o.initrd, "initrd", "", "initramfs or initrd")
	f.StringVar(&o.cmdline, "cmdline", "console=ttyS0 reboot=t panic=-1", "kernel command line")
	f.StringArrayVar(&o.disks, "disk", nil, "raw disk image, \":ro\" at the end for read-only (/dev/vda, /dev/vdb, ...)")
	f.IntVar(&o.cpus, "cpus", 1, "number of CPUs")
	f.VarP(newSizeFlag(&o.memory, 'm', 256), "memory", "m", "memory, as 512m or 1.5g; a plain number is MiB")
	f.BoolVar(&o.stats, "stats", false, "print exit and device counters to standard error at the end")
	return c
}

func runVM(ctx context.Context, o *vmOptions) (err error) {
	ctx, cancel := signal.NotifyContext(ctx, unix.SIGINT, unix.SIGTERM)
	defer cancel()
	cfg := machine.Config{CPUs: o.cpus, MemoryMiB: o.memory, Cmdline: o.cmdline, Serial: os.Stdout}
	if o.kernel == "" {
		return errors.New("vm: no kernel given: boxlite vm --kernel FILE; see boxlite vm --help")
	}
	kernel, err := os.Open(o.kernel)
	if err != nil {
		return fmt.Errorf("vm: kernel: %w", err)
	}
	defer kernel.Close()
	cfg.Kernel = kernel
	if o.initrd != "" {
		if cfg.Initrd, err = os.Open(o.initrd); err != nil {
			return fmt.Errorf("vm: initrd: %w", err)
		}
		defer cfg.Initrd.Close()
	}
	disks, err := openDisks(o.disks, o.cpus)
	defer func() { err = errors.Join(err, disks.close()) }()
	if err != nil {
		return err
	}
	cfg.Devices = disks.devices
	m, err := machine.New(cfg)
	if err != nil {
		return err
	}
	defer m.Close()
	if isTerminal(os.Stdin) {
		restore, err := rawTerminal(os.Stdin)
		if err != nil {
			return err
		}
		defer restore()
	}
	go func() { // ends with the process: a read of standard input cannot be taken back
		_, _ = io.Copy(m.SerialInput(), &escape{r: os.Stdin, stop: cancel})
	}()
	outcome, err := m.Run(ctx)
	if o.stats {
		printStats(m.Stats())
	}
	if err != nil {
		probe, done := context.WithTimeout(context.Background(), doctorLimit)
		defer done()
		if why := machine.Unusable(probe); why != "" {
			return fmt.Errorf("vm: this host cannot run kernels: %s", why)
		}
		return fmt.Errorf("%w\n  hint: `boxlite doctor` tells whether this host's KVM can run kernels\n%slast exits:\n  %s", err, outcome.Registers, strings.Join(m.LastExits(), "\n  "))
	}
	if outcome.Reason == hv.ExitKicked {
		return &exitError{code: 130, err: errors.New("vm: stopped by a signal")}
	}
	return nil
}

func printStats(s machine.Stats) {
	for reason, n := range s.Exits {
		fmt.Fprintf(os.Stderr, "exits %s %d\n", reason, n)
	}
	fmt.Fprintf(os.Stderr, "serial bytes %d\n", s.Serial)
	for _, d := range s.Devices {
		fmt.Fprintf(os.Stderr, "device %s notifications %d interrupts %d driver errors %d\n", d.Name, d.Notifications, d.Interrupts, d.DriverErrors)
	}
}

// maxDiskQueues bounds the request queues of a disk, each of which is a goroutine.
const maxDiskQueues = 4

// disks are the block devices of a VM.
type disks struct {
	devices []virtio.Device
	closes  []func() error
}

// openDisks opens "FILE[:ro]" each; what it opened is in the result also when
// it fails.
func openDisks(specs []string, cpus int) (d disks, err error) {
	for _, s := range specs {
		path, ro := strings.CutSuffix(s, ":ro")
		if path == "" {
			return d, fmt.Errorf("vm: --disk %q: want FILE or FILE:ro", s)
		}
		file, err := blk.OpenFile(path, blk.Options{ReadOnly: ro})
		if err != nil {
			return d, fmt.Errorf("vm: %w", err)
		}
		dev, err := blk.New(file, blk.Config{Queues: min(cpus, maxDiskQueues)})
		if err != nil {
			return d, fmt.Errorf("vm: disk %s: %w", path, err)
		}
		d.devices, d.closes = append(d.devices, dev), append(d.closes, dev.Close)
	}
	return d, nil
}

// close comes after the machine is closed.
func (d *disks) close() error {
	var errs []error
	for _, c := range d.closes {
		errs = append(errs, c())
	}
	return errors.Join(errs...)
}

// escape watches keys for the way out: the same control character three times.
type escape struct {
	r    io.Reader
	stop func()
	n    int
}

const (
	escapeKey   = 0x1d // Ctrl-]
	escapeCount = 3
)

func (e *escape) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	for _, c := range p[:n] {
		if c != escapeKey {
			e.n = 0
		} else if e.n++; e.n == escapeCount {
			e.stop()
		}
	}
	return n, err
}
