//go:build amd64

package kvm

import (
	"os"
	"os/signal"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/anthropics/boxlite/pkg/hv"
)

// TestSignalsDoNotShow sends a vCPU thread signals of all kinds, Go's
// preemption among them, while its guest spins: Run only returns for the kick.
func TestSignalsDoNotShow(t *testing.T) {
	p := probeMachineForTest(t)
	require.NoError(t, p.reset(guestSpin, nil, false))
	ignored := make(chan os.Signal, 16)
	signal.Notify(ignored, unix.SIGUSR1, unix.SIGWINCH) // so that they are harmless
	defer signal.Stop(ignored)
	tid := unix.Gettid()
	var kicked atomic.Bool
	done := make(chan error, 1)
	go func() {
		done <- func() error {
			for range 200 {
				for _, s := range []unix.Signal{unix.SIGURG, unix.SIGUSR1, unix.SIGWINCH, kickSignal} {
					if err := unix.Tgkill(unix.Getpid(), tid, s); err != nil {
						return err
					}
				}
			}
			for range 20 {
				runtime.GC() // stops the world, without waiting for the guest
			}
			kicked.Store(true)
			return p.cpu.Kick()
		}()
	}()
	var e hv.Exit
	require.NoError(t, p.cpu.Run(&e))
	require.Equal(t, hv.ExitKicked, e.Reason, "%+v", e)
	require.True(t, kicked.Load(), "returned for a signal that is not a kick")
	require.NoError(t, <-done)
}

// TestAllThreadsSyscall: Go must be able to interrupt a guest for what it does
// on all threads at once, such as dropping privileges.
func TestAllThreadsSyscall(t *testing.T) {
	p := probeMachineForTest(t)
	require.NoError(t, p.reset(guestSpin, nil, false))
	done := make(chan syscall.Errno, 1)
	go func() {
		time.Sleep(time.Millisecond)
		_, _, errno := syscall.AllThreadsSyscall(syscall.SYS_PRCTL, unix.PR_SET_DUMPABLE, 1, 0)
		done <- errno
		_ = p.cpu.Kick()
	}()
	var e hv.Exit
	require.NoError(t, p.cpu.Run(&e))
	require.Equal(t, hv.ExitKicked, e.Reason, "%+v", e)
	errno := <-done
	if errno == syscall.ENOTSUP {
		t.Skip("with cgo this is libc's business; build with CGO_ENABLED=0")
	}
	require.Zero(t, errno)
}

// TestKickAfterClose kicks vCPUs while and after they are closed and their
// threads end: no thread that got the same id must see the signal.
func TestKickAfterClose(t *testing.T) {
	h := openForTest(t)
	stray := make(chan os.Signal, 1)
	signal.Notify(stray, kickSignal)
	defer signal.Stop(stray)
	v, err := h.NewVM(hv.Config{CPUs: 1})
	require.NoError(t, err)
	var cpus []hv.VCPU
	for range 8 {
		v, err := h.NewVM(hv.Config{CPUs: 1})
		require.NoError(t, err)
		defer v.Close()
		ready := make(chan hv.VCPU)
		var kickers sync.WaitGroup
		go func() {
			runtime.LockOSThread()
			c, err := v.NewVCPU(0)
			if err != nil {
				t.Error(err)
				close(ready)
				return
			}
			ready <- c
			time.Sleep(time.Millisecond)
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}()
		c := <-ready
		require.NotNil(t, c)
		cpus = append(cpus, c)
		for range 4 {
			kickers.Go(func() {
				for range 500 {
					if err := c.Kick(); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		kickers.Wait()
	}
	require.NoError(t, v.Close())
	for range 100 {
		for _, c := range cpus {
			require.NoError(t, c.Kick())
		}
	}
	select {
	case s := <-stray:
		t.Fatalf("%v reached a thread that runs no vCPU", s)
	default:
	}
}
