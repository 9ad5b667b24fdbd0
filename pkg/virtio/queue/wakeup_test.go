package queue_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/anthropics/boxlite/pkg/virtio/queue"
)

// TestHostile16NoLostWakeup passes a million requests between two goroutines that
// both sleep whenever the protocol lets them, while the driver keeps changing its
// mind about interrupts and leaves garbage in used_event when it wants none. A
// lost wakeup on either side stops everything.
func TestHostile16NoLostWakeup(t *testing.T) {
	for _, eventIdx := range []bool{false, true} {
		_, r, q := pair(t, 64, eventIdx)
		const requests = 500_000
		kick, irq := make(chan struct{}, 1), make(chan struct{}, 1)
		ring := func(c chan struct{}) {
			select {
			case c <- struct{}{}:
			default:
			}
		}
		deadline := time.After(5 * time.Minute)
		failed := make(chan error, 1)
		go func() { failed <- device(q, requests, kick, func() { ring(irq) }, deadline) }()

		rnd := rand.New(rand.NewPCG(16, 16))
		for added, reaped := 0, 0; reaped < requests; {
			for burst := rnd.IntN(64); burst > 0 && r.Free() > 0 && added < requests; burst-- {
				r.Add(read(dataAt, 8))
				added++
			}
			if r.NeedKick() {
				ring(kick)
			}
			switch rnd.IntN(4) {
			case 0:
				r.RefuseInterrupts()
			case 1:
				r.SetUsedEvent(uint16(rnd.Uint32()))
			}
			for {
				if _, ok := r.Reap(); !ok {
					break
				}
				reaped++
			}
			if (added == requests || r.Free() == 0) && reaped < added && !r.WantInterrupt() {
				select {
				case <-irq:
				case err := <-failed:
					t.Fatalf("event index %t: device stopped: %v", eventIdx, err)
				case <-deadline:
					t.Fatalf("event index %t: lost wakeup after %d of %d requests", eventIdx, reaped, added)
				}
			}
		}
		if err := <-failed; err != nil {
			t.Fatal(err)
		}
	}
}

// device serves requests as every device does, and counts.
func device(q *queue.Queue, requests int, kick <-chan struct{}, interrupt func(), deadline <-chan time.Time) error {
	var c queue.Chain
	for served := 0; ; {
		q.DisableNotify()
		for {
			ok, err := q.Pop(&c)
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			if err := q.Push(c.Head, 0); err != nil {
				return err
			}
			served++
			if served%7 == 0 && q.NeedInterrupt() {
				interrupt()
			}
		}
		if q.NeedInterrupt() {
			interrupt()
		}
		if served == requests {
			return nil
		}
		if more, err := q.EnableNotify(); err != nil {
			return err
		} else if more {
			continue
		}
		select {
		case <-kick:
		case <-deadline:
			return fmt.Errorf("lost wakeup after %d of %d requests", served, requests)
		}
	}
}
