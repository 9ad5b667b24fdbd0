package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"github.com/anthropics/boxlite/pkg/machine"
	"github.com/anthropics/boxlite/pkg/virtio"
	"github.com/anthropics/boxlite/pkg/virtio/fs"
)

// ours lets package fs serve the share, and package machine run the guest.
func ours(o *options, initrd string) error {
	runtime.GOMAXPROCS(max(runtime.NumCPU(), 1+2)) // as a box's process does (package kvm)
	cfg := fs.Config{Tag: tag, Path: o.share, Writeback: o.writeback, Log: func(f string, a ...any) { fmt.Printf("# "+f+"\n", a...) }}
	switch o.cache {
	case "none":
		cfg.Cache = fs.CacheNone
	case "always":
		cfg.Cache = fs.CacheAlways
	}
	if o.owner == "xattr" {
		cfg.Owner = fs.OwnerXattr
	}
	d, err := fs.New(cfg)
	if err != nil {
		return err
	}
	defer d.Close()
	kernel, err := os.Open(o.kernel)
	if err != nil {
		return err
	}
	rd, err := os.Open(initrd)
	if err != nil {
		return err
	}
	out := newMeter(o, func() uint64 { return d.Counters().Requests })
	m, err := machine.New(machine.Config{
		CPUs: 1, MemoryMiB: memoryMiB, Kernel: kernel, Initrd: rd, Serial: out, Devices: []virtio.Device{d}, Cmdline: o.cmdline(),
	})
	if err != nil {
		return err
	}
	defer m.Close()
	if _, err := m.Run(context.Background()); err != nil {
		return err
	}
	return out.end()
}

// qemu lets virtiofsd serve the share, and QEMU's microvm run the guest.
func qemu(o *options, initrd, dir string) error {
	socket := filepath.Join(dir, "socket")
	opts := "sandbox=chroot,source=" + o.share + ",cache=" + o.cache
	if o.writeback {
		opts += ",writeback"
	}
	daemon := exec.Command("virtiofsd", "--socket-path="+socket, "-o", opts)
	daemon.Stderr = os.Stderr
	if err := daemon.Start(); err != nil {
		return err
	}
	defer func() {
		daemon.Process.Kill()
		daemon.Wait()
	}()
	opened := false
	for range 500 {
		if _, err := os.Stat(socket); err == nil {
			opened = true
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if !opened {
		return fmt.Errorf("virtiofsd did not open %s", socket)
	}
	mib := strconv.Itoa(memoryMiB)
	vmm := exec.Command("qemu-system-x86_64", "-L", filepath.Join(os.Getenv("RIG"), "qemu"),
		"-machine", "microvm,acpi=off,rtc=off,pit=off,pic=on,isa-serial=on,auto-kernel-cmdline=on,memory-backend=ram", "-accel", "kvm", "-cpu", "host",
		"-m", mib, "-object", "memory-backend-memfd,id=ram,share=on,size="+mib+"M",
		"-global", "virtio-mmio.force-legacy=false", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio",
		"-kernel", o.kernel, "-initrd", initrd, "-append", o.cmdline(),
		"-chardev", "socket,id=c,path="+socket, "-device", "vhost-user-fs-device,chardev=c,tag="+tag+",queue-size=1024")
	out := newMeter(o, nil)
	vmm.Stdout, vmm.Stderr = out, os.Stderr
	if err := vmm.Run(); err != nil {
		return fmt.Errorf("qemu: %w", err)
	}
	return out.end()
}
