// Package boot puts a Linux kernel into the RAM of a guest that has not run
// yet: the kernel's segments, an initramfs, the command line and whatever
// tables the architecture needs. Packages x86 and aarch64 below it each know
// one architecture; none of them is bound to the host's, so that all of them
// are tested everywhere.
//
// Kernels come from users and from images: a loader reads each header once,
// judges the copy, bounds every number in it, and refuses before anything runs
// with what is wrong and what to do about it.
package boot

import (
	"fmt"
	"os"

	"github.com/anthropics/boxlite/pkg/guestmem"
)

// Params is what a loader needs to know. The files stay the caller's: whole
// pages of them are mapped into the guest (see [Place]), so they must not
// shrink while the guest runs, but they may be closed as soon as Load returns.
type Params struct {
	Kernel  *os.File
	Initrd  *os.File // nil: none
	Cmdline string   // without the devices, which CommandLine adds
	CPUs    int      // at least 1
	Devices []Device
	Share   bool // map the files rather than copy them: see Place
}

// Device is a virtio-mmio device that the guest cannot find by itself.
type Device struct {
	Base guestmem.GPA
	Size uint64 // bytes
	IRQ  uint32 // x86: number of the ISA interrupt, which is the GSI
}

// Regular returns the size of a file that can be loaded, and refuses whatever
// is not a regular, non-empty file. Role is what the user calls the file:
// "kernel" or "initrd".
func Regular(role string, f *os.File) (int64, error) {
	if f == nil {
		return 0, fmt.Errorf("boot: no %s given", role)
	}
	info, err := f.Stat()
	switch {
	case err != nil:
		return 0, fmt.Errorf("boot: %s: %w", role, err)
	case info.IsDir():
		return 0, fmt.Errorf("boot: %s %s is a directory; name the file in it", role, f.Name())
	case !info.Mode().IsRegular():
		return 0, fmt.Errorf("boot: %s %s is not a regular file (%v)", role, f.Name(), info.Mode().Type())
	case info.Size() == 0:
		return 0, fmt.Errorf("boot: %s %s is empty (0 bytes)", role, f.Name())
	}
	return info.Size(), nil
}
