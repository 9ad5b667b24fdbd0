package boot

import (
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
	if r.Kind == agentapi.RootTmpfs {
		err = mount("upper", upperDir, "tmpfs", 0, tmpfsSize(r.Size))
	} else {
		err = mount(r.Upper, upperDir, "ext4", 0, "discard")
	}
	if err != nil {
		return 0, err
	}
	if m.upper, err = unix.Open(upperDir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return 0, os.NewSyscallError("open "+upperDir, err)
	}
	if r.Kind == agentapi.RootDisk {
		if err := m.grow(r); err != nil {
			return 0, err
		}
	}
	for _, dir := range []string{upperDir + "/data", upperDir + "/work"} {
		if err := unix.Mkdir(dir, 0o755); err != nil && err != unix.EEXIST {
			return 0, os.NewSyscallError("mkdir "+dir, err)
		}
	}
	// redirect_dir lets directories of the image be renamed; metacopy spares
	// copying a file of the image when only its owner or mode changes
	// (Documentation/filesystems/overlayfs.rst).
	if err := mount("overlay", newRoot, "overlay", 0,
		"lowerdir="+lowerDir+",upperdir="+upperDir+"/data,workdir="+upperDir+"/work,redirect_dir=on,metacopy=on"); err != nil {
		return 0, err
	}
	var st unix.Statfs_t
	if unix.Fstatfs(m.upper, &st) == nil {
		disk = st.Blocks * uint64(st.Bsize)
	}
	return disk, switchRoot()
}

// grow makes the ext4 as large as its disk, or as asked.
func (m *Machine) grow(r agentapi.Root) error {
	size := r.Size
	if size == 0 {
		dev, err := unix.Open(r.Upper, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return os.NewSyscallError("open "+r.Upper, err)
		}
		bytes, err := deviceSize(dev)
		unix.Close(dev)
		if err != nil {
			return os.NewSyscallError("size of "+r.Upper, err)
		}
		size = bytes
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(m.upper, &st); err != nil {
		return os.NewSyscallError("statfs "+upperDir, err)
	}
	// statfs leaves out what the file system needs for itself, so a grown one
	// looks smaller than its disk; resizing to the present size is cheap.
	blocks := size / uint64(st.Bsize)
	if blocks <= st.Blocks {
		return nil
	}
	if err := resize(m.upper, blocks); err != nil {
		return os.NewSyscallError("growing "+r.Upper, err)
	}
	return nil
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
