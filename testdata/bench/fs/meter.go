package main

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// meter reads what the guest says, looks at KVM's counters when a workload begins
// and ends, and prints a line for each.
type meter struct {
	requests func() uint64 // nil: unknown
	reasons  bool

	mu     sync.Mutex
	line   []byte
	name   string
	before sample
	idle   sample // what a workload that does nothing counts
	ended  bool
	all    map[string]uint64 // what KVM counts, with reasons
}

// sample is a look at the counters of this machine's only guest.
type sample struct{ exits, halts, mmio, requests uint64 }

const kvmDir = "/sys/kernel/debug/kvm/"

func newMeter(o *options, requests func() uint64) *meter {
	_ = syscall.Mount("debugfs", "/sys/kernel/debug", "debugfs", 0, "") // if it is not there yet
	fmt.Printf("%-18s %8s %12s %10s %8s %8s %8s %9s\n", "workload", "ops", "ns/op", "ops/s", "exits", "halts", "mmio", "requests")
	return &meter{requests: requests, reasons: o.reasons}
}

// counters are all that KVM counts.
func counters() map[string]uint64 {
	all := map[string]uint64{}
	names, _ := os.ReadDir(kvmDir)
	for _, n := range names {
		if p, err := os.ReadFile(kvmDir + n.Name()); err == nil {
			if v, err := strconv.ParseUint(strings.TrimSpace(string(p)), 10, 64); err == nil {
				all[n.Name()] = v
			}
		}
	}
	return all
}

func (m *meter) sample() (s sample) {
	for name, v := range map[string]*uint64{"exits": &s.exits, "halt_exits": &s.halts, "mmio_exits": &s.mmio} {
		p, _ := os.ReadFile(kvmDir + name)
		*v, _ = strconv.ParseUint(strings.TrimSpace(string(p)), 10, 64)
	}
	if m.requests != nil {
		s.requests = m.requests()
	}
	return s
}

func (s sample) minus(o sample) sample {
	sub := func(a, b uint64) uint64 { return a - min(a, b) }
	return sample{sub(s.exits, o.exits), sub(s.halts, o.halts), sub(s.mmio, o.mmio), sub(s.requests, o.requests)}
}

// Write takes the guest's console.
func (m *meter) Write(p []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.line = append(m.line, p...)
	for {
		line, rest, ok := bytes.Cut(m.line, []byte("\n"))
		if !ok {
			return len(p), nil
		}
		m.take(strings.TrimSpace(string(line)))
		m.line = append([]byte(nil), rest...)
	}
}

func (m *meter) take(line string) {
	w := strings.Fields(line)
	switch {
	case len(w) == 2 && w[0] == "begin":
		m.name, m.before = w[1], m.sample()
		if m.reasons {
			m.all = counters()
		}
	case len(w) == 3 && w[0] == "end":
		m.print(w[1], w[2], m.sample().minus(m.before))
		if m.reasons {
			m.more(w[1])
		}
	case line == "all done":
		m.ended = true
	case line != "":
		fmt.Println("#", line)
	}
}

// more prints what else KVM counted.
func (m *meter) more(ops string) {
	n, _ := strconv.ParseFloat(ops, 64)
	now := counters()
	for _, name := range slices.Sorted(maps.Keys(now)) {
		if d := now[name] - m.all[name]; d > 0 && now[name] >= m.all[name] {
			fmt.Printf("#   %-28s %10.2f\n", name, float64(d)/n)
		}
	}
}

func (m *meter) print(ops, ns string, d sample) {
	if m.name == "nothing" {
		m.idle = d
	} else {
		d = d.minus(m.idle)
	}
	n, _ := strconv.ParseFloat(ops, 64)
	t, _ := strconv.ParseFloat(ns, 64)
	n = max(n, 1)
	fmt.Printf("%-18s %8.0f %12.0f %10.0f %8.2f %8.2f %8.2f %9.2f\n", m.name, n, t/n, n*1e9/max(t, 1),
		float64(d.exits)/n, float64(d.halts)/n, float64(d.mmio)/n, float64(d.requests)/n)
}

func (m *meter) end() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.ended {
		return errors.New("the guest did not get to its end")
	}
	return nil
}
