package net_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	gonet "net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/anthropics/boxlite/pkg/ethtool"
	"github.com/anthropics/boxlite/pkg/hv"
	"github.com/anthropics/boxlite/pkg/machine"
	"github.com/anthropics/boxlite/pkg/machine/machinetest"
	"github.com/anthropics/boxlite/pkg/virtio"
	"github.com/anthropics/boxlite/pkg/virtio/net"
)

// TestMain is the guest's init as well, when the kernel starts it.
func TestMain(m *testing.M) {
	if os.Getpid() == 1 && os.Args[0] == "/init" {
		if err := guestMain(); err != nil {
			fmt.Printf("guest: FAILED: %v\n", err)
		}
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	}
	os.Exit(m.Run())
}

var (
	guestIP = [4]byte{10, 9, 0, 2}
	hostIP  = [4]byte{10, 9, 0, 1}
)

const (
	datagram  = 1400 // bytes of payload of each
	datagrams = 20   // in one segmented frame
	bursts    = 50
)

// guestMain sends datagrams to a mirror, in frames of one and of many.
func guestMain() error {
	if err := unix.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
		return fmt.Errorf("mount sysfs: %w", err)
	}
	for _, name := range []string{"address", "mtu", "operstate"} {
		b, err := os.ReadFile("/sys/class/net/eth0/" + name)
		if err != nil {
			return err
		}
		fmt.Printf("guest: %s %s", name, b)
	}
	if err := configure(); err != nil {
		return err
	}
	c, err := gonet.DialUDP("udp4", nil, &gonet.UDPAddr{IP: hostIP[:], Port: 7})
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetReadBuffer(1 << 20); err != nil {
		return err
	}
	buf := make([]byte, 2*datagram)
	echo := func(payload []byte) error {
		if _, err := c.Write(payload); err != nil {
			return err
		}
		for want := range slices.Chunk(payload, datagram) {
			if err := c.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
				return err
			}
			n, err := c.Read(buf)
			if err != nil {
				return err
			}
			if !bytes.Equal(want, buf[:n]) {
				return fmt.Errorf("%d bytes came back as other %d", len(want), n)
			}
		}
		return nil
	}
	for i := range 200 {
		if err := echo(bytes.Repeat([]byte{byte(i)}, 1+i*7)); err != nil {
			return fmt.Errorf("datagram %d: %w", i, err)
		}
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var opt error
	if err := raw.Control(func(fd uintptr) { opt = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, datagram) }); err != nil || opt != nil {
		return fmt.Errorf("UDP_SEGMENT: %w, %w", err, opt)
	}
	for i := range bursts {
		p := make([]byte, datagrams*datagram)
		for k := range p {
			p[k] = byte(k/datagram + i)
		}
		if err := echo(p); err != nil {
			return fmt.Errorf("burst %d: %w", i, err)
		}
	}
	fmt.Println("guest: all came back")
	return nil
}

// configure gives eth0 its address.
func configure() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	set := func(req uint, value func(*unix.Ifreq) error) error {
		r, err := unix.NewIfreq("eth0")
		if err != nil {
			return err
		}
		if err := value(r); err != nil {
			return err
		}
		if err := unix.IoctlIfreq(s, req, r); err != nil {
			return fmt.Errorf("ioctl %#x of eth0: %w", req, err)
		}
		return nil
	}
	if err := ethtool.SegmentUDP(s, "eth0"); err != nil {
		return err
	}
	if err := set(unix.SIOCSIFADDR, func(r *unix.Ifreq) error { return r.SetInet4Addr(guestIP[:]) }); err != nil {
		return err
	}
	return set(unix.SIOCSIFFLAGS, func(r *unix.Ifreq) error { r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING); return nil })
}

// mirror answers ARP and sends every UDP frame back as it came, segments and
// checksums left over: the sums stay right when both ends are swapped.
type mirror struct {
	dev *net.Device

	mu       sync.Mutex
	segments int // frames of several datagrams
	partial  int // frames with a checksum left over
	other    int
	lost     int
	pairs    int // that the driver listened on
}

func (m *mirror) Ready(int) {}

