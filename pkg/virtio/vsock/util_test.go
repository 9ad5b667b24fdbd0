package vsock

import (
	"errors"

	"github.com/anthropics/boxlite/pkg/guestmem"
	"github.com/anthropics/boxlite/pkg/virtio/virtiotest"
)

func virtBuf(at guestmem.GPA, n uint32) virtiotest.Buf {
	return virtiotest.Buf{Addr: at, Len: n, Write: true}
}

func errorsIsAny(err error, targets ...error) bool {
	for _, t := range targets {
		if errors.Is(err, t) {
			return true
		}
	}
	return false
}
