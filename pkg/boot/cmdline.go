package boot

import (
	"fmt"
	"strings"
)

// CommandLine returns the guest's command line, without a terminating NUL:
// first the devices in order, as drivers/virtio/virtio_mmio.c parses them, then
// the caller's own text. Devices come first because everything behind a "--"
// belongs to init, and an open quote swallows what follows it. Limit is the
// most bytes that the kernel keeps.
func (p Params) CommandLine(limit int) (string, error) {
	if i := strings.IndexAny(p.Cmdline, "\x00\n\r"); i >= 0 {
		return "", fmt.Errorf("boot: command line has %q at byte %d; it must be one line of text", p.Cmdline[i], i)
	}
	var b strings.Builder
	for i, d := range p.Devices {
		if d.Size == 0 || d.IRQ == 0 {
			return "", fmt.Errorf("boot: device %d at %v: %d bytes with interrupt %d; the kernel needs both", i, d.Base, d.Size, d.IRQ)
		}
		size, unit := d.Size, ""
		if size%1024 == 0 {
			size, unit = size/1024, "K"
		}
		fmt.Fprintf(&b, "virtio_mmio.device=%d%s@%v:%d ", size, unit, d.Base, d.IRQ)
	}
	own := b.Len()
	b.WriteString(p.Cmdline)
	line := strings.TrimRight(b.String(), " ")
	if len(line) > limit {
		return "", fmt.Errorf("boot: command line is %d bytes long (%d of them name %d devices) and this kernel takes %d; shorten it or attach fewer devices",
			len(line), own, len(p.Devices), limit)
	}
	return line, nil
}
