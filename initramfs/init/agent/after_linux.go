package agent

import "time"

// after closes a channel after d, unless stop comes first. It stands for
// [time.NewTimer]: a channel of [time.Time] brings that type's methods into the
// program, and with them layouts and time zones, 64 KiB that every boot copies.
func after(d time.Duration) (fired <-chan struct{}, stop func() bool) {
	c := make(chan struct{})
	return c, time.AfterFunc(d, func() { close(c) }).Stop
}
