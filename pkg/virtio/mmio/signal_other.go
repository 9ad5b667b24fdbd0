//go:build !linux

package mmio

// signal has nothing to do: where there is no eventfd, no device has one.
func signal(int) {}
