//go:build !linux

package vsock

func newPoller() (poller, error) { return newPollList() }
