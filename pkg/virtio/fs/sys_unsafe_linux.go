package fs

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The calls below do what those of x/sys do, on names that are already
// terminated and without allocating.

// beneath is how every name is resolved: one component, never out of its
// directory, never through a link of any kind.
const beneath = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_SYMLINKS

var dot, empty = cstring{'.', 0}, cstring{0}

// openBeneath is openat2(2) of one component, with rules that include [beneath].
func openBeneath(dir int, name cstring, flags int, mode uint32, resolve uint64) (int, syscall.Errno) {
	how := unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC | unix.O_LARGEFILE), Mode: uint64(mode), Resolve: resolve}
	if flags&unix.O_PATH != 0 {
		how.Flags &^= unix.O_LARGEFILE
	}
	for try := 0; ; try++ {
		// SAFETY: name and how live over the call.
		fd, _, errno := syscall.Syscall6(unix.SYS_OPENAT2, uintptr(dir), uintptr(unsafe.Pointer(&name[0])),
			uintptr(unsafe.Pointer(&how)), unix.SizeofOpenHow, 0, 0)
		if errno == syscall.EINTR || errno == syscall.EAGAIN && try < 64 { // EAGAIN: something was renamed meanwhile
			continue
		}
		return int(fd), errno
	}
}

// openat is openat(2), for names that this package makes itself.
func openat(dir int, name cstring, flags int) (int, syscall.Errno) {
	for {
		// SAFETY: name lives over the call.
		fd, _, errno := syscall.Syscall6(unix.SYS_OPENAT, uintptr(dir), uintptr(unsafe.Pointer(&name[0])), uintptr(flags|unix.O_CLOEXEC), 0, 0, 0)
		if errno != syscall.EINTR {
			return int(fd), errno
		}
	}
}

const statMask = unix.STATX_BASIC_STATS | unix.STATX_BTIME | unix.STATX_MNT_ID

// statAt is statx(2) of one component, which is not followed, or of dir itself
// for the empty name.
func statAt(dir int, name cstring, st *unix.Statx_t) syscall.Errno {
	for {
		// SAFETY: name and st live over the call; Statx_t is the kernel's struct.
		_, _, errno := syscall.Syscall6(unix.SYS_STATX, uintptr(dir), uintptr(unsafe.Pointer(&name[0])),
			unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, statMask, uintptr(unsafe.Pointer(st)), 0)
		if errno != syscall.EINTR {
			return errno
		}
	}
}

// nameCall is a system call with a directory, a name and up to two numbers.
func nameCall(nr uintptr, dir int, name cstring, a, b uintptr) syscall.Errno {
	for {
		// SAFETY: name lives over the call.
		_, _, errno := syscall.Syscall6(nr, uintptr(dir), uintptr(unsafe.Pointer(&name[0])), a, b, 0, 0)
		if errno != syscall.EINTR {
			return errno
		}
	}
}

func mkdirAt(dir int, name cstring, mode uint32) syscall.Errno {
	return nameCall(unix.SYS_MKDIRAT, dir, name, uintptr(mode), 0)
}

func mknodAt(dir int, name cstring, mode uint32) syscall.Errno {
	return nameCall(unix.SYS_MKNODAT, dir, name, uintptr(mode), 0)
}

func unlinkAt(dir int, name cstring, flags int) syscall.Errno {
	return nameCall(unix.SYS_UNLINKAT, dir, name, uintptr(flags), 0)
}

// chmodAt follows a link, so it is for names below /proc/self/fd only.
func chmodAt(dir int, name cstring, mode uint32) syscall.Errno {
	return nameCall(unix.SYS_FCHMODAT, dir, name, uintptr(mode), 0)
}

