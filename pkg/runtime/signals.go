package runtime

import (
	"strconv"
	"strings"
)

// maxSignal is Linux's SIGRTMAX.
const (
	maxSignal = 64
	sigKill   = 9
	sigTerm   = 15
	sigRTMin  = 34 // as C libraries count; the two below are theirs
)

// signalNumbers are those of Linux, which are the guest's on every host. They
// are the same on x86-64 and arm64.
var signalNumbers = map[string]int{
	"HUP": 1, "INT": 2, "QUIT": 3, "ILL": 4, "TRAP": 5, "ABRT": 6, "IOT": 6, "BUS": 7, "FPE": 8, "KILL": 9, "USR1": 10,
	"SEGV": 11, "USR2": 12, "PIPE": 13, "ALRM": 14, "TERM": 15, "STKFLT": 16, "CHLD": 17, "CLD": 17, "CONT": 18, "STOP": 19,
	"TSTP": 20, "TTIN": 21, "TTOU": 22, "URG": 23, "XCPU": 24, "XFSZ": 25, "VTALRM": 26, "PROF": 27, "WINCH": 28,
	"IO": 29, "POLL": 29, "PWR": 30, "SYS": 31, "RTMIN": sigRTMin, "RTMAX": maxSignal,
}

// ParseSignal reads a signal by name or number as `docker kill` takes it: "TERM",
// "SIGTERM", "sigterm", "15", "SIGRTMIN+3". The number is Linux's.
func ParseSignal(s string) (int, error) {
	if n, err := strconv.Atoi(s); err == nil {
		if n < 1 || n > maxSignal {
			return 0, fail(ErrInvalidArgument, "signal %d: choose 1 to %d", n, maxSignal)
		}
		return n, nil
	}
	name := strings.TrimPrefix(strings.ToUpper(s), "SIG")
	if n, ok := signalNumbers[name]; ok {
		return n, nil
	}
	for base, sign := range map[string]int{"RTMIN+": 1, "RTMAX-": -1} {
		if rest, ok := strings.CutPrefix(name, base); ok {
			if off, err := strconv.Atoi(rest); err == nil && off >= 0 && off <= maxSignal-sigRTMin {
				return signalNumbers[base[:5]] + sign*off, nil
			}
		}
	}
	return 0, fail(ErrInvalidArgument, "there is no signal %q: give a name such as TERM, or a number", s)
}

// stopSignal is an image's StopSignal, SIGTERM where it has none or none that exists.
func stopSignal(s string) (int, error) {
	if s == "" {
		return sigTerm, nil
	}
	n, err := ParseSignal(s)
	if err != nil {
		return sigTerm, err
	}
	return n, nil
}
