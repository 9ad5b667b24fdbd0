package fs_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// guestACL does the same random things with ACLs in a share and in a tmpfs, where
// they are the kernel's own business: what can be seen, and who may do what, must
// be the same. It runs in the guest.
func guestACL(dir string) {
	const model = "/model"
	check("mkdir", os.MkdirAll(model, 0o755))
	check("tmpfs", unix.Mount("tmpfs", model, "tmpfs", 0, "mode=0755"))
	defer unix.Unmount(model, 0)
	share := dir + "/acl"
	check("mkdir", os.Mkdir(share, 0o755))
	rnd := rand.New(rand.NewPCG(5, 6))
	paths := func() string {
		parts := make([]string, 1+rnd.IntN(3))
		for i := range parts {
			parts[i] = string(rune('a' + rnd.IntN(3)))
		}
		return "/" + strings.Join(parts, "/")
	}
	perm := func() string { return [...]string{"---", "r--", "rw-", "rwx", "r-x", "-w-", "--x"}[rnd.IntN(7)] }
	acls := func() []byte {
		text := "u::" + perm()
		named := rnd.IntN(3)
		if named > 0 {
			text += " u:1000:" + perm()
		}
		text += " g::" + perm()
		if named > 1 {
			text += " g:1000:" + perm() + " g:2000:" + perm()
		}
		if named > 0 || rnd.IntN(2) == 0 {
			text += " m::" + perm()
		}
		return aclOf(text + " o::" + perm())
	}
	for i := range long(40) {
		path, what := paths(), ""
		var do func(at string) error
		switch rnd.IntN(9) {
		case 0, 1:
			mode, umask := uint32(rnd.IntN(0o1000)), []int{0, 0o22, 0o77}[rnd.IntN(3)]
			what, do = fmt.Sprintf("mkdir %o, umask %o", mode, umask), func(at string) error {
				defer unix.Umask(unix.Umask(umask))
				return unix.Mkdir(at, mode)
			}
		case 2, 3:
			mode, umask := uint32(rnd.IntN(0o1000)), []int{0, 0o22, 0o77}[rnd.IntN(3)]
			what, do = fmt.Sprintf("create %o, umask %o", mode, umask), func(at string) error {
				defer unix.Umask(unix.Umask(umask))
				fd, err := unix.Open(at, unix.O_CREAT|unix.O_EXCL|unix.O_RDWR, mode)
				unix.Close(fd)
				return err
			}
		case 4:
			mode := uint32(rnd.IntN(0o10000))
			what, do = fmt.Sprintf("chmod %o", mode), func(at string) error { return unix.Chmod(at, mode) }
		case 5:
			uid, gid := rnd.IntN(2)*1000, rnd.IntN(3)*1000
			what, do = fmt.Sprint("chown ", uid, gid), func(at string) error { return unix.Chown(at, uid, gid) }
		case 6, 7:
			name, acl := [...]string{accessACL, defaultACL}[rnd.IntN(2)], acls()
			what, do = fmt.Sprintf("set %s %x", name, acl), func(at string) error { return unix.Setxattr(at, name, acl, 0) }
		case 8:
			name := [...]string{accessACL, defaultACL}[rnd.IntN(2)]
			what, do = "remove "+name, func(at string) error { return unix.Removexattr(at, name) }
		}
		same(fmt.Sprintf("step %d: %s %s", i, what, path), fmt.Sprint(do(share+path)), fmt.Sprint(do(model+path)))
		if i%40 == 39 {
			same(fmt.Sprintf("after step %d, as root", i), aclTree(share), aclTree(model))
			as(1000, 1000, func() {
				same(fmt.Sprintf("after step %d, as user", i), access(share), access(model))
			})
		}
	}
	check("remove all", os.RemoveAll(share))
}

// below calls f for all that may be below dir, named as guestACL names it.
func below(dir string, f func(path string)) {
	for a := range 64 { // in base 4, without zeroes
		path := dir
		for n := a; n > 0; n /= 4 {
			if n%4 == 0 {
				path = ""
				break
			}
			path += "/" + string(rune('a'+n%4-1))
		}
		if path != "" && path != dir {
			f(path)
		}
	}
}

// aclTree describes modes, owners and ACLs.
func aclTree(dir string) string {
	var b strings.Builder
	below(dir, func(path string) {
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			fmt.Fprintln(&b, path[len(dir):], err)
			return
		}
		fmt.Fprintf(&b, "%s %o %d %d", path[len(dir):], st.Mode, st.Uid, st.Gid)
		for _, name := range []string{accessACL, defaultACL} {
			var buf [4096]byte
			n, err := unix.Getxattr(path, name, buf[:])
			fmt.Fprintf(&b, " %x %v", buf[:max(n, 0)], err)
		}
		fmt.Fprintln(&b)
	})
	return b.String()
}

// access describes what the calling thread may do.
func access(dir string) string {
	var b strings.Builder
	below(dir, func(path string) {
		fmt.Fprint(&b, path[len(dir):])
		for _, flags := range []int{unix.O_RDONLY, unix.O_WRONLY, unix.O_RDWR} {
			fd, err := unix.Open(path, flags|unix.O_NONBLOCK, 0)
			fmt.Fprint(&b, " ", err)
			unix.Close(fd)
		}
		fmt.Fprintln(&b, " ", unix.Faccessat(unix.AT_FDCWD, path, unix.X_OK, unix.AT_EACCESS))
	})
	return b.String()
}

// as calls f as another user, on a thread that ends with it.
func as(uid, gid int, f func()) {
	done := make(chan any)
	go func() {
		defer func() { done <- recover() }()
		runtime.LockOSThread() // and never unlocked
		for _, call := range [][4]uintptr{{unix.SYS_SETGROUPS}, {unix.SYS_SETRESGID, uintptr(gid), uintptr(gid), uintptr(gid)},
			{unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)}} {
			if _, _, errno := unix.RawSyscall(call[0], call[1], call[2], call[3]); errno != 0 {
				panic(errors.Join(errors.New("another user"), errno))
			}
		}
		f()
	}()
	if r := <-done; r != nil {
		panic(r)
	}
}
