package runtime

import "fmt"

// Bytes is a size in bytes.
type Bytes uint64

// FromBytes is n bytes.
func FromBytes(n uint64) Bytes { return Bytes(n) }

// FromKiB is n times 1024 bytes.
func FromKiB(n uint64) Bytes { return Bytes(n << 10) }

// FromMiB is n times 1024² bytes.
func FromMiB(n uint64) Bytes { return Bytes(n << 20) }

// FromGiB is n times 1024³ bytes.
func FromGiB(n uint64) Bytes { return Bytes(n << 30) }

// AsBytes is the number of bytes.
func (b Bytes) AsBytes() uint64 { return uint64(b) }

// AsKiB is the number of whole KiB.
func (b Bytes) AsKiB() uint64 { return uint64(b) >> 10 }

// AsMiB is the number of whole MiB.
func (b Bytes) AsMiB() uint64 { return uint64(b) >> 20 }

// String gives the size in the largest unit that it is a multiple of: "512 MiB",
// "1000 bytes".
func (b Bytes) String() string {
	for _, u := range []struct {
		shift uint
		name  string
	}{{30, "GiB"}, {20, "MiB"}, {10, "KiB"}} {
		if n := b >> u.shift; n > 0 && n<<u.shift == b {
			return fmt.Sprintf("%d %s", uint64(n), u.name)
		}
	}
	return fmt.Sprintf("%d bytes", uint64(b))
}

// Seconds is a duration in whole seconds.
type Seconds uint64

// FromSeconds is n seconds.
func FromSeconds(n uint64) Seconds { return Seconds(n) }

// FromMinutes is n times 60 seconds.
func FromMinutes(n uint64) Seconds { return Seconds(n * 60) }

// FromHours is n times 3600 seconds.
func FromHours(n uint64) Seconds { return Seconds(n * 3600) }

// AsSeconds is the number of seconds.
func (s Seconds) AsSeconds() uint64 { return uint64(s) }

// AsMinutes is the number of whole minutes.
func (s Seconds) AsMinutes() uint64 { return uint64(s) / 60 }

// String gives the duration in the largest unit that it is a multiple of:
// "30 minutes", "90 seconds".
func (s Seconds) String() string {
	for _, u := range []struct {
		n    Seconds
		name string
	}{{3600, "hours"}, {60, "minutes"}} {
		if s > 0 && s%u.n == 0 {
			return fmt.Sprintf("%d %s", uint64(s/u.n), u.name)
		}
	}
	return fmt.Sprintf("%d seconds", uint64(s))
}
