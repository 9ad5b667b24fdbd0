package main

import (
	"context"
	"io"

	"github.com/anthropics/boxlite/cmd/boxlite/internal/exposition"
	"github.com/anthropics/boxlite/pkg/runtime"
)

// prometheus prints one reading as metrics.
func (s *sampler) prometheus(ctx context.Context, w io.Writer) error {
	all, err := s.rt.ListInfo(ctx)
	if err != nil {
		return err
	}
	list, err := s.read(ctx)
	if err != nil {
		return err
	}
	return exposition.Write(w, append(runtimeMetrics(all), boxMetrics(list)...)...)
}

// runtimeMetrics are about all boxes of the home.
func runtimeMetrics(all []runtime.BoxInfo) []*exposition.Metric {
	build := &exposition.Metric{Name: "boxlite_build_info", Help: "Version of the program; always 1.", Type: exposition.Gauge}
	build.Add(1, "version", version)
	boxes := &exposition.Metric{Name: "boxlite_boxes", Help: "Boxes by status.", Type: exposition.Gauge}
	for _, status := range []runtime.BoxStatus{
		runtime.StatusConfigured, runtime.StatusRunning, runtime.StatusStopping, runtime.StatusStopped, runtime.StatusUnknown,
	} {
		n := 0
		for _, info := range all {
			if info.Status == status {
				n++
			}
		}
		boxes.Add(float64(n), "status", string(status))
	}
	return []*exposition.Metric{build, boxes}
}

// boxMetrics are about single boxes, each labelled with its id and name.
func boxMetrics(list []reading) []*exposition.Metric {
	var out []*exposition.Metric
	metric := func(name, help string, t exposition.Type) *exposition.Metric {
		m := &exposition.Metric{Name: "boxlite_box_" + name, Help: help, Type: t}
		out = append(out, m)
		return m
	}
	info := metric("info", "What a box is; always 1.", exposition.Gauge)
	up := metric("up", "Whether the box's guest gave its figures.", exposition.Gauge)
	cpu := metric("cpu_seconds_total", "CPU time of the box's VM process.", exposition.Counter)
	limit := metric("memory_limit_bytes", "Memory that the box has.", exposition.Gauge)
	used := metric("memory_used_bytes", "Memory that programs and the kernel in the box hold.", exposition.Gauge)
	uptime := metric("uptime_seconds", "Time since the guest's kernel began.", exposition.Gauge)
	guest := metric("guest_cpu_seconds_total", "CPU time as the guest counts it.", exposition.Counter)
	load := metric("guest_load1", "Runnable tasks in the guest, on average over a minute.", exposition.Gauge)
	processes := metric("processes", "Processes in the box.", exposition.Gauge)
	threads := metric("threads", "Threads of the box's processes.", exposition.Gauge)
	size := metric("disk_size_bytes", "Size of the box's root file system.", exposition.Gauge)
	full := metric("disk_used_bytes", "What is used of the box's root file system.", exposition.Gauge)
	read := metric("block_read_bytes_total", "Bytes read from the box's disks since it booted.", exposition.Counter)
	written := metric("block_written_bytes_total", "Bytes written to the box's disks since it booted.", exposition.Counter)
	for _, r := range list {
		box := []string{"id", r.info.ID, "name", r.info.Name}
		with := func(more ...string) []string { return append(box[:len(box):len(box)], more...) }
		info.Add(1, with("image", r.info.Image, "status", string(r.info.Status))...)
		limit.Add(float64(int64(r.info.MemoryMiB)<<20), box...)
		if r.cpuKnown {
			cpu.Add(r.cpu.Seconds(), box...)
		}
		if !r.answers {
			up.Add(0, box...)
			continue
		}
		g := r.guest
		up.Add(1, box...)
		used.Add(float64(g.MemoryUsed()), box...)
		uptime.Add(g.Uptime.Seconds(), box...)
		guest.Add(g.CPUUser.Seconds(), with("mode", "user")...)
		guest.Add(g.CPUSystem.Seconds(), with("mode", "system")...)
		guest.Add(g.CPUIdle.Seconds(), with("mode", "idle")...)
		guest.Add(g.CPUSteal.Seconds(), with("mode", "steal")...)
		load.Add(g.Load[0], box...)
		processes.Add(float64(g.Processes), box...)
		threads.Add(float64(g.Threads), box...)
		size.Add(float64(g.DiskTotal), box...)
		full.Add(float64(g.DiskUsed), box...)
		read.Add(float64(g.BlockRead), box...)
		written.Add(float64(g.BlockWrite), box...)
	}
	return out
}