// twoNames is a system call with two names.
func twoNames(nr uintptr, from int, old cstring, to int, name cstring, flags int) syscall.Errno {
	for {
		// SAFETY: both names live over the call.
		_, _, errno := syscall.Syscall6(nr, uintptr(from), uintptr(unsafe.Pointer(&old[0])), uintptr(to),
			uintptr(unsafe.Pointer(&name[0])), uintptr(flags), 0)
		if errno != syscall.EINTR {
			return errno
		}
	}
}

func renameAt(from int, old cstring, to int, name cstring, flags uint32) syscall.Errno {
	return twoNames(unix.SYS_RENAMEAT2, from, old, to, name, int(flags))
}

// linkAt follows the first name, which is one below /proc/self/fd.
func linkAt(from int, old cstring, to int, name cstring) syscall.Errno {
	return twoNames(unix.SYS_LINKAT, from, old, to, name, unix.AT_SYMLINK_FOLLOW)
}

func symlinkAt(target cstring, dir int, name cstring) syscall.Errno {
	for {
		// SAFETY: both strings live over the call.
		_, _, errno := syscall.Syscall(unix.SYS_SYMLINKAT, uintptr(unsafe.Pointer(&target[0])), uintptr(dir), uintptr(unsafe.Pointer(&name[0])))
		if errno != syscall.EINTR {
			return errno
		}
	}
}

// readlink reads the link that fd is.
func readlink(fd int, p []byte) (int, syscall.Errno) {
	// SAFETY: p and the name live over the call.
	n, _, errno := syscall.Syscall6(unix.SYS_READLINKAT, uintptr(fd), uintptr(unsafe.Pointer(&empty[0])), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)), 0, 0)
	return int(n), errno
}

// utimes follows a link, so it is for names below /proc/self/fd only.
func utimes(dir int, name cstring, ts *[2]unix.Timespec) syscall.Errno {
	// SAFETY: name and ts live over the call.
	_, _, errno := syscall.Syscall6(unix.SYS_UTIMENSAT, uintptr(dir), uintptr(unsafe.Pointer(&name[0])), uintptr(unsafe.Pointer(ts)), 0, 0, 0)
	return errno
}

// getdents reads directory entries.
func getdents(fd int, p []byte) (int, syscall.Errno) {
	for {
		// SAFETY: p lives over the call.
		n, _, errno := syscall.Syscall(unix.SYS_GETDENTS64, uintptr(fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)))
		if errno != syscall.EINTR {
			return int(n), errno
		}
	}
}

// xattrCall is fgetxattr(2) or fsetxattr(2). An empty value asks for the size.
func xattrCall(nr uintptr, fd int, name cstring, value []byte, flags uint32) (int, syscall.Errno) {
	for {
		// SAFETY: name and value live over the call.
		n, _, errno := syscall.Syscall6(nr, uintptr(fd), uintptr(unsafe.Pointer(&name[0])), uintptr(unsafe.Pointer(unsafe.SliceData(value))),
			uintptr(len(value)), uintptr(flags), 0)
		if errno != syscall.EINTR {
			return int(n), errno
		}
	}
}

func listXattr(fd int, p []byte) (int, syscall.Errno) {
	// SAFETY: p lives over the call.
	n, _, errno := syscall.Syscall(unix.SYS_FLISTXATTR, uintptr(fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)))
	return int(n), errno
}

func removeXattr(fd int, name cstring) syscall.Errno {
	// SAFETY: name lives over the call.
	_, _, errno := syscall.Syscall(unix.SYS_FREMOVEXATTR, uintptr(fd), uintptr(unsafe.Pointer(&name[0])), 0)
	return errno
}

// xattrArgs is struct xattr_args of getxattrat(2).
type xattrArgs struct {
	value uint64
	size  uint32
	flags uint32
}

const _ = uint(unsafe.Sizeof(xattrArgs{})-16) + uint(16-unsafe.Sizeof(xattrArgs{})) // = 16 bytes

const sysGetxattrat = 464 // on every architecture; Linux 6.13

