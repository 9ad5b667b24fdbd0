package net

import (
	"encoding/binary"

	"github.com/anthropics/boxlite/pkg/virtio"
)

const ( // §5.1.3
	featureCsum          virtio.Features = 1 << 0
	featureGuestCsum     virtio.Features = 1 << 1
	featureGuestOffloads virtio.Features = 1 << 2
	featureMTU           virtio.Features = 1 << 3
	featureMAC           virtio.Features = 1 << 5
	featureGuestTSO4     virtio.Features = 1 << 7
	featureGuestTSO6     virtio.Features = 1 << 8
	featureHostTSO4      virtio.Features = 1 << 11
	featureHostTSO6      virtio.Features = 1 << 12
	featureMrgRxbuf      virtio.Features = 1 << 15
	featureStatus        virtio.Features = 1 << 16
	featureCtrlVQ        virtio.Features = 1 << 17
	featureCtrlRX        virtio.Features = 1 << 18
	featureMQ            virtio.Features = 1 << 22
	featureCtrlMAC       virtio.Features = 1 << 23
	featureGuestUSO4     virtio.Features = 1 << 54
	featureGuestUSO6     virtio.Features = 1 << 55
	featureHostUSO       virtio.Features = 1 << 56

	featuresGuest = featureGuestCsum | featureGuestTSO4 | featureGuestTSO6 | featureGuestUSO4 | featureGuestUSO6
)

// Offloads is a set of what one side of the cable leaves to the other.
type Offloads uint32

const (
	// OffloadCsum allows [NeedsCsum]: a frame whose TCP or UDP checksum is not complete.
	OffloadCsum Offloads = 1 << iota
	// OffloadTSO4 allows [GSOTCP4]: a TCP segment over IPv4 of up to 64 KiB. It needs OffloadCsum.
	OffloadTSO4
	// OffloadTSO6 allows [GSOTCP6], the same over IPv6.
	OffloadTSO6
	// OffloadUSO allows [GSOUDP]: many UDP datagrams of one size in a frame. It needs OffloadCsum.
	OffloadUSO

	// AllOffloads is all of them.
	AllOffloads = OffloadCsum | OffloadTSO4 | OffloadTSO6 | OffloadUSO
)

// Has reports whether all the given offloads are in the set.
func (o Offloads) Has(some Offloads) bool { return o&some == some }

// sane leaves out what makes no sense without checksums (§5.1.3.1).
func (o Offloads) sane() Offloads {
	if !o.Has(OffloadCsum) {
		return 0
	}
	return o
}

// pairing says which feature bits, all together, stand for an offload.
var pairing = [...]struct {
	offload     Offloads
	host, guest virtio.Features // from the guest, to the guest
}{
	{OffloadCsum, featureCsum, featureGuestCsum},
	{OffloadTSO4, featureHostTSO4, featureGuestTSO4},
	{OffloadTSO6, featureHostTSO6, featureGuestTSO6},
	{OffloadUSO, featureHostUSO, featureGuestUSO4 | featureGuestUSO6},
}

// fromGuest is what the driver may ask for with these features.
func fromGuest(f virtio.Features) (o Offloads) {
	for _, p := range pairing {
		if f.Has(p.host) {
			o |= p.offload
		}
	}
	return o.sane()
}

// toGuest is what the device may send with these features.
func toGuest(f virtio.Features) (o Offloads) {
	for _, p := range pairing {
		if f.Has(p.guest) {
			o |= p.offload
		}
	}
	return o.sane()
}

// Features implements [virtio.Device].
func (d *Device) Features() virtio.Features {
	f := featureMTU | featureMAC | featureMrgRxbuf | featureStatus | featureCtrlVQ | featureCtrlRX | featureCtrlMAC
	for _, p := range pairing {
		if d.cfg.FromGuest.Has(p.offload) {
			f |= p.host
		}
		if d.cfg.ToGuest.Has(p.offload) {
			f |= p.guest | featureGuestOffloads
		}
	}
	if d.cfg.Queues > 1 {
		f |= featureMQ
	}
	return f
}

const ( // §5.1.4: offsets in struct virtio_net_config
	cfgMAC     = 0  // u8[6]
	cfgStatus  = 6  // le16
	cfgPairs   = 8  // le16
	cfgMTU     = 10 // le16, bytes
	configSize = 12
)

const linkUp = 1 // §5.1.4: VIRTIO_NET_S_LINK_UP

func (d *Device) buildConfig() (c [configSize]byte) {
	le := binary.LittleEndian
	copy(c[cfgMAC:], d.cfg.MAC[:])
	le.PutUint16(c[cfgStatus:], linkUp)
	le.PutUint16(c[cfgPairs:], uint16(d.cfg.Queues))
	le.PutUint16(c[cfgMTU:], uint16(d.cfg.MTU))
	return c
}

// ReadConfig implements [virtio.Device].
func (d *Device) ReadConfig(p []byte) { copy(p, d.config[:]) }

// WriteConfig implements [virtio.Device]: nothing is writable (§5.1.4.1).
func (d *Device) WriteConfig([]byte, uint32) {}
