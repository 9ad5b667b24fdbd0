package agentapi

// MountKind says what is mounted.
type MountKind uint8

const (
	MountShare MountKind = 0 // a file system of the host: virtiofs with the tag Tag
	MountTmpfs MountKind = 1 // an empty one in the guest's memory
)

// Folders in a volume while a guest fills it with the image's content: the copy is
// complete once it has the second name. Whoever finds one of them goes on from there.
const (
	Populating = ".boxlite-populating"
	Populated  = ".boxlite-populated"
)

// MountPoint is one file system and where it goes.
type MountPoint struct {
	Kind     MountKind
	Path     string // absolute, without "." and ".."; made when it is not there
	ReadOnly bool
	NoExec   bool

	Tag      string // of MountShare
	File     string // of MountShare: the one file in it that goes to Path; empty for all of it
	Populate bool   // of MountShare: an empty one first gets what the image has at Path

	Size uint64 // of MountTmpfs: most bytes; 0 means half of RAM
	Mode uint32 // of MountTmpfs: permissions of its root; 0 means 1777
}

// Mount puts file systems into the box, in this order, after Setup and before
// anything runs in it that expects them. Links in Path are followed within the
// box. The first one that does not work ends it with an error of [CodeSetup].
type Mount struct{ Points []MountPoint }

func (*Mount) Type() Type { return TypeMount }
func (m *Mount) encode(e *encoder) {
	e.u32(uint32(len(m.Points)))
	for i := range m.Points {
		p := &m.Points[i]
		e.u8(uint8(p.Kind))
		e.str(p.Path)
		e.bool(p.ReadOnly)
		e.bool(p.NoExec)
		e.str(p.Tag)
		e.str(p.File)
		e.bool(p.Populate)
		e.u64(p.Size)
		e.u32(p.Mode)
	}
}
func (m *Mount) decode(d *decoder) {
	n := d.count(28)
	if n == 0 {
		return
	}
	m.Points = make([]MountPoint, n)
	for i := range m.Points {
		p := &m.Points[i]
		p.Kind, p.Path = MountKind(d.u8()), d.str()
		p.ReadOnly, p.NoExec = d.bool(), d.bool()
		p.Tag, p.File, p.Populate = d.str(), d.str(), d.bool()
		p.Size, p.Mode = d.u64(), d.u32()
	}
}
