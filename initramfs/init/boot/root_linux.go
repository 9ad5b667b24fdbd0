package boot

import (
	"encoding/binary"
	"os"

	"github.com/anthropics/boxlite/pkg/agentapi"
	"golang.org/x/sys/unix"
)

// extResizeFS is EXT4_IOC_RESIZE_FS, _IOW('f', 16, __u64) (fs/ext4/ext4.h).
const extResizeFS = 0x40086610

func mount(source, target, fstype string, flags uintptr, data string) error {
	if err := unix.Mount(source, target, fstype, flags, data); err != nil {
		return os.NewSyscallError("mounting "+fstype+" "+source+" at "+target, err)
	}
	return nil
}

// root assembles the root file system and moves into it. It returns the size of
// the writable side in bytes.
func (m *Machine) root(s *agentapi.Setup) (disk uint64, err error) {
	// devtmpfs first: the disks' nodes are in it. It moves along into the root.
	if err := mount("dev", "/dev", "devtmpfs", unix.MS_NOSUID|unix.MS_NOEXEC, "mode=0755"); err != nil && errno(err) != unix.EBUSY {
		return 0, err
	}
	m.done("devtmpfs")
	r := s.Root
	if r.Kind == agentapi.RootNone {
		return 0, nil
	}
	fstype := r.Type
	if fstype == "" {
		fstype = "erofs"
	}
	if err := mount(r.Lower, lowerDir, fstype, unix.MS_RDONLY, ""); err != nil {
		return 0, err
	}
	m.done("lower")
	if r.Kind == agentapi.RootTmpfs {
		err = mount("upper", upperDir, "tmpfs", 0, tmpfsSize(r.Size))
	} else {
		err = mount(r.Upper, upperDir, "ext4", 0, "discard,noinit_itable")
	}
	if err != nil {
		return 0, err
	}
	m.done("upper")
	if m.upper, err = unix.Open(upperDir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return 0, os.NewSyscallError("open "+upperDir, err)
	}
	if r.Kind == agentapi.RootDisk {
		if err := m.grow(r); err != nil {
			return 0, err
		}
	}
	m.done("grow")
	for _, dir := range []string{upperDir + "/data", upperDir + "/work"} {
		if err := unix.Mkdir(dir, 0o755); err != nil && err != unix.EEXIST {
			return 0, os.NewSyscallError("mkdir "+dir, err)
		}
	}
	m.done("dirs")
	// redirect_dir lets directories of the image be renamed; metacopy spares
	// copying a file of the image when only its owner or mode changes
	// (Documentation/filesystems/overlayfs.rst).
	if err := mount("overlay", newRoot, "overlay", 0,
		"lowerdir="+lowerDir+",upperdir="+upperDir+"/data,workdir="+upperDir+"/work,redirect_dir=on,metacopy=on"); err != nil {
		return 0, err
	}
	m.done("overlay")
	var st unix.Statfs_t
	if unix.Fstatfs(m.upper, &st) == nil {
		disk = st.Blocks * uint64(st.Bsize)
	}
	return disk, switchRoot()
}

// superblock is where an ext4's lies and how much of it is looked at, in bytes
// (fs/ext4/ext4.h, struct ext4_super_block).
const (
	superblockAt  = 1024
	superblockLen = 1024
	sbBlocksLo    = 0x004
	sbLogBlock    = 0x018
	sbBlocksHi    = 0x150
)

// grow makes the ext4 as large as its disk, or as asked.
func (m *Machine) grow(r agentapi.Root) error {
	dev, err := unix.Open(r.Upper, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("open "+r.Upper, err)
	}
	defer unix.Close(dev)
	size, err := deviceSize(dev)
	if err != nil {
		return os.NewSyscallError("size of "+r.Upper, err)
	}
	if r.Size != 0 {
		size = min(size, r.Size)
	}
	// Its block count is in the superblock, which the mount has just read; what
	// statfs says leaves out what the file system needs for itself.
	var sb [superblockLen]byte
	if n, err := unix.Pread(dev, sb[:], superblockAt); err != nil || n < len(sb) {
		return os.NewSyscallError("reading the superblock of "+r.Upper, orEIO(err))
	}
	le := binary.LittleEndian
	shift := 10 + le.Uint32(sb[sbLogBlock:])
	blocks := uint64(le.Uint32(sb[sbBlocksHi:]))<<32 | uint64(le.Uint32(sb[sbBlocksLo:]))
	if shift > 16 || size>>shift <= blocks {
		return nil
	}
	return os.NewSyscallError("growing "+r.Upper, resize(m.upper, size>>shift))
}

func orEIO(err error) error {
	if err == nil {
		return unix.EIO
	}
	return err
}

// switchRoot makes newRoot the root of this process and of all to come, and
// leaves nothing of the initramfs behind but what is mounted.
func switchRoot() error {
	if err := unix.Mkdir(newRoot+"/dev", 0o755); err != nil && err != unix.EEXIST {
		return os.NewSyscallError("mkdir /dev in the root", err)
	}
	if err := unix.Mount("/dev", newRoot+"/dev", "", unix.MS_MOVE, ""); err != nil {
		return os.NewSyscallError("moving /dev", err)
	}
	unix.Unlink("/init") // its pages live on while it runs
	if err := unix.Chdir(newRoot); err != nil {
		return os.NewSyscallError("chdir to the root", err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return os.NewSyscallError("moving the root", err)
	}
	if err := unix.Chroot("."); err != nil {
		return os.NewSyscallError("chroot", err)
	}
	return os.NewSyscallError("chdir", unix.Chdir("/"))
}

func errno(err error) unix.Errno {
	if s, ok := err.(*os.SyscallError); ok {
		err = s.Err
	}
	e, _ := err.(unix.Errno)
	return e
}
