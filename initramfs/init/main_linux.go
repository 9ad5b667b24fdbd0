// Command init is PID 1 of every box: it makes the guest that the kernel has
// booted into a box as the host says, and serves the agent API until the box
// ends.
//
// The debug settings keep the runtime from polling cgroup files for its number
// of threads: no quota applies to PID 1.
//
//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0
package main

import (
	"os"
	"time"

	"github.com/anthropics/boxlite/initramfs/init/agent"
	"github.com/anthropics/boxlite/initramfs/init/boot"
	"github.com/anthropics/boxlite/initramfs/init/vsock"
	"github.com/anthropics/boxlite/pkg/agentapi"
)

// build is set by the linker.
var build = "dev"

// dialTimeout bounds the first call to the host: it listens before it boots.
const dialTimeout = 5 * time.Second

func main() {
	started := agent.BootTime()
	if os.Getpid() != 1 {
		os.Stderr.WriteString("init: runs as PID 1 of a box only\n")
		os.Exit(125)
	}
	agent.New(agent.Config{
		Machine: boot.New(),
		Dial:    func() (agent.Conn, error) { return orNil(vsock.Dial(agentapi.PortControl, dialTimeout)) },
		Listen: func(port uint32) (agent.Listener, error) {
			l, err := vsock.Listen(port)
			if err != nil {
				return nil, err
			}
			return listener{l}, nil
		},
		Cgroup: boot.Cgroup,
		Agent:  build,
		Init:   started,
	}).Run()
}

// listener fits the types together.
type listener struct{ *vsock.Listener }

func (l listener) Accept() (agent.Conn, error) { return orNil(l.Listener.Accept()) }

func orNil(c vsock.Conn, err error) (agent.Conn, error) {
	if err != nil {
		return nil, err
	}
	return c, nil
}