// getXattrAt follows a link, so it is for names below /proc/self/fd only. The
// value must not be on a stack.
func getXattrAt(dir int, file, name cstring, value []byte) (int, syscall.Errno) {
	// SAFETY: value lives over the call, as do the names and a.
	a := xattrArgs{value: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(value)))), size: uint32(len(value))}
	n, _, errno := syscall.Syscall6(sysGetxattrat, uintptr(dir), uintptr(unsafe.Pointer(&file[0])), 0,
		uintptr(unsafe.Pointer(&name[0])), uintptr(unsafe.Pointer(&a)), unsafe.Sizeof(a))
	return int(n), errno
}

const (
	// iovMax is what one call takes (IOV_MAX), and no less than the chains of queues
	// of the default size. What is longer goes in several calls.
	iovMax = 1024
	// iovWrite is how many a write at an offset is given at a time. Linux 6.12 looks
	// at all that is left of a vector for every page that it writes to a tmpfs
	// (generic_perform_write): with the 256 pieces of 1 MiB at once, that is more
	// than all other work.
	iovWrite = 32
)

// transfer moves want bytes between a file at an offset and what v has after its
// first skip bytes, by calls with up to len(iov) pieces, until the file or v has no
// more. An error after the first bytes is told the next time.
func transfer(nr uintptr, fd int, iov []unix.Iovec, v [][]byte, skip, want int, off int64, flags int) (int, syscall.Errno) {
	done := 0
	for done < want {
		for len(v) > 0 && skip >= len(v[0]) {
			v, skip = v[1:], skip-len(v[0])
		}
		k := fillIovecs(iov, v, skip, want-done)
		// SAFETY: the first k elements point at guest RAM, which outlives the
		// call. The offset goes in two halves, of which 64-bit kernels use the first.
		n, _, errno := syscall.Syscall6(nr, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(iov))), uintptr(k), uintptr(off), 0, uintptr(flags))
		switch {
		case errno == syscall.EINTR:
			continue
		case errno != 0 && done == 0:
			return 0, errno
		case errno != 0 || n == 0:
			return done, 0
		}
		done += int(n)
		off += int64(n)
		skip += int(n)
	}
	return done, 0
}

// fillIovecs describes up to n bytes of v after its first skip, which end in its
// first element, with neighbours in memory joined.
func fillIovecs(iov []unix.Iovec, v [][]byte, skip, n int) (k int) {
	var end unsafe.Pointer
	for _, b := range v {
		if n == 0 {
			break
		}
		b = b[skip:]
		b = b[:min(len(b), n)]
		p := unsafe.Pointer(unsafe.SliceData(b))
		if k > 0 && p == end {
			iov[k-1].Len += uint64(len(b))
		} else {
			if k == len(iov) {
				break
			}
			iov[k].Base, iov[k].Len = (*byte)(p), uint64(len(b))
			k++
		}
		// SAFETY: only compared, never followed.
		end = unsafe.Add(p, len(b))
		skip, n = 0, n-len(b)
	}
	return k
}

// ofdLock is fcntl(2) with an open file description lock.
func ofdLock(fd, cmd int, l *unix.Flock_t) syscall.Errno {
	for {
		// SAFETY: l lives over the call.
		_, _, errno := syscall.Syscall(unix.SYS_FCNTL, uintptr(fd), uintptr(cmd), uintptr(unsafe.Pointer(l)))
		if errno != syscall.EINTR {
			return errno
		}
	}
}

// copyRange is copy_file_range(2).
func copyRange(in int, offIn int64, out int, offOut int64, n int) (int, syscall.Errno) {
	for {
		// SAFETY: both offsets live over the call.
		got, _, errno := syscall.Syscall6(unix.SYS_COPY_FILE_RANGE, uintptr(in), uintptr(unsafe.Pointer(&offIn)), uintptr(out),
			uintptr(unsafe.Pointer(&offOut)), uintptr(n), 0)
		if errno != syscall.EINTR {
			return int(got), errno
		}
	}
}
