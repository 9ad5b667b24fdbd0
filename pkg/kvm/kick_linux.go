//go:build amd64

package kvm

import (
	"encoding/binary"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// The kick is a real-time signal that its thread blocks for good and KVM opens
// inside KVM_RUN (KVM API §4.19, KVM_SET_SIGNAL_MASK). Sent at any moment it
// stays pending until KVM_RUN returns EINTR, so there is no window to lose it
// in, and as it is taken by rt_sigtimedwait, no handler runs and os/signal
// never sees it.
const (
	kickSignal = unix.Signal(62) // SIGRTMAX-2
	// Go's runtime runs AllThreadsSyscall (setuid, prctl, …) by this signal and
	// waits for every thread, so it must interrupt a guest.
	allThreadsSignal = unix.Signal(33)
)

func signalBit(s unix.Signal) uint64 { return 1 << (s - 1) }

// kicker interrupts one vCPU thread.
type kicker struct {
	mu      sync.Mutex
	pid     int
	tid     int  // 0 when closed: the kernel may give the id to another thread
	pending bool // guarded by mu; exactly one kick is queued
}

// arm makes the calling thread the one to kick.
func (k *kicker) arm(vcpuFD int) error {
	var block unix.Sigset_t
	// SIGURG is Go's preemption signal; this thread is at a safe point whenever
	// it is in Run, and a pending one would only cost time on every exit.
	block.Val[0] = signalBit(kickSignal) | signalBit(unix.SIGURG)
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &block, nil); err != nil {
		return os.NewSyscallError("rt_sigprocmask", err)
	}
	k.drain() // kicks of a vCPU that this thread ran before
	m := signalMask{Len: 8}
	binary.LittleEndian.PutUint64(m.Set[:], ^(signalBit(kickSignal) | signalBit(allThreadsSignal)))
	if _, err := ioctlPtr(vcpuFD, cmdSetSignalMask, &m); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.pid, k.tid, k.pending = unix.Getpid(), unix.Gettid(), false
	return nil
}

func (k *kicker) kick() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.tid == 0 || k.pending {
		return nil
	}
	if err := unix.Tgkill(k.pid, k.tid, kickSignal); err != nil {
		return fmt.Errorf("kvm: kick thread %d: %w", k.tid, os.NewSyscallError("tgkill", err))
	}
	k.pending = true
	return nil
}

// take reports whether a kick came since the last take. Signals of others go
// with it unnoticed.
func (k *kicker) take() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.drain()
	was := k.pending
	k.pending = false
	return was
}

// disarm makes every later kick do nothing.
func (k *kicker) disarm() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.tid = 0
	k.drain()
}

func (*kicker) drain() {
	set := signalBit(kickSignal)
	for dequeueSignal(&set) {
	}
}
