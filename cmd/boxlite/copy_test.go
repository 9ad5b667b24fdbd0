package main

import (
	"strings"
	"testing"
	"time"

	"github.com/anthropics/boxlite/cmd/boxlite/internal/exposition"
	"github.com/anthropics/boxlite/pkg/runtime"
	"github.com/stretchr/testify/require"
)

func TestSplitBox(t *testing.T) {
	for arg, want := range map[string][2]string{
		"box:/etc": {"box", "/etc"}, "box:etc": {"box", "etc"}, "box:/a:b": {"box", "/a:b"}, "box:": {"box", ""},
		"/a:b": {"", "/a:b"}, "./a:b": {"", "./a:b"}, "../a:b": {"", "../a:b"}, "dir/a:b": {"", "dir/a:b"}, "file": {"", "file"}, "-": {"", "-"},
	} {
		box, path := splitBox(arg)
		require.Equal(t, want, [2]string{box, path}, arg)
	}
	for src, want := range map[string]string{
		"/": ".", "/.": ".", "/etc": "etc", "/etc/": "etc", "/etc/.": ".", "etc": "etc", ".": ".", "/a/..": ".", "..": ".", "/a/../b": "b",
	} {
		require.Equal(t, want, archiveName(src), src)
	}
}

func TestCopyMistakes(t *testing.T) {
	home := t.TempDir()
	for _, c := range []struct{ from, to, want string }{
		{"a", "b", "neither path is in a box"}, {"x:a", "y:b", "both paths are in boxes"}, {"x:", "b", "a path is empty"},
		{"nobox:/a", "b", "no box has the id or name"},
	} {
		err := copyFiles(t.Context(), &globalOptions{home: home}, copyFlags{}, c.from, c.to)
		require.ErrorContains(t, err, c.want)
	}
}

func TestProcessRow(t *testing.T) {
	now := time.Date(2026, 5, 4, 12, 30, 0, 0, time.Local)
	p := runtime.Process{PID: 7, PPID: 1, UID: 1000, CPU: 90 * time.Minute, Start: now.Add(-3 * time.Hour), Command: "x y"}
	require.Equal(t, []string{"1000", "7", "1", "50", "09:30", "?", "01:30:00", "x y"}, processRow(p, now))
	p.UID, p.TTY, p.Start = 0, "pts/1", now.Add(-50*time.Hour)
	require.Equal(t, []string{"root", "7", "1", "3", "May02", "pts/1", "01:30:00", "x y"}, processRow(p, now))
	p.Start = now.AddDate(-1, 0, 0)
	require.Equal(t, "2025", processRow(p, now)[4])
	p.Start = now.Add(time.Hour) // a guest may say anything
	require.Equal(t, "0", processRow(p, now)[3])
}

func TestStatsText(t *testing.T) {
	for n, want := range map[int64]string{0: "0B", 1023: "1023B", 1024: "1KiB", 5 << 20: "5MiB", 1610612736: "1.5GiB", 1 << 62: "4096PiB"} {
		require.Equal(t, want, binarySize(n))
	}
	require.Equal(t, "1.5MB", decimalSize(1_500_000))
	var out strings.Builder
	rows := []boxStats{
		{ID: "A", Name: "a", Answers: true, CPUPercent: 12.345, cpuKnown: true, MemoryUsed: 64 << 20, MemoryLimit: 256 << 20, MemoryPercent: 25, BlockRead: 4096, PIDs: 3},
		{ID: "B", MemoryLimit: 1 << 30},
	}
	require.NoError(t, showStats(&out, "table", rows))
	lines := strings.Split(out.String(), "\n")
	require.Equal(t, strings.Fields("A a 12.35% 64MiB / 256MiB 25.00% - 4.096kB / 0B 3"), strings.Fields(lines[1]))
	require.Equal(t, strings.Fields("B -- -- / 1GiB -- - -- --"), strings.Fields(lines[2]))
	out.Reset()
	require.NoError(t, showStats(&out, "{{.Name}}={{.CPUPerc}} {{.PIDs}}", rows[:1]))
	require.Equal(t, "a=12.35% 3\n", out.String())
}

func TestPrometheus(t *testing.T) {
	info := runtime.BoxInfo{ID: "ID", Name: "n\"", Status: runtime.StatusRunning, MemoryMiB: 1, Image: "i"}
	var out strings.Builder
	metrics := append(runtimeMetrics([]runtime.BoxInfo{info}, runtime.RuntimeMetrics{BoxesCreatedTotal: 7}), boxMetrics([]reading{
		{info: info, answers: true, cpu: 1500 * time.Millisecond, cpuKnown: true, guest: runtime.GuestStats{MemoryTotal: 100, MemoryAvailable: 40, Processes: 2}},
		{info: runtime.BoxInfo{ID: "HUNG"}},
	})...)
	require.NoError(t, exposition.Write(&out, metrics...))
	for _, line := range []string{
		`boxlite_boxes{status="running"} 1`, `boxlite_boxes{status="stopped"} 0`,
		`boxlite_box_cpu_seconds_total{id="ID",name="n\""} 1.5`, `boxlite_box_memory_used_bytes{id="ID",name="n\""} 60`,
		`boxlite_box_up{id="HUNG",name=""} 0`, `boxlite_box_guest_cpu_seconds_total{id="ID",name="n\"",mode="user"} 0`,
	} {
		require.Contains(t, out.String(), line+"\n")
	}
	require.NotContains(t, out.String(), `boxlite_box_processes{id="HUNG"`)
	for _, m := range metrics { // as promtool's linter has it
		require.Equal(t, m.Type == exposition.Counter, strings.HasSuffix(m.Name, "_total"), m.Name)
	}
}
