package agentapi

// StatPath asks what lies at a path of the box; answered by [PathInfo].
//
// A path is taken from the box's root, absolute or not. Symbolic links on the way
// are followed; the last one is only with Follow, or when the path ends in "/" or
// "/.", which asks for a directory.
type StatPath struct {
	Path   string
	Follow bool
}

func (*StatPath) Type() Type          { return TypeStatPath }
func (m *StatPath) encode(e *encoder) { e.str(m.Path); e.bool(m.Follow) }
func (m *StatPath) decode(d *decoder) { m.Path, m.Follow = d.str(), d.bool() }

// PathInfo describes a file.
type PathInfo struct {
	Mode       uint32 // st_mode: type and permissions as Linux writes them
	UID, GID   uint32
	Size       uint64 // bytes
	ModTime    int64  // ns since 1970
	LinkTarget string // of a symbolic link
}

func (*PathInfo) Type() Type { return TypePathInfo }
func (m *PathInfo) encode(e *encoder) {
	e.u32(m.Mode)
	e.u32(m.UID)
	e.u32(m.GID)
	e.u64(m.Size)
	e.i64(m.ModTime)
	e.str(m.LinkTarget)
}
func (m *PathInfo) decode(d *decoder) {
	m.Mode, m.UID, m.GID, m.Size = d.u32(), d.u32(), d.u32(), d.u64()
	m.ModTime, m.LinkTarget = d.i64(), d.str()
}

// ArchiveGet asks for what lies at a path, with everything below it, as a tar
// stream on the [Stdout] connection of ID. The path means what it means in
// [StatPath]. The archive's entries are named by the last element of the path,
// or "." when that is none: "/", or a path that ends in "/.".
//
// The answer, OK or an error, comes when the stream has ended.
type ArchiveGet struct {
	ID     uint64 // as ExecSpec.ID
	Path   string
	Follow bool
}

func (*ArchiveGet) Type() Type          { return TypeArchiveGet }
func (m *ArchiveGet) encode(e *encoder) { e.u64(m.ID); e.str(m.Path); e.bool(m.Follow) }
func (m *ArchiveGet) decode(d *decoder) { m.ID, m.Path, m.Follow = d.u64(), d.str(), d.bool() }

// ArchivePut unpacks the tar stream on the [Stdin] connection of ID into the
// directory at a path, which must exist. The answer, OK or an error, comes when
// all of it is in place; after an error the connection is closed before the
// stream's end.
type ArchivePut struct {
	ID   uint64 // as ExecSpec.ID
	Path string
	// Own gives everything to UID and GID; otherwise it belongs to whom the
	// archive says.
	Own      bool
	UID, GID uint32
}

func (*ArchivePut) Type() Type { return TypeArchivePut }
func (m *ArchivePut) encode(e *encoder) {
	e.u64(m.ID)
	e.str(m.Path)
	e.bool(m.Own)
	e.u32(m.UID)
	e.u32(m.GID)
}
func (m *ArchivePut) decode(d *decoder) {
	m.ID, m.Path, m.Own, m.UID, m.GID = d.u64(), d.str(), d.bool(), d.u32(), d.u32()
}
