package vmm

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// BootError says that a VM ended before its guest was ready.
type BootError struct{ Report *Report }

func (e *BootError) Error() string { return "boot: " + e.Report.String() }

// hint says what usually helps, where that is known.
func hint(r *Report) string {
	switch {
	case r.Cause == CausePanic && strings.Contains(r.Detail, "Out of memory"),
		strings.Contains(r.Console, "Out of memory"):
		return "the guest ran out of memory; give the box more with --memory"
	case r.Cause == CausePanic && strings.Contains(r.Detail, "init"):
		return "the guest's init died; the console tail shows its last words"
	case r.Cause == CauseFailed && r.Exits["failed"] > 0:
		return "this host's KVM cannot run the guest; `boxlite doctor` says what is missing"
	case r.Cause == CauseStall:
		return "`boxlite doctor` tells whether this host's KVM works; a slower limit can be set with BOXLITE_BOOT_STALL (a duration, 0 for none)"
	}
	return ""
}

// String is the report for a person, over several lines.
func (r *Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "the box %s", r.Cause)
	if !r.Clean() {
		b.Reset()
		b.WriteString(string(r.Cause))
	}
	if r.Detail != "" {
		fmt.Fprintf(&b, ": %s", r.Detail)
	}
	if (r.Cause == CauseConfig || r.Cause == CauseMount) && r.Hint == "" {
		return b.String() // nothing ran that there could be more to say of
	}
	if r.Hint != "" {
		fmt.Fprintf(&b, "\n  hint: %s", r.Hint)
	}
	fmt.Fprintf(&b, "\n  last stage: %s", r.Stage)
	if len(r.Exits) > 0 {
		b.WriteString("\n  exits:")
		for _, k := range slices.Sorted(maps.Keys(r.Exits)) {
			fmt.Fprintf(&b, " %s=%d", k, r.Exits[k])
		}
	}
	if n := len(r.LastExits); n > 0 {
		fmt.Fprintf(&b, "\n  last exits: %s", strings.Join(r.LastExits[max(0, n-6):], "; "))
	}
	section(&b, "registers", r.Registers, 12)
	section(&b, "console", r.Console, 12)
	section(&b, "vmm", r.Log, 8)
	return b.String()
}

// section adds the last lines of a text under a title.
func section(b *strings.Builder, title, text string, lines int) {
	text = strings.TrimRight(text, "\n")
	if text == "" {
		return
	}
	all := strings.Split(text, "\n")
	fmt.Fprintf(b, "\n  %s:", title)
	for _, l := range all[max(0, len(all)-lines):] {
		fmt.Fprintf(b, "\n    %s", l)
	}
}

func writeReport(dir string, r *Report) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(dir, reportName)
	if err := os.WriteFile(path+".new", append(b, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// ReadReport returns how the last VM of the box in this folder ended.
func ReadReport(dir string) (*Report, error) {
	b, err := os.ReadFile(filepath.Join(dir, reportName))
	if err != nil {
		return nil, err
	}
	r := new(Report)
	return r, r.decode(b)
}
