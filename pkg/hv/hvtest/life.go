package hvtest

import (
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/anthropics/boxlite/pkg/guestmem"
	"github.com/anthropics/boxlite/pkg/hv"
)

var lifeTests = []test{
	{"BadConfig", testBadConfig},
	{"Close", testClose},
	{"NoLeak", testNoLeak},
}

func testBadConfig(t *testing.T, s *suite) {
	h := s.open(t)
	require.NotEmpty(t, h.Name())
	for _, n := range []int{-1, 0, 1 << 20} {
		vm, err := h.NewVM(hv.Config{CPUs: n})
		require.Error(t, err, "%d CPUs", n)
		require.Nil(t, vm)
	}
}

func testClose(t *testing.T, s *suite) {
	h := s.open(t)
	vm, err := h.NewVM(hv.Config{CPUs: 1})
	require.NoError(t, err)
	cpu, err := vm.NewVCPU(0)
	require.NoError(t, err)
	require.Error(t, cpu.SetEntry(hv.Entry{}), "no registers")
	require.NoError(t, cpu.Kick())
	require.NoError(t, cpu.Close())
	require.NoError(t, cpu.Kick(), "after Close a kick does nothing")
	require.NoError(t, cpu.Close(), "twice")
	require.NoError(t, vm.Close())
	require.NoError(t, vm.Close(), "twice")
	require.Error(t, vm.SetIRQ(0, true), "closed")
	require.NoError(t, h.Close())
	require.NoError(t, h.Close(), "twice")
	_, err = h.NewVM(hv.Config{CPUs: 1})
	require.Error(t, err, "closed")
}

// testNoLeak creates and closes a hundred VMs with two vCPUs on threads of
// their own.
func testNoLeak(t *testing.T, s *suite) {
	h := s.open(t)
	mem, err := guestmem.New(guestmem.Range{Size: ramSize})
	require.NoError(t, err)
	defer mem.Close()
	once := func() error {
		vm, err := h.NewVM(hv.Config{CPUs: 2})
		if err != nil {
			return err
		}
		defer vm.Close()
		if err := vm.Map(mem.Regions()[0]); err != nil {
			return err
		}
		done := make(chan error, 2)
		for id := range 2 {
			go func() {
				runtime.LockOSThread()
				c, err := vm.NewVCPU(id)
				if err == nil {
					err = c.Close()
				}
				done <- err
			}()
		}
		for range 2 {
			if e := <-done; e != nil {
				err = e
			}
		}
		return err
	}
	for range 3 { // what the first VM of a process sets up for good
		require.NoError(t, once())
	}
	before := countResources(t)
	for range 100 {
		require.NoError(t, once())
	}
	// Threads end after their goroutines, and free mappings with them. Anything
	// leaked per VM would be there a hundred times.
	eventually(t, "resources of 100 VMs given back", func() bool {
		now := countResources(t)
		return now.files <= before.files+5 && now.goroutines <= before.goroutines+5 &&
			now.vcpuMappings <= before.vcpuMappings
	})
}
