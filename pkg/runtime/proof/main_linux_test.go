package proof

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/anthropics/boxlite/pkg/machine/machinetest"
	"golang.org/x/sys/unix"
)

// insideEnv marks the process that is in namespaces of its own.
const insideEnv = "BOXLITE_PROOF_INSIDE"

func TestMain(m *testing.M) {
	if os.Getenv(machinetest.RequireEnv) == "" || os.Getenv(insideEnv) != "" {
		os.Exit(m.Run())
	}
	code, err := runInside()
	if err != nil {
		fmt.Fprintln(os.Stderr, "proof: a process in namespaces of its own:", err)
		code = 1
	}
	os.Exit(code)
}

// runInside runs this program again, with a network and mounts of its own, and as
// root of a user namespace where it is not root.
func runInside() (int, error) {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	} else if err := moreFiles(); err != nil {
		return 0, err
	}
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() >= 0 {
		return exit.ExitCode(), nil
	}
	return 0, err
}

// files is how many descriptors a process must be allowed to have: a VMM needs one for
// each connection of its box, of which there are 10,000 at most, and keeps others for
// other things (netstack's limits). The rig's kernel allows 4096.
const files = 32 << 10

func moreFiles() error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil || limit.Max >= files {
		return os.NewSyscallError("getrlimit", err)
	}
	limit.Max = files
	return os.NewSyscallError("setrlimit", unix.Setrlimit(unix.RLIMIT_NOFILE, &limit))
}
