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
	ran  bool   // Run returned, and may have left an access to complete
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
				c.ran = true
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

// settle completes the access that the last exit was for, without running the
// guest (KVM API §5, "the pending operations must be completed by re-entering").
// Registers written before that would be changed by it.
func (c *vcpu) settle() error {
	if !c.ran {
		return nil
	}
	c.run[runImmediateExit] = 1
	defer func() { c.run[runImmediateExit] = 0 }()
	// An access of several parts exits for each of them; nobody answers them any more.
	for range 1 << 16 {
		switch _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(c.fd), cmdRun.nr, 0); errno {
		case 0, unix.EAGAIN:
		case unix.EINTR:
			c.ran = false
			return nil
		default:
			return os.NewSyscallError(cmdRun.name, errno)
		}
	}
	return errors.New("an access that never completes")
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
