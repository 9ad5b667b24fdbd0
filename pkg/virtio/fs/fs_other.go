//go:build !linux

package fs

import (
	"fmt"
	"runtime"

	"github.com/anthropics/boxlite/pkg/virtio/queue"
)

// server is not there: what confines a guest to the shared folder is Linux's.
type server struct{}

type scratch struct{}

func newServer(*Device) (*server, error) {
	return nil, fmt.Errorf("fs: %w (%s)", ErrNotSupported, runtime.GOOS)
}

func (*server) start()       {}
func (*server) stop()        {}
func (*server) close() error { return nil }

func (*worker) handle(c *queue.Chain) (n uint32, answered bool) { return 0, true }
