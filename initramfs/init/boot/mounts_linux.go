package boot

import (
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/anthropics/boxlite/pkg/agentapi"
	"golang.org/x/sys/unix"
)

// noFile is the RLIMIT_NOFILE of everything in a box; fs.nr_open's default.
const noFile = 1 << 20

// defaultShm is Docker's size of /dev/shm.
const defaultShm = 64 << 20

func tmpfsSize(size uint64) string {
	if size == 0 {
		return "mode=0755"
	}
	return "mode=0755,size=" + strconv.FormatUint(size, 10)
}

// mounts puts the kernel's file systems where programs look for them.
func (m *Machine) mounts(s *agentapi.Setup) error {
	shm := s.Shm
	if shm == 0 {
		shm = defaultShm
	}
	const quiet = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	for _, t := range []struct {
		source, target, fstype string
		flags                  uintptr
		data                   string
	}{
		{"proc", "/proc", "proc", quiet, ""},
		{"sysfs", "/sys", "sysfs", quiet, ""},
		{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "newinstance,gid=5,mode=0620,ptmxmode=0666"},
		{"shm", "/dev/shm", "tmpfs", quiet, "mode=1777,size=" + strconv.FormatUint(shm, 10)},
		{"mqueue", "/dev/mqueue", "mqueue", quiet, ""},
	} {
		if err := unix.Mount(t.source, t.target, t.fstype, t.flags, t.data); err == nil {
			continue
		} else if err != unix.ENOENT {
			return os.NewSyscallError("mounting "+t.target, err)
		}
		if err := unix.Mkdir(t.target, 0o755); err != nil {
			return os.NewSyscallError("mkdir "+t.target, err)
		}
		if err := mount(t.source, t.target, t.fstype, t.flags, t.data); err != nil {
			return err
		}
	}
	for _, l := range [][2]string{{"/proc/self/fd", "/dev/fd"}, {"/proc/self/fd/0", "/dev/stdin"}, {"/proc/self/fd/1", "/dev/stdout"}, {"/proc/self/fd/2", "/dev/stderr"}} {
		if err := unix.Symlink(l[0], l[1]); err != nil && err != unix.EEXIST {
			return os.NewSyscallError("symlink "+l[1], err)
		}
	}
	return runDir()
}

// runDir mounts a tmpfs at /run if the image has an empty directory there: what
// an image put into it stays visible.
func runDir() error {
	fd, err := unix.Open("/run", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil // the image has no /run, or something else there
	}
	var buf [512]byte
	n, err := unix.ReadDirent(fd, buf[:])
	unix.Close(fd)
	if _, _, names := unix.ParseDirent(buf[:max(n, 0)], 1, nil); err != nil || len(names) > 0 {
		return nil
	}
	return mount("run", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755")
}

// cgroups mounts cgroup2 and hands every controller down, so that executions and
// container engines among them can use them.
func (m *Machine) cgroups(s *agentapi.Setup) error {
	if s.NoCgroup {
		return nil
	}
	if err := mount("cgroup2", Cgroup, "cgroup2", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "nsdelegate,memory_recursiveprot"); err != nil {
		return err
	}
	b := make([]byte, 512)
	fd, err := unix.Open(Cgroup+"/cgroup.controllers", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("open cgroup.controllers", err)
	}
	n, err := unix.Read(fd, b)
	unix.Close(fd)
	if err != nil {
		return os.NewSyscallError("read cgroup.controllers", err)
	}
	list := strings.Fields(string(b[:n]))
	if len(list) == 0 {
		return nil
	}
	fd, err = unix.Open(Cgroup+"/cgroup.subtree_control", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("open cgroup.subtree_control", err)
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte("+"+strings.Join(list, " +"))); err != nil {
		return os.NewSyscallError("enabling cgroup controllers", err)
	}
	return nil
}

// names sets the host name and the files that resolve names.
func names(s *agentapi.Setup) error {
	if err := unix.Sethostname([]byte(s.Hostname)); err != nil {
		return os.NewSyscallError("sethostname", err)
	}
	if s.Root.Kind == agentapi.RootNone {
		return nil
	}
	if err := unix.Mkdir("/etc", 0o755); err != nil && err != unix.EEXIST {
		return os.NewSyscallError("mkdir /etc", err)
	}
	if err := writeConfig("/etc/hostname", s.Hostname+"\n"); err != nil {
		return err
	}
	if err := writeConfig("/etc/hosts", hostsFile(s.Hostname, s.Hosts)); err != nil {
		return err
	}
	if s.ResolvConf == "" {
		return nil
	}
	return writeConfig("/etc/resolv.conf", s.ResolvConf)
}

// writeConfig gives a file of the image new content and leaves owner and mode
// alone. What is no regular file, such as a link into nowhere, is replaced; what
// has the content already, as on a box's second start, is not touched.
func writeConfig(path, text string) error {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CREAT, 0o644)
	var st unix.Stat_t
	if err == nil {
		if unix.Fstat(fd, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
			unix.Close(fd)
			err = unix.EINVAL
		}
	}
	if err != nil {
		if e := unix.Unlink(path); e != nil && e != unix.ENOENT {
			return os.NewSyscallError("writing "+path, err)
		}
		if fd, err = unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_CREAT|unix.O_EXCL, 0o644); err != nil {
			return os.NewSyscallError("writing "+path, err)
		}
		st.Size = 0
	}
	defer unix.Close(fd)
	if st.Size == int64(len(text)) {
		b := make([]byte, len(text)+1)
		if n, err := unix.Read(fd, b); err == nil && string(b[:n]) == text {
			return nil
		}
	}
	if n, err := unix.Pwrite(fd, []byte(text), 0); err != nil {
		return os.NewSyscallError("writing "+path, err)
	} else if n < len(text) {
		return os.NewSyscallError("writing "+path, unix.ENOSPC)
	}
	return os.NewSyscallError("truncating "+path, unix.Ftruncate(fd, int64(len(text))))
}

// loopback brings lo up; the kernel gives it its addresses.
func loopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return os.NewSyscallError("lo", err)
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return os.NewSyscallError("bringing lo up", unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr))
}

// limits are those of every program in the box. CAP_SYS_BOOT leaves the bounding
// set: reboot(2) of a program would halt the machine without a word, while the
// usual commands ask PID 1. This process keeps it, as it is no execve away.
func limits() error {
	l := unix.Rlimit{Cur: noFile, Max: noFile}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return os.NewSyscallError("raising RLIMIT_NOFILE", err)
	}
	return dropBounding(unix.CAP_SYS_BOOT)
}

// clock sets the time of day if the guest's differs: a leap of nothing is cheap
// to avoid and spoils timers.
func clock(host int64) error {
	if host == 0 {
		return nil
	}
	if d := time.Duration(time.Now().UnixNano() - host); d.Abs() < 100*time.Millisecond {
		return nil
	}
	ts := unix.NsecToTimespec(host)
	return os.NewSyscallError("setting the clock", unix.ClockSettime(unix.CLOCK_REALTIME, &ts))
}
