package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/anthropics/boxlite/pkg/runtime"
)

// statsPatience is how long a guest may take for its figures. A display does not
// wait longer than this for any box, and asks no box again that still owes an
// answer.
const statsPatience = 800 * time.Millisecond

// guestDeadline ends a question that nobody waits for any more.
const guestDeadline = 10 * time.Second

// sampler takes figures of boxes.
type sampler struct {
	rt    *runtime.Runtime
	keys  []string // ids of the boxes that were named
	named bool

	mu    sync.Mutex
	boxes map[string]*tracked
}

// tracked is a box of which figures have been taken.
type tracked struct {
	mu     sync.Mutex // guards what follows
	box    *runtime.LiteBox
	asking bool
	at     time.Time // of cpu
	cpu    time.Duration
	pid    int
}

func newSampler(rt *runtime.Runtime, names []string) *sampler {
	return &sampler{rt: rt, keys: names, named: len(names) > 0, boxes: map[string]*tracked{}}
}

// resolve turns names into ids, which stay the same.
func (s *sampler) resolve(ctx context.Context) error {
	for i, name := range s.keys {
		info, err := s.rt.GetInfo(ctx, name)
		if err != nil {
			return err
		}
		s.keys[i] = string(info.ID)
	}
	return nil
}

// infos lists the boxes to show: those that were named and exist, or all that run.
func (s *sampler) infos(ctx context.Context) (list []runtime.BoxInfo, err error) {
	if s.named {
		for _, id := range s.keys {
			info, err := s.rt.GetInfo(ctx, id)
			if errors.Is(err, runtime.ErrNotFound) {
				continue
			} else if err != nil {
				return nil, err
			}
			list = append(list, info)
		}
		return list, nil
	}
	all, err := s.rt.ListInfo(ctx)
	for _, info := range all {
		if info.Status.IsActive() {
			list = append(list, info)
		}
	}
	return list, err
}

// reading is what is known of a box at one moment.
type reading struct {
	info     runtime.BoxInfo
	guest    runtime.GuestStats
	answers  bool
	cpu      time.Duration // of the VM process
	cpuKnown bool
	percent  float64 // of one CPU, since the reading before
	compared bool    // there was one
}

// read takes a reading of every box at once. Those whose guests do not answer in
// time are in it without the guest's figures.
func (s *sampler) read(ctx context.Context) ([]reading, error) {
	infos, err := s.infos(ctx)
	if err != nil {
		return nil, err
	}
	list := make([]reading, len(infos))
	answers := make([]<-chan runtime.GuestStats, len(infos))
	for i, info := range infos {
		t := s.track(string(info.ID))
		list[i].info = info
		t.readCPU(&list[i])
		answers[i] = s.ask(ctx, t, info)
	}
	patience := time.NewTimer(statsPatience)
	defer patience.Stop()
	late := false
	for i, answer := range answers {
		if late { // what has come meanwhile is taken, nothing is waited for
			select {
			case list[i].guest, list[i].answers = <-answer:
			default:
			}
			continue
		}
		select {
		case list[i].guest, list[i].answers = <-answer:
		case <-patience.C:
			late = true
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	s.forget(infos)
	return list, nil
}

// track returns what is kept about a box.
func (s *sampler) track(id string) *tracked {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.boxes[id] == nil {
		s.boxes[id] = new(tracked)
	}
	return s.boxes[id]
}

// forget drops what is kept about boxes that are gone.
func (s *sampler) forget(there []runtime.BoxInfo) {
	ids := map[string]bool{}
	for _, info := range there {
		ids[string(info.ID)] = true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := range s.boxes {
		if !ids[id] {
			delete(s.boxes, id)
		}
	}
}

// ask asks the guest in the background. The channel is closed without a value
// when there is no answer.
func (s *sampler) ask(ctx context.Context, t *tracked, info runtime.BoxInfo) <-chan runtime.GuestStats {
	answer := make(chan runtime.GuestStats, 1)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.asking || !info.Status.IsRunning() {
		close(answer)
		return answer
	}
	t.asking = true
	go func() {
		defer close(answer)
		ctx, cancel := context.WithTimeout(ctx, guestDeadline)
		defer cancel()
		stats, err := s.guestStats(ctx, t, string(info.ID))
		if err == nil {
			answer <- stats
		}
		t.mu.Lock()
		t.asking = false
		t.mu.Unlock()
	}()
	return answer
}

func (s *sampler) guestStats(ctx context.Context, t *tracked, id string) (runtime.GuestStats, error) {
	t.mu.Lock()
	box := t.box
	t.mu.Unlock()
	if box == nil {
		var err error
		if box, err = s.rt.Get(ctx, id); err != nil {
			return runtime.GuestStats{}, err
		}
		t.mu.Lock()
		t.box = box
		t.mu.Unlock()
	}
	return box.GuestStats(ctx)
}

// readCPU reads the time of the VM process, and compares it with the last time.
func (t *tracked) readCPU(r *reading) {
	if r.info.PID == 0 {
		return
	}
	now := time.Now()
	if r.cpu, r.cpuKnown = r.info.CPUTime(); !r.cpuKnown {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.pid == r.info.PID && now.After(t.at) {
		r.percent = max(100*float64(r.cpu-t.cpu)/float64(now.Sub(t.at)), 0)
		r.compared = true
	}
	t.pid, t.at, t.cpu = r.info.PID, now, r.cpu
}

// sample is a reading as rows of the table.
func (s *sampler) sample(ctx context.Context) ([]boxStats, error) {
	list, err := s.read(ctx)
	if err != nil {
		return nil, err
	}
	rows := make([]boxStats, 0, len(list))
	for _, r := range list {
		row := boxStats{
			ID: string(r.info.ID), Name: r.info.Name, Status: r.info.Status, Answers: r.answers, CPUPercent: r.percent, cpuKnown: r.compared,
			MemoryLimit: int64(r.info.MemoryMiB) << 20,
		}
		if r.answers {
			row.MemoryUsed, row.PIDs = r.guest.MemoryUsed(), r.guest.Threads
			row.BlockRead, row.BlockWrite = r.guest.BlockRead, r.guest.BlockWrite
			if row.MemoryLimit > 0 {
				row.MemoryPercent = 100 * float64(row.MemoryUsed) / float64(row.MemoryLimit)
			}
		}
		rows = append(rows, row)
	}
	return rows, nil
}
