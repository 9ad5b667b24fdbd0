package net_test

import (
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/anthropics/boxlite/pkg/virtio"
	"github.com/anthropics/boxlite/pkg/virtio/net"
	"github.com/anthropics/boxlite/pkg/virtio/virtiotest"
)

// suiteDevice remembers its host, and what was agreed on.
type suiteDevice struct {
	*net.Device
	host     *testHost
	features virtio.Features
}

func (s *suiteDevice) Activate(a virtio.Activation) error {
	s.features = a.Features
	return s.Device.Activate(a)
}

// command carries out a control command that the driver may give.
func (s *suiteDevice) command(d *virtiotest.Driver, class, cmd byte, data ...byte) byte {
	d.T.Helper()
	at := 2
	if s.features.Has(fMQ) {
		at = len(d.Rings) - 1
	}
	in, ack := d.Put(append([]byte{class, cmd}, data...)), d.Put([]byte{0xee})
	require.EqualValues(d.T, 1, d.Do(at,
		virtiotest.Buf{Addr: in, Len: 2}, virtiotest.Buf{Addr: in + 2, Len: uint32(len(data))}, virtiotest.Buf{Addr: ack, Len: 1, Write: true}))
	return d.Bytes(ack, 1)[0]
}

func suite(pairs int) virtiotest.Suite {
	s := virtiotest.Suite{
		New: func(t testing.TB) virtio.Device {
			h := &testHost{}
			c := config(h)
			c.Queues = pairs
			return &suiteDevice{Device: device(t, c), host: h}
		},
		Exercise: exercise,
		Stimulate: func(d *virtiotest.Driver, q int) {
			dev := d.Device().(*suiteDevice)
			if q > 0 && dev.features.Has(fMQ) && d.Rings[len(d.Rings)-1] != nil && dev.Pairs() == 1 {
				require.Zero(d.T, dev.command(d, 4, 0, byte(pairs), 0))
			}
			dev.Send(q/2, &net.Header{}, [][]byte{toGuest(100)})
			dev.Flush(q / 2)
		},
	}
	for q := range pairs {
		s.Waits = append(s.Waits, 2*q)
	}
	return s
}

// exercise sends a frame each way, and asks for the MAC address that the guest has.
func exercise(d *virtiotest.Driver) {
	d.T.Helper()
	dev := d.Device().(*suiteDevice)
	dev.host.taken()
	f := fromGuest(777)
	out, in := d.Put(append(make([]byte, hdrSize), f...)), d.Alloc(2048)
	d.Do(1, virtiotest.Buf{Addr: out, Len: uint32(hdrSize + len(f))})
	require.Equal(d.T, []got{{frame: f}}, dev.host.taken())

	d.Rings[0].Add(virtiotest.Buf{Addr: in, Len: 2048, Write: true})
	d.Kick(0)
	f = toGuest(1111)
	require.Equal(d.T, net.Sent, dev.Send(0, &net.Header{}, [][]byte{f}))
	dev.Flush(0)
	u, ok := d.WaitUsed(0)
	require.True(d.T, ok)
	require.EqualValues(d.T, hdrSize+len(f), u.Len)
	require.Equal(d.T, f, d.Bytes(in+hdrSize, len(f)))
	require.EqualValues(d.T, 1, binary.LittleEndian.Uint16(d.Bytes(in+10, 2)), "num_buffers")

	if dev.features.Has(fCtrl | fCtrlMAC) {
		require.Zero(d.T, dev.command(d, 1, 1, guestMAC[:]...))
	}
}

func TestDevice(t *testing.T)              { suite(1).Run(t) }
func TestDeviceOfManyQueues(t *testing.T)  { suite(3).Run(t) }
func TestHostile(t *testing.T)             { suite(1).Hostile(t) }
func TestHostileOfManyQueues(t *testing.T) { suite(2).Hostile(t) }

func TestHostile15ResetInFlight(t *testing.T) { suite(2).ResetInFlight(t, 5000) }

func TestConfigSpace(t *testing.T) {
	c := config(&testHost{})
	c.Queues, c.MTU = 3, 9000
	d := virtiotest.Attach(t, device(t, c))
	require.Equal(t, append(guestMAC[:], 1, 0, 3, 0, 0x28, 0x23, 0, 0, 0, 0), d.Config(0, 16))
	require.True(t, d.Offered().Has(fMQ))

	c = config(&testHost{})
	c.FromGuest, c.ToGuest = 0, 0
	plain := device(t, c)
	require.Zero(t, plain.Features()&(fCsum|fGuestCsum|fGuestOffloads|fHostTSO4|fGuestTSO4|fGuestUSO4|fMQ))
	require.Equal(t, []byte{1, 0, 1, 0, 0xdc, 0x05}, virtiotest.Attach(t, plain).Config(6, 6))
}

func TestConfigIsChecked(t *testing.T) {
	for name, change := range map[string]func(*net.Config){
		"no host":            func(c *net.Config) { c.Host = nil },
		"no MAC":             func(c *net.Config) { c.MAC = [6]byte{} },
		"multicast MAC":      func(c *net.Config) { c.MAC[0] |= 1 },
		"small MTU":          func(c *net.Config) { c.MTU = 67 },
		"large MTU":          func(c *net.Config) { c.MTU = 65536 },
		"too many queues":    func(c *net.Config) { c.Queues = 65 },
		"negative queues":    func(c *net.Config) { c.Queues = -1 },
		"small queue":        func(c *net.Config) { c.QueueSize = 16 },
		"odd queue":          func(c *net.Config) { c.QueueSize = 100 },
		"large queue":        func(c *net.Config) { c.QueueSize = 2048 },
		"TSO without CSUM":   func(c *net.Config) { c.FromGuest = net.OffloadTSO4 },
		"USO without CSUM":   func(c *net.Config) { c.ToGuest = net.OffloadUSO },
		"offloads not known": func(c *net.Config) { c.ToGuest = 1 << 20 },
	} {
		c := config(&testHost{})
		change(&c)
		_, err := net.New(c)
		require.Error(t, err, name)
	}
}
