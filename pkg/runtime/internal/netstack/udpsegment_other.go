//go:build !linux

package netstack

import "golang.org/x/sys/unix"

const segmentsMost, segmentedMost = 1, 0

// segmentBy is what only Linux has.
func segmentBy(fd, each int) error { return unix.ENOTSUP }
