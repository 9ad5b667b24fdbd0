//go:build amd64

package kvm

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/anthropics/boxlite/pkg/guestmem"
	"github.com/anthropics/boxlite/pkg/hv"
)

// vm is one KVM virtual machine. It also implements hv.IOEventer and
// hv.ReadOnlyMapper.
type vm struct {
	fd   int // -1 when closed; set by NewVM, cleared by Close
	sys  *system
	cpus int

	mu    sync.Mutex // guards slots
	slots []slot     // index is KVM's slot number
	max   int        // KVM_CAP_NR_MEMSLOTS
}

// slot is one memory slot; size 0 is a free one.
type slot struct {
	base guestmem.GPA
	size uint64
}

func (s slot) overlaps(base guestmem.GPA, size uint64) bool {
	// Map refused every region that wraps, so neither sum does.
	return s.size != 0 && uint64(base) < uint64(s.base)+s.size && uint64(s.base) < uint64(base)+size
}

// NewVM creates a VM with interrupt controllers and neither memory nor vCPUs.
func (s *system) NewVM(c hv.Config) (_ hv.VM, err error) {
	if c.CPUs < 1 || c.CPUs > s.maxCPUs {
		return nil, fmt.Errorf("kvm: new VM: %d CPUs, need 1 to %d", c.CPUs, s.maxCPUs)
	}
	fd, err := ioctlInt(s.fd, cmdCreateVM, 0)
	if err != nil {
		if errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("kvm: new VM: %w (another hypervisor uses the CPU's virtualization: stop it)", err)
		}
		return nil, fmt.Errorf("kvm: new VM: %w", err)
	}
	v := &vm{fd: fd, sys: s, cpus: c.CPUs}
	defer func() {
		if err != nil {
			v.Close()
		}
	}()
	if v.max, err = ioctlInt(fd, cmdCheckExtension, capNRMemslots); err != nil {
		return nil, fmt.Errorf("kvm: new VM: %w", err)
	}
	if err := v.archInit(); err != nil {
		return nil, fmt.Errorf("kvm: new VM: %w", err)
	}
	return v, nil
}

// Map implements [hv.VM] (KVM API §4.35).
func (v *vm) Map(r guestmem.Region) error { return v.mapRegion(r, 0) }

// MapReadOnly implements [hv.ReadOnlyMapper].
func (v *vm) MapReadOnly(r guestmem.Region) error { return v.mapRegion(r, memReadonly) }

func (v *vm) mapRegion(r guestmem.Region, flags uint32) error {
	size := uint64(len(r.Bytes))
	if size == 0 || uint64(r.Base)+size-1 < uint64(r.Base) {
		return fmt.Errorf("kvm: map %d bytes at %v: not a range of guest memory", size, r.Base)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, s := range v.slots {
		if s.overlaps(r.Base, size) {
			return fmt.Errorf("kvm: map %d bytes at %v: overlaps %d bytes at %v: %w", size, r.Base, s.size, s.base, unix.EEXIST)
		}
	}
	free := slices.IndexFunc(v.slots, func(s slot) bool { return s.size == 0 })
	if free < 0 {
		if len(v.slots) >= v.max {
			return fmt.Errorf("kvm: map %d bytes at %v: all %d memory slots are in use", size, r.Base, v.max)
		}
		free = len(v.slots)
		v.slots = append(v.slots, slot{})
	}
	err := v.setSlot(userspaceMemoryRegion{
		Slot: uint32(free), Flags: flags, GuestPhysAddr: uint64(r.Base), MemorySize: size, UserspaceAddr: hostAddress(r.Bytes),
	})
	if err != nil {
		return fmt.Errorf("kvm: map %d bytes at %v: %w", size, r.Base, err)
	}
	v.slots[free] = slot{r.Base, size}
	return nil
}

// Unmap implements [hv.VM].
func (v *vm) Unmap(at guestmem.GPA) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	i := slices.IndexFunc(v.slots, func(s slot) bool { return s.size != 0 && s.base == at })
	if i < 0 {
		return fmt.Errorf("kvm: unmap %v: no region begins there: %w", at, unix.ENOENT)
	}
	if err := v.setSlot(userspaceMemoryRegion{Slot: uint32(i), GuestPhysAddr: uint64(at)}); err != nil {
		return fmt.Errorf("kvm: unmap %v: %w", at, err)
	}
	v.slots[i] = slot{}
	return nil
}

func (v *vm) setSlot(r userspaceMemoryRegion) error {
	_, err := ioctlPtr(v.fd, cmdSetUserMemoryRegion, &r)
	return err
}

// SetIRQ implements [hv.VM] (KVM API §4.25). Against an irqfd (§4.75) it spares the
// host a switch to a kernel thread, which alone may set a pin of the IOAPIC for one.
func (v *vm) SetIRQ(line uint32, level bool) error {
	if line >= archIRQLines { // KVM would say nothing
		return fmt.Errorf("kvm: set IRQ %d: VM has lines 0 to %d: %w", line, archIRQLines-1, unix.EINVAL)
	}
	l := irqLevel{IRQ: line}
	if level {
		l.Level = 1
	}
	if err := ioctlBrief(v.fd, cmdIRQLine, &l); err != nil {
		return fmt.Errorf("kvm: set IRQ %d: %w", line, err)
	}
	return nil
}

// RegisterIOEvent implements [hv.IOEventer] (KVM API §4.59).
func (v *vm) RegisterIOEvent(fd int, at guestmem.GPA, value uint32) error {
	e := ioeventfd{DataMatch: uint64(value), Addr: uint64(at), Len: 4, FD: int32(fd), Flags: ioeventfdDataMatch}
	if _, err := ioctlPtr(v.fd, cmdIOEventFD, &e); err != nil {
		return fmt.Errorf("kvm: event %d for writes of %d at %v: %w", fd, value, at, err)
	}
	return nil
}

// Close frees the VM; with it go its memory slots and events. Closing twice is harmless.
func (v *vm) Close() error { return closeFD(&v.fd) }

func (v *vm) enable(c enableCap) error {
	_, err := ioctlPtr(v.fd, cmdEnableCap, &c)
	return err
}
