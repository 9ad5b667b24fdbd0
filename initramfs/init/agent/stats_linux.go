package agent

import (
	"strconv"
	"strings"
	"time"

	"github.com/anthropics/boxlite/pkg/agentapi"
	"golang.org/x/sys/unix"
)

// stats reads what the kernel counts. What cannot be read stays 0.
func (s *Server) stats() (agentapi.Message, error) {
	if err := s.needReady("stats"); err != nil {
		return nil, err
	}
	m := &agentapi.GuestStats{Uptime: BootTime()}
	m.DiskTotal, m.DiskUsed = diskUsage("/")
	eachLine("/proc/stat", func(key string, f []string) bool {
		if key != "cpu" {
			return false // the CPUs one by one follow
		}
		at := func(i int) time.Duration { return ticks(number(f, i)) }
		// user nice system idle iowait irq softirq steal, proc_stat(5)
		m.CPUUser, m.CPUSystem = at(0)+at(1), at(2)+at(5)+at(6)
		m.CPUIdle, m.CPUSteal = at(3)+at(4), at(7)
		return true
	})
	memory := map[string]*uint64{
		"MemTotal:": &m.MemTotal, "MemFree:": &m.MemFree, "MemAvailable:": &m.MemAvail,
		"Cached:": &m.MemCache, "SwapTotal:": &m.SwapTotal, "SwapFree:": &m.SwapFree,
	}
	eachLine("/proc/meminfo", func(key string, f []string) bool {
		if v := memory[key]; v != nil {
			*v = number(f, 0) << 10
		}
		return true
	})
	eachLine("/proc/diskstats", func(_ string, f []string) bool {
		// minor name reads merged sectors ms writes merged sectors, of 512 bytes
		// (Documentation/admin-guide/iostats.rst)
		if len(f) > 8 && wholeDisk(f[1]) {
			m.BlockRead += number(f, 4) * 512
			m.BlockWrite += number(f, 8) * 512
		}
		return true
	})
	if b, err := readSmall("/proc/loadavg"); err == nil {
		f := strings.Fields(string(b))
		for i := range m.Load {
			if i < len(f) { // "0.12"
				whole, hundredths, _ := strings.Cut(f[i], ".")
				v, _ := strconv.ParseUint(whole+hundredths, 10, 32)
				m.Load[i] = uint32(v)
			}
		}
	}
	eachProcess(func(_ string, p *agentapi.ProcessInfo) {
		m.Processes++
		m.Threads += p.Threads
	})
	return m, nil
}

// wholeDisk tells the box's disks from partitions, loops and the like.
func wholeDisk(name string) bool { return len(name) == 3 && name[:2] == "vd" }

// eachLine calls f with the first word and the others of each line until it
// answers false.
func eachLine(path string, f func(key string, rest []string) bool) {
	b, err := readAll(path)
	if err != nil {
		return
	}
	for line := range strings.Lines(string(b)) {
		if w := strings.Fields(line); len(w) > 0 && !f(w[0], w[1:]) {
			return
		}
	}
}

func number(f []string, i int) uint64 {
	if i >= len(f) {
		return 0
	}
	v, _ := strconv.ParseUint(f[i], 10, 64)
	return v
}

// diskUsage tells how large a file system is and how much of it is in use.
func diskUsage(path string) (total, used uint64) {
	var fs unix.Statfs_t
	if unix.Statfs(path, &fs) != nil || fs.Bsize <= 0 {
		return 0, 0
	}
	size := uint64(fs.Bsize)
	return fs.Blocks * size, (fs.Blocks - min(fs.Bfree, fs.Blocks)) * size
}
