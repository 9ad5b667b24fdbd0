package netstack

import (
	"container/heap"
	"sync"
	"time"
)

// tcpTimers wake connections. What a connection waits for moves with each segment, mostly
// to a later time: it is looked at when the earlier one comes, so that a segment costs no
// work here.
type tcpTimers struct {
	table *tcpTable

	mu     sync.Mutex
	heap   timerHeap
	timer  *time.Timer
	at     time.Duration // when timer fires; 0 for never
	closed bool
}

// timerEntry is a connection in the heap.
type timerEntry struct {
	at    time.Duration // when it wakes, 0 for never; the connection's lock guards it too
	index int           // in the heap, or -1
}

func (t *tcpTimers) init(table *tcpTable) {
	t.table = table
	t.timer = time.AfterFunc(time.Hour, func() { table.net.spawn(t.run) })
	t.timer.Stop()
}

// wakeAt has onTime called at a time, or before. Preconditions: mu.
func (f *tcpFlow) wakeAt(at time.Duration) {
	if f.entry.at == 0 || at < f.entry.at {
		f.table.timers.set(f, at)
	}
}

func (t *tcpTimers) set(f *tcpFlow, at time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return
	}
	if f.entry.at = at; f.entry.index >= 0 {
		heap.Fix(&t.heap, f.entry.index)
	} else {
		heap.Push(&t.heap, f)
	}
	t.arm()
}

// woken notes that a connection that was due has its turn. It may have got another time
// meanwhile.
func (t *tcpTimers) woken(f *tcpFlow) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f.entry.index < 0 {
		f.entry.at = 0
	}
}

// remove forgets a connection.
func (t *tcpTimers) remove(f *tcpFlow) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f.entry.index >= 0 && !t.closed {
		heap.Remove(&t.heap, f.entry.index)
	}
	f.entry.at = 0
}

// arm sets the timer for the first in the heap. Preconditions: mu.
func (t *tcpTimers) arm() {
	if len(t.heap) == 0 {
		return
	}
	if first := t.heap[0].entry.at; t.at == 0 || first < t.at {
		t.at = first
		t.timer.Reset(first - t.table.now())
	}
}

// run wakes those whose time it is.
func (t *tcpTimers) run() {
	for _, f := range t.due() {
		f.onTime()
	}
}

func (t *tcpTimers) due() (flows []*tcpFlow) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.table.now()
	t.at = 0
	for len(t.heap) > 0 && t.heap[0].entry.at <= now {
		flows = append(flows, heap.Pop(&t.heap).(*tcpFlow))
	}
	t.arm()
	return flows
}

func (t *tcpTimers) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed, t.heap = true, nil
	t.timer.Stop()
}

// timerHeap is ordered by time.
type timerHeap []*tcpFlow

func (h timerHeap) Len() int           { return len(h) }
func (h timerHeap) Less(i, j int) bool { return h[i].entry.at < h[j].entry.at }
func (h timerHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].entry.index, h[j].entry.index = i, j
}

func (h *timerHeap) Push(x any) {
	f := x.(*tcpFlow)
	f.entry.index = len(*h)
	*h = append(*h, f)
}

func (h *timerHeap) Pop() any {
	last := len(*h) - 1
	f := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	f.entry.index = -1
	return f
}
