//go:build amd64

package kvm

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/anthropics/boxlite/pkg/hv"
)

// vcpu is one virtual CPU. It also implements hv.RegisterDumper.
type vcpu struct {
	fd   int // -1 when closed
	id   int
	run  []byte // kvm_run and the pages behind it
	kick kicker
	arch archVCPU
}

// NewVCPU implements [hv.VM].
func (v *vm) NewVCPU(id int) (_ hv.VCPU, err error) {
	if id < 0 || id >= v.cpus {
		return nil, fmt.Errorf("kvm: new vCPU %d: VM has %d", id, v.cpus)
	}
	c := &vcpu{fd: -1, id: id}
	defer func() {
		if err != nil {
			err = fmt.Errorf("kvm: new vCPU %d: %w", id, err)
			c.Close()
		}
	}()
	if c.fd, err = ioctlInt(v.fd, cmdCreateVCPU, uintptr(id)); err != nil {
		c.fd = -1
		return nil, err
	}
	if c.run, err = unix.Mmap(c.fd, 0, v.sys.mmapSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	if err := c.archInit(v); err != nil {
		return nil, err
	}
	if err := c.kick.arm(c.fd); err != nil {
		return nil, err
	}
	return c, nil
}

// Run implements [hv.VCPU].
func (c *vcpu) Run(e *hv.Exit) error {
	for {
		// unix.Syscall tells the scheduler, so that garbage collection and other
		// goroutines never wait for a guest; a RawSyscall would spare the time of
		// two transitions and keep a whole P for every halted vCPU.
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(c.fd), cmdRun.nr, 0)
		switch errno {
		case 0:
			if c.decode(e) {
				return nil
			}
		case unix.EINTR:
			if c.kick.take() {
				*e = hv.Exit{Reason: hv.ExitKicked}
				return nil
			}
		case unix.EAGAIN:
			// A secondary CPU woke up by INIT; the next KVM_RUN waits for SIPI or starts it.
		default:
			return fmt.Errorf("kvm: run vCPU %d: %w", c.id, os.NewSyscallError(cmdRun.name, errno))
		}
	}
}

// Kick implements [hv.VCPU].
func (c *vcpu) Kick() error { return c.kick.kick() }

// Close frees the vCPU. Closing twice is harmless.
func (c *vcpu) Close() error {
	c.kick.disarm()
	var unmap error
	if c.run != nil {
		unmap = os.NewSyscallError("munmap", unix.Munmap(c.run))
		c.run = nil
	}
	return errors.Join(unmap, closeFD(&c.fd))
}
