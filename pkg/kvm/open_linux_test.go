//go:build amd64

package kvm

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/anthropics/boxlite/pkg/guestmem"
	"github.com/anthropics/boxlite/pkg/hv"
)

func TestOpenErrors(t *testing.T) {
	_, err := openSystem(filepath.Join(t.TempDir(), "kvm"), Options{})
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorContains(t, err, "modprobe kvm_intel")
	require.ErrorContains(t, err, "nested virtualization")

	for _, errno := range []unix.Errno{unix.ENODEV, unix.ENXIO} { // a node without a module
		err = explainOpen(devicePath, errno)
		require.ErrorIs(t, err, fs.ErrNotExist)
		require.ErrorIs(t, err, errno)
		require.ErrorContains(t, err, "modprobe kvm_amd")
	}
	for _, errno := range []unix.Errno{unix.EACCES, unix.EPERM} {
		err = explainOpen(devicePath, errno)
		require.ErrorIs(t, err, fs.ErrPermission)
		require.ErrorContains(t, err, "open /dev/kvm: ")
		require.ErrorContains(t, err, "usermod -aG kvm")
	}

	_, err = openSystem(os.DevNull, Options{})
	require.ErrorIs(t, err, unix.ENOTTY)
	require.ErrorContains(t, err, "KVM_GET_API_VERSION")
	for _, e := range []error{err, explainOpen(devicePath, unix.EIO)} {
		require.NotErrorIs(t, e, fs.ErrNotExist)
		require.NotContains(t, e.Error(), "\n")
	}
}

// TestErrorsNameTheIoctl makes the host refuse.
func TestErrorsNameTheIoctl(t *testing.T) {
	h := openForTest(t)
	vm, err := h.NewVM(hv.Config{CPUs: 1})
	require.NoError(t, err)
	require.NoError(t, vm.SetIRQ(archIRQLines-1, true))
	require.ErrorContains(t, vm.SetIRQ(archIRQLines, true), "set IRQ 24: VM has lines 0 to 23")
	require.ErrorContains(t, vm.Map(guestmem.Region{Base: 0x1000, Bytes: make([]byte, 100)}), "KVM_SET_USER_MEMORY_REGION")
	require.ErrorContains(t, vm.(hv.IOEventer).RegisterIOEvent(1<<30, 0xd0000000, 1), "KVM_IOEVENTFD")
	require.NoError(t, vm.Close())
	require.ErrorContains(t, vm.SetIRQ(5, true), "KVM_IRQ_LINE: bad file descriptor")
	_, err = vm.NewVCPU(0)
	require.ErrorContains(t, err, "KVM_CREATE_VCPU")
	require.NoError(t, h.Close())
	_, err = h.NewVM(hv.Config{CPUs: 1})
	require.ErrorContains(t, err, "KVM_CREATE_VM")
}
