package agent

import (
	"bytes"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/anthropics/boxlite/pkg/agentapi"
)

// userHZ is the unit of times in /proc/<pid>/stat and /proc/stat: USER_HZ is 100
// on both architectures (include/asm-generic/param.h).
const userHZ = 100

func ticks(v uint64) time.Duration { return time.Duration(v) * (time.Second / userHZ) }

// pfKThread marks threads of the kernel (PF_KTHREAD, include/linux/sched.h).
const pfKThread = 0x00200000

// eachProcess calls f for every process of the box with what its stat file says:
// all but the kernel's threads and ourselves.
func eachProcess(f func(name string, p *agentapi.ProcessInfo)) {
	self := os.Getpid()
	for _, name := range list("/proc") {
		pid, err := strconv.Atoi(name)
		if err != nil || pid == self {
			continue
		}
		b, err := readSmall("/proc/" + name + "/stat")
		if err != nil {
			continue // it has ended
		}
		p := &agentapi.ProcessInfo{PID: uint32(pid)}
		if parseStat(b, p) {
			f(name, p)
		}
	}
}

// parseStat reads /proc/<pid>/stat, except for what stands in cmdline and status.
// The fields are numbered as in proc(5); it answers false for what is no process
// of the box.
func parseStat(b []byte, p *agentapi.ProcessInfo) bool {
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 0 || end < open {
		return false
	}
	f := bytes.Fields(b[end+1:]) // from field 3 on
	if len(f) < 22 {             // up to field 24
		return false
	}
	field := func(n int) uint64 {
		v, _ := strconv.ParseUint(string(f[n-3]), 10, 64)
		return v
	}
	if field(9)&pfKThread != 0 {
		return false
	}
	p.State, p.PPID, p.TTY, p.Threads = f[0][0], uint32(field(4)), uint32(field(7)), uint32(field(20))
	p.CPU, p.Start = ticks(field(14)+field(15)), ticks(field(22))
	p.RSS = field(24) * uint64(os.Getpagesize())
	p.Command = "[" + string(b[open+1:end]) + "]"
	if p.State == 'Z' {
		p.Command += " <defunct>"
	}
	return true
}

// processes lists the box's processes.
func (s *Server) processes() (agentapi.Message, error) {
	if err := s.needReady("processes"); err != nil {
		return nil, err
	}
	answer := &agentapi.ProcessList{Now: BootTime()}
	eachProcess(func(name string, p *agentapi.ProcessInfo) {
		if answer.Total++; len(answer.List) == agentapi.MaxProcesses {
			return
		}
		p.UID = effectiveUID(name)
		if c := commandLine(name); c != "" {
			p.Command = c
		}
		if len(p.Command) > agentapi.MaxCommandLine {
			p.Command = p.Command[:agentapi.MaxCommandLine]
		}
		answer.List = append(answer.List, *p)
	})
	return answer, nil
}

// effectiveUID is the second number of the line "Uid:" (proc_pid_status(5)).
func effectiveUID(pid string) uint32 {
	b, err := readSmall("/proc/" + pid + "/status")
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(b), "\nUid:")
	line, _, _ := strings.Cut(rest, "\n")
	if f := strings.Fields(line); len(f) > 1 {
		v, _ := strconv.ParseUint(f[1], 10, 32)
		return uint32(v)
	}
	return 0
}

// commandLine returns a process's arguments with spaces between them.
func commandLine(pid string) string {
	b, err := readSmall("/proc/" + pid + "/cmdline")
	if err != nil {
		return ""
	}
	b = bytes.TrimRight(b, "\x00")
	for i, c := range b {
		if c == 0 {
			b[i] = ' '
		}
	}
	return string(b)
}
