package netstack

import "time"

const (
	// openTime is how long each step of a handshake may take: the host's, and the guest's.
	openTime = 30 * time.Second
	// callTime is how long the guest may take to answer a connection to a forwarded port.
	callTime = 10 * time.Second

	// What is not acknowledged is sent again after firstRepeat, and after twice as long each
	// time up to lastRepeat, maxRepeats times; likewise the guest is asked whether its window
	// is still closed, without end while it answers. Nothing is lost in general, so what the
	// guest usually takes to answer is not measured (RFC 6298): its delayed acknowledgements
	// are what firstRepeat has to be longer than.
	firstRepeat = 500 * time.Millisecond
	lastRepeat  = time.Minute
	maxRepeats  = 12

	// A guest is asked whether it still knows a connection on which nothing has come for so
	// long, and so often before it counts as gone. A network inside the guest can lose its
	// reset, and the host's end would stay open for ever.
	keepIdle   = 2 * time.Minute
	keepProbes = 4

	// orphanTime is how long a guest may take nothing of what is left of a connection that
	// is over otherwise.
	orphanTime = 2 * time.Minute

	// sniffTime bounds how long a first request that is to be judged may take.
	sniffTime = 30 * time.Second

	// The host's kernel asks far ends, in seconds.
	hostKeepIdle, hostKeepInterval = 15, 15
)

// tcpDeadlines are what a connection waits for, in the table's time; 0 is never. Preconditions
// of all methods: mu.
type tcpDeadlines struct {
	deadline time.Duration // of the handshake
	repeatAt time.Duration // of what is not acknowledged, or of the question for a window
	sniffEnd time.Duration
	lastWord time.Duration // when the guest said something, or was thought to have
	progress time.Duration // when it took something

	interval time.Duration // between repetitions
	repeated int
	asked    int           // questions since lastWord
	askedAt  time.Duration // the last
	probing  bool          // repeatAt is for a closed window
	careful  bool          // the next segment goes alone
	orphaned bool          // all that is left is for the guest to take

	entry timerEntry
}

// expect sets when the handshake has to be over; 0 is for one that is.
func (f *tcpFlow) expect(d time.Duration) {
	if d == 0 {
		f.deadline = 0
		f.heard()
		f.progress = f.lastWord
		f.wakeAt(f.lastWord + f.table.idle)
		return
	}
	f.deadline = f.table.now() + d
	f.wakeAt(f.deadline)
}

// heard notes that the guest is there.
func (f *tcpFlow) heard() {
	f.lastWord, f.asked = f.table.now(), 0
}

// await has what was sent now repeated unless it is acknowledged in time.
func (f *tcpFlow) await() {
	if f.repeatAt == 0 || f.probing {
		f.again(f.table.repeat)
	}
}

// again is the time of the next repetition.
func (f *tcpFlow) again(after time.Duration) {
	f.interval, f.probing = after, false
	f.repeatAt = f.table.now() + after
	f.wakeAt(f.repeatAt)
}

// settle notes that the guest has acknowledged something, and begins to wait for the rest.
func (f *tcpFlow) settle() {
	f.dup, f.repeated, f.careful = 0, 0, false
	f.progress = f.lastWord
	f.repeatAt, f.probing = 0, false
	if f.una != f.top {
		f.again(f.table.repeat)
	}
}

// watchWindow sees to it that a window that is closed is asked for, and that a guest does
// not wait for ever before it takes what is left.
func (f *tcpFlow) watchWindow() {
	if f.state != tcpOpen || f.gone {
		return
	}
	if f.repeatAt == 0 && !f.blocked && f.una == f.top && (f.out.n > 0 || f.ended && !f.acked) {
		f.again(f.table.repeat)
		f.probing = true
	}
	if (f.shut && (f.ended || f.hung) || f.broken != nil) && !f.orphaned {
		f.orphaned, f.progress = true, f.table.now()
		f.wakeAt(f.progress + f.table.orphan)
	}
}

// sniffing notes the first bytes that are judged.
func (f *tcpFlow) sniffing() {
	if f.sniffEnd == 0 {
		f.sniffEnd = f.table.now() + sniffTime
		f.wakeAt(f.sniffEnd)
	}
}

// onTime does what is due, and sets when it looks again.
func (f *tcpFlow) onTime() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.table.timers.woken(f)
	if f.state == tcpOver {
		return
	}
	now := f.table.now()
	due := func(at time.Duration) bool { return at != 0 && at <= now }
	if due(f.deadline) {
		err := errSilent
		if f.state <= tcpConnecting {
			err = errTimeout
		}
		f.end(err)
		return
	}
	if due(f.repeatAt) {
		f.repeatNow(now)
	}
	if f.state == tcpOpen {
		f.lookAfter(now)
	}
	if next := f.nextTime(); f.state != tcpOver && next != 0 {
		f.wakeAt(next)
	}
}

// repeatNow sends again what was not acknowledged.
func (f *tcpFlow) repeatNow(now time.Duration) {
	probing := f.probing
	f.again(min(2*f.interval, lastRepeat))
	switch {
	case f.state == tcpAnswered, f.state == tcpCalling:
		f.answer()
	case probing, f.window == 0: // which may have closed over what was sent
		f.nxt = f.una
		f.probing = true
		f.probe()
	case f.repeated == maxRepeats:
		f.end(errSilent)
	default:
		f.repeated++
		f.nxt, f.recover = f.una, f.top
		f.careful = true
		if f.pump() > 0 {
			f.flushCard()
		}
	}
}

// lookAfter ends an open connection that leads nowhere, and asks the guest for a sign.
func (f *tcpFlow) lookAfter(now time.Duration) {
	switch {
	case f.gone:
		if now-f.progress >= f.table.orphan {
			f.end(errReset)
		}
	case f.sniff != nil && f.sniffEnd != 0 && f.sniffEnd <= now: // a slow speaker is judged by what there is
		if err := f.judged(f.sniff.End(false), true); err != nil {
			f.end(err)
		}
	case f.orphaned && now-f.progress >= f.table.orphan:
		f.end(errOrphan)
	case now < f.nextQuestion():
	case f.asked == keepProbes:
		f.end(errSilent)
	default:
		f.asked++
		f.askedAt = now
		f.probe()
	}
}

// nextQuestion is when the guest is to be asked whether it is there. However late a look
// comes, it has time to answer each.
func (f *tcpFlow) nextQuestion() time.Duration {
	if f.asked > 0 {
		return f.askedAt + f.table.idle/4
	}
	return f.lastWord + f.table.idle
}

// nextTime is when there is something to look at.
func (f *tcpFlow) nextTime() time.Duration {
	var next time.Duration
	sooner := func(at time.Duration) {
		if at != 0 && (next == 0 || at < next) {
			next = at
		}
	}
	sooner(f.deadline)
	sooner(f.repeatAt)
	if f.gone {
		return f.progress + f.table.orphan
	}
	if f.state == tcpOpen {
		sooner(f.nextQuestion())
		if f.sniff != nil {
			sooner(f.sniffEnd)
		}
		if f.orphaned {
			sooner(f.progress + f.table.orphan)
		}
	}
	return next
}
