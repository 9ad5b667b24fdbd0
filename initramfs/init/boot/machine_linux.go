package boot

import (
	"os"
	"time"

	"github.com/anthropics/boxlite/pkg/agentapi"
	"golang.org/x/sys/unix"
)

// Machine is the guest that this process is PID 1 of. It implements
// agent.Machine.
type Machine struct {
	upper int // directory of the writable file system, -1 without
	steps []agentapi.Step
	last  time.Duration
}

// New returns the machine, untouched.
func New() *Machine { return &Machine{upper: -1} }

// Directories of the initramfs, which package main of initramfs/pack puts there.
const (
	lowerDir = "/lower"
	upperDir = "/upper"
	newRoot  = "/newroot"
)

// Cgroup is where cgroup2 is mounted.
const Cgroup = "/sys/fs/cgroup"

// Setup makes the root and what programs expect in it. A step that does not work
// ends it with an error that names the step; the guest stays where it is then.
func (m *Machine) Setup(s *agentapi.Setup) (agentapi.Ready, error) {
	m.steps, m.last = nil, bootTime()
	if s.Hostname == "" {
		s.Hostname = "box"
	}
	var disk uint64
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"check", func() error { return check(s) }},
		{"root", func() (err error) { disk, err = m.root(s); return err }},
		{"mounts", func() error { return m.mounts(s) }},
		{"cgroup", func() error { return m.cgroups(s) }},
		{"names", func() error { return names(s) }},
		{"loopback", loopback},
		{"network", func() error { return network(&s.Network) }},
		{"limits", limits},
		{"clock", func() error { return clock(s.Time) }},
	} {
		if err := step.do(); err != nil {
			return agentapi.Ready{}, m.fault(step.name, err)
		}
		m.done(step.name)
	}
	return agentapi.Ready{Steps: m.steps, Disk: disk}, nil
}

// done notes how long a step took.
func (m *Machine) done(name string) {
	now := bootTime()
	m.steps = append(m.steps, agentapi.Step{Name: name, Took: now - m.last})
	m.last = now
}

// fault makes a typed error of a step's error and shows it on the console: the
// host may not be there any more to read it.
func (m *Machine) fault(step string, err error) error {
	e, ok := err.(*agentapi.Error)
	if !ok {
		e = &agentapi.Error{Code: agentapi.CodeSetup, Op: "setup: " + step, Msg: err.Error()}
		if s, ok := err.(*os.SyscallError); ok {
			if errno, ok := s.Err.(unix.Errno); ok {
				e.Errno = uint32(errno)
			}
		}
	}
	m.Log(e.Error())
	return e
}

func check(s *agentapi.Setup) error {
	bad := func(what string) error {
		return &agentapi.Error{Code: agentapi.CodeInvalid, Op: "setup: check", Msg: what}
	}
	if w := badHostname(s.Hostname); w != "" {
		return bad("host name " + w)
	}
	if w := badHosts(s.Hosts); w != "" {
		return bad("hosts: " + w)
	}
	if s.Root.Kind > agentapi.RootTmpfs {
		return bad("unknown kind of root")
	}
	return nil
}

// Log writes a line to the kernel's log, which has the console.
func (m *Machine) Log(text string) {
	fd, err := unix.Open("/dev/kmsg", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		os.Stderr.WriteString("boxlite-init: " + text + "\n")
		return
	}
	defer unix.Close(fd)
	// <3> is KERN_ERR, which "quiet" lets through. One write is one record, of at
	// most 1 KiB (Documentation/ABI/testing/dev-kmsg).
	unix.Write(fd, []byte("<3>boxlite-init: "+text[:min(len(text), 900)]+"\n"))
}

// Sync writes everything back and makes the disk's file system read-only, so
// that it is clean.
func (m *Machine) Sync() {
	unix.Sync()
	if m.upper < 0 {
		return
	}
	unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
	if unix.Fchdir(m.upper) == nil {
		if err := unix.Mount("", ".", "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			m.Log("the disk could not be made read-only: " + err.Error())
		}
	}
	unix.Sync()
}

// Halt resets the guest, which is how it tells the host that it has ended
// (reboot=t on the kernel's command line).
func (m *Machine) Halt() {
	unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	m.Log("reset did not work")
	for {
		unix.Pause()
	}
}

func bootTime() time.Duration {
	var ts unix.Timespec
	unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts)
	return time.Duration(ts.Nano())
}
