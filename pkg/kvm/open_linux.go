//go:build amd64

package kvm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/anthropics/boxlite/pkg/hv"
)

const devicePath = "/dev/kvm"

// Open opens /dev/kvm with the zero [Options].
func Open() (hv.Hypervisor, error) { return Options{}.Open() }

// Open opens /dev/kvm. The error wraps [fs.ErrNotExist] where there is no KVM
// and [fs.ErrPermission] where the user may not use it, and says what to do.
func (o Options) Open() (hv.Hypervisor, error) {
	s, err := openSystem(devicePath, o)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// system is an open /dev/kvm.
type system struct {
	fd       int // -1 when closed
	opts     Options
	mmapSize int // of a vCPU's kvm_run
	maxCPUs  int
	arch     archSystem
}

func openSystem(path string, o Options) (_ *system, err error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, explainOpen(path, err)
	}
	s := &system{fd: fd, opts: o}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	version, err := ioctlInt(fd, cmdGetAPIVersion, 0)
	if err != nil {
		return nil, fmt.Errorf("kvm: %s is not KVM: %w", path, err)
	}
	if version != apiVersion {
		return nil, fmt.Errorf("kvm: %s has API version %d, need %d (run a kernel of 2007 or later): %w", path, version, apiVersion, hv.ErrUnsupported)
	}
	for _, c := range requiredCaps {
		if n, err := s.extension(c.nr); err != nil {
			return nil, fmt.Errorf("kvm: %w", err)
		} else if n == 0 {
			return nil, fmt.Errorf("kvm: host kernel lacks %s: %w", c.name, hv.ErrUnsupported)
		}
	}
	if s.mmapSize, err = ioctlInt(fd, cmdGetVCPUMmapSize, 0); err != nil {
		return nil, fmt.Errorf("kvm: %w", err)
	}
	if s.mmapSize < runSize {
		return nil, fmt.Errorf("kvm: KVM_GET_VCPU_MMAP_SIZE: %d bytes, need %d", s.mmapSize, runSize)
	}
	if s.maxCPUs, err = s.extension(capMaxVCPUs); err != nil {
		return nil, fmt.Errorf("kvm: %w", err)
	}
	s.maxCPUs = min(max(s.maxCPUs, 1), archMaxCPUs)
	if err := s.arch.init(s); err != nil {
		return nil, fmt.Errorf("kvm: %w", err)
	}
	return s, nil
}

type namedCap struct {
	nr   int
	name string
}

func (s *system) extension(nr int) (int, error) {
	return ioctlInt(s.fd, cmdCheckExtension, uintptr(nr))
}

// explainOpen turns the errno of open(2) into one line with the remedy.
func explainOpen(path string, err error) error {
	open := &os.PathError{Op: "open", Path: path, Err: err}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("kvm: %w (%s)", open, remedyAbsent)
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		// The node is there but no module behind it.
		return fmt.Errorf("kvm: %w: %w (%s)", open, fs.ErrNotExist, remedyAbsent)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("kvm: %w (%s)", open, remedyForbidden)
	default:
		return fmt.Errorf("kvm: %w", open)
	}
}

const remedyForbidden = "run `sudo usermod -aG kvm $USER` and log in again; in a container, pass --device /dev/kvm"

// Name returns "kvm".
func (*system) Name() string { return "kvm" }

// Close closes /dev/kvm. VMs made by it live on. Closing twice is harmless.
func (s *system) Close() error { return closeFD(&s.fd) }

func closeFD(fd *int) error {
	if *fd < 0 {
		return nil
	}
	err := unix.Close(*fd)
	*fd = -1
	return os.NewSyscallError("close", err)
}
