package virtio

// Status is the device status field (§2.1).
type Status uint32

const ( // §2.1
	StatusAcknowledge Status = 1
	StatusDriver      Status = 2
	StatusDriverOK    Status = 4
	StatusFeaturesOK  Status = 8
	StatusNeedsReset  Status = 64
	StatusFailed      Status = 128
)

// Has reports whether all the given bits are set.
func (s Status) Has(bits Status) bool { return s&bits == bits }

// order is how a driver must set the bits (§3.1.1), each with what must be set before.
var order = [...]struct{ bit, needs Status }{
	{StatusAcknowledge, 0},
	{StatusDriver, StatusAcknowledge},
	{StatusFeaturesOK, StatusAcknowledge | StatusDriver},
	{StatusDriverOK, StatusAcknowledge | StatusDriver | StatusFeaturesOK},
	{StatusFailed, 0},
}

// Advance walks the status machine (§2.1.1, §3.1.1) for a driver's write of want,
// which is not zero: zero is a reset and the transport's business. Accept is
// asked, in order, for each bit that the driver may set now; a bit that it turns
// down stays clear. Advance returns the new status, and a detail that is not
// empty if the driver broke the order; bits it may not set stay clear.
func (s Status) Advance(want Status, accept func(bit Status) bool) (next Status, detail string) {
	want &^= StatusNeedsReset // the device's own bit; drivers write back what they read
	if s&^want != 0 {
		return s, "status bits were cleared without a reset"
	}
	if s.Has(StatusFailed) && want != s {
		return s, "status was written after FAILED"
	}
	for _, o := range order {
		if want&o.bit == 0 || s&o.bit != 0 {
			continue
		}
		if !s.Has(o.needs) {
			detail = "status bits were set out of order"
			continue
		}
		if accept(o.bit) {
			s |= o.bit
		}
	}
	if want&^(StatusAcknowledge|StatusDriver|StatusDriverOK|StatusFeaturesOK|StatusFailed) != 0 {
		detail = "unknown status bits were set"
	}
	return s, detail
}