func (m *mirror) Receive(q int, h *net.Header, v [][]byte) {
	f := slices.Concat(v...)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pairs = m.dev.Pairs()
	swap := func(at, n, by int) {
		t := slices.Clone(f[at : at+n])
		copy(f[at:], f[at+by:at+by+n])
		copy(f[at+by:], t)
	}
	switch typ := binary.BigEndian.Uint16(f[12:]); {
	case typ == 0x0806 && len(f) >= 42 && [4]byte(f[38:42]) == hostIP:
		f[21] = 2 // reply
		copy(f[32:42], f[22:32])
		copy(f[22:28], hostMAC[:])
		copy(f[28:32], hostIP[:])
		copy(f[0:6], guestMAC[:])
		copy(f[6:12], hostMAC[:])
	case typ == 0x0800 && len(f) >= 42 && f[23] == 17 && [4]byte(f[30:34]) == hostIP:
		swap(0, 6, 6)
		swap(26, 4, 4)
		swap(34, 2, 2)
		if h.GSOType == net.GSOUDP {
			m.segments++
		}
		if h.Flags&net.NeedsCsum != 0 {
			m.partial++
		}
	default:
		m.other++
		return
	}
	if m.dev.Send(q, h, [][]byte{f}) != net.Sent {
		m.lost++
	}
	m.dev.Flush(q)
}

// TestGuestDriver lets Linux's driver send and receive, with all that the device
// offers.
func TestGuestDriver(t *testing.T) {
	kernel, err := os.Open(machinetest.Kernel(t))
	require.NoError(t, err)
	defer kernel.Close()
	self, err := os.ReadFile("/proc/self/exe")
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "initramfs")
	require.NoError(t, os.WriteFile(path, initramfs(self), 0o600))
	initrd, err := os.Open(path)
	require.NoError(t, err)
	defer initrd.Close()

	m := &mirror{}
	c := config(m)
	c.Queues = 2
	m.dev = device(t, c)
	var out strings.Builder
	vm, err := machine.New(machine.Config{
		CPUs: 2, MemoryMiB: 256, Kernel: kernel, Initrd: initrd, Serial: &out, Devices: []virtio.Device{m.dev},
		Cmdline: "console=ttyS0 quiet loglevel=4 reboot=t panic=-1 tsc=reliable no_timer_check random.trust_cpu=on",
	})
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	o, err := vm.Run(ctx)
	require.NoError(t, err)
	require.NoError(t, vm.Close())
	require.Equal(t, hv.ExitShutdown, o.Reason, out.String())
	text := strings.ReplaceAll(out.String(), "\r", "")
	require.Contains(t, text, "guest: all came back")
	require.Contains(t, text, "guest: address 02:b0:00:00:00:01\n")
	require.Contains(t, text, "guest: mtu 1500\n")
	n := m.dev.Counters()
	t.Logf("%+v, %d segmented, %d with partial checksums, %d others, %d lost", n, m.segments, m.partial, m.other, m.lost)
	require.Equal(t, 2, m.pairs)
	require.Equal(t, bursts, m.segments)
	require.GreaterOrEqual(t, m.partial, 200+bursts)
	require.Zero(t, m.lost)
	require.Empty(t, dropped(n))
	require.Zero(t, n.Refused+n.NoRoom+n.BadBuffers)
}

// initramfs is a cpio archive (newc) with a program as /init, a console and /sys.
func initramfs(program []byte) []byte {
	var b bytes.Buffer
	ino := 0
	add := func(name string, mode uint32, major, minor int, content []byte) {
		ino++
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
			ino, mode, 0, 0, 1, 0, len(content), 0, 0, major, minor, len(name)+1, 0)
		b.WriteString(name + "\x00")
		b.Write(make([]byte, -b.Len()&3))
		b.Write(content)
		b.Write(make([]byte, -b.Len()&3))
	}
	add("dev", unix.S_IFDIR|0o755, 0, 0, nil)
	add("dev/console", unix.S_IFCHR|0o600, 5, 1, nil)
	add("sys", unix.S_IFDIR|0o755, 0, 0, nil)
	add("init", unix.S_IFREG|0o755, 0, 0, program)
	add("TRAILER!!!", 0, 0, 0, nil)
	return b.Bytes()
}
