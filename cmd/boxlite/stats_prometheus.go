package main

import (
	"context"
	"errors"
	"io"
	"time"

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
	counters, err := s.rt.Metrics(ctx)
	if err != nil {
		return err
	}
	counts := newBoxCounters()
	metrics := append(runtimeMetrics(all, counters), boxMetrics(list)...)
	for _, info := range all {
		box, err := s.rt.Get(ctx, string(info.ID))
		if errors.Is(err, runtime.ErrNotFound) {
			continue // it has just gone
		} else if err != nil {
			return err
		}
		m, err := box.Metrics(ctx)
		if errors.Is(err, runtime.ErrNotFound) {
			continue
		} else if err != nil {
			return err
		}
		counts.add(&info, &m)
	}
	return exposition.Write(w, append(metrics, counts.list...)...)
}

// runtimeMetrics are about all boxes of the home.
func runtimeMetrics(all []runtime.BoxInfo, c runtime.RuntimeMetrics) []*exposition.Metric {
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
	out := []*exposition.Metric{build, boxes}
	for _, m := range []struct {
		name, help string
		value      uint64
	}{
		{"boxes_created_total", "Boxes that were created in this home.", c.BoxesCreatedTotal},
		{"boxes_failed_total", "Boxes that failed to start.", c.BoxesFailedTotal},
		{"commands_run_total", "Commands that were run in boxes.", c.TotalCommandsRun},
		{"run_errors_total", "Commands that could not be started.", c.TotalRunErrors},
	} {
		counter := &exposition.Metric{Name: "boxlite_" + m.name, Help: m.help, Type: exposition.Counter}
		counter.Add(float64(m.value))
		out = append(out, counter)
	}
	return out
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
		box := []string{"id", string(r.info.ID), "name", r.info.Name}
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

// boxCounters are what the state knows of boxes, running or not.
type boxCounters struct {
	list                               []*exposition.Metric
	commands, failed, sent, recv, boot *exposition.Metric
}

func newBoxCounters() *boxCounters {
	c := new(boxCounters)
	metric := func(name, help string, t exposition.Type) *exposition.Metric {
		m := &exposition.Metric{Name: "boxlite_box_" + name, Help: help, Type: t}
		c.list = append(c.list, m)
		return m
	}
	c.commands = metric("commands_run_total", "Commands that were run in the box.", exposition.Counter)
	c.failed = metric("run_errors_total", "Commands that could not be started.", exposition.Counter)
	c.sent = metric("sent_bytes_total", "Bytes to the standard inputs of commands.", exposition.Counter)
	c.recv = metric("received_bytes_total", "Bytes from the outputs of commands.", exposition.Counter)
	c.boot = metric("boot_seconds", "Duration of the latest boot, by stage.", exposition.Gauge)
	return c
}

func (c *boxCounters) add(info *runtime.BoxInfo, m *runtime.BoxMetrics) {
	box := []string{"id", string(info.ID), "name", info.Name}
	c.commands.Add(float64(m.CommandsRunTotal), box...)
	c.failed.Add(float64(m.RunErrorsTotal), box...)
	c.sent.Add(float64(m.BytesSentTotal), box...)
	c.recv.Add(float64(m.BytesReceivedTotal), box...)
	for _, stage := range []struct {
		name string
		took *time.Duration
	}{
		{"total", m.TotalCreateDuration}, {"guest", m.GuestBootDuration}, {"image_prepare", m.StageImagePrepare},
		{"box_spawn", m.StageBoxSpawn}, {"box_config", m.StageBoxConfig}, {"container_init", m.StageContainerInit},
		{"guest_rootfs", m.StageGuestRootfs},
	} {
		if stage.took != nil {
			c.boot.Add(stage.took.Seconds(), append(box[:len(box):len(box)], "stage", stage.name)...)
		}
	}
}
