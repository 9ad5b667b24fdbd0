package main

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	mnt   = "/mnt"
	quiet = 20 * time.Millisecond // for the host to look at its counters
)

// guest is the guest's init: it does the work and ends the machine.
func guest() {
	defer func() {
		if r := recover(); r != nil {
			fmt.Println("\nguest:", r)
		}
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	}()
	for dir, typ := range map[string]string{"/proc": "proc", "/sys": "sysfs"} {
		must(os.MkdirAll(dir, 0o755))
		must(unix.Mount(typ, dir, typ, 0, ""))
	}
	must(os.MkdirAll(mnt, 0o755))
	only := regexp.MustCompile(os.Getenv("FSBENCH_ONLY"))
	for _, w := range workloads {
		if w.name != "nothing" && !only.MatchString(w.name) {
			continue
		}
		if _, err := os.Stat("/git"); err != nil && strings.HasPrefix(w.name, "git") {
			continue // nor was there one on the host
		}
		if w.fresh || !mounted {
			remount()
		}
		if w.rest > 0 {
			time.Sleep(w.rest)
		}
		fmt.Printf("\nbegin %s\n", w.name)
		time.Sleep(quiet)
		start := time.Now()
		n := w.do()
		took := time.Since(start)
		fmt.Printf("\nend %d %d\n", n, took.Nanoseconds())
		time.Sleep(quiet)
	}
	must(unix.Unmount(mnt, 0))
	fmt.Print("\nall done\n")
}

var mounted bool

// remount makes the guest forget all that it knows.
func remount() {
	if mounted {
		must(unix.Unmount(mnt, 0))
	}
	must(unix.Mount(tag, mnt, "virtiofs", 0, ""))
	mounted = true
	if ra := os.Getenv("FSBENCH_READAHEAD"); ra != "0" {
		var st unix.Stat_t
		must(unix.Stat(mnt, &st))
		must(os.WriteFile(fmt.Sprintf("/sys/class/bdi/%d:%d/read_ahead_kb", unix.Major(st.Dev), unix.Minor(st.Dev)), []byte(ra), 0))
	}
}

type workload struct {
	name  string
	fresh bool          // the guest knows nothing of the share
	rest  time.Duration // before it
	do    func() int
}

// workloads are done in this order; each returns its number of operations.
var workloads = []workload{
	{name: "nothing", fresh: true, do: func() int { return 1 }},
	{name: "read-seq-1M", fresh: true, do: func() int { return readAll("big", 0, 1<<20) }},
	{name: "read-seq-cached", do: func() int { return readAll("big", 0, 1<<20) }},
	{name: "read-direct-1M", fresh: true, do: func() int { return readAll("big", unix.O_DIRECT, 1<<20) }},
	{name: "read-direct-4K", fresh: true, do: func() int { return readRandom(unix.O_DIRECT) }},
	{name: "read-rand-4K", fresh: true, do: func() int { return readRandom(0) }},
	{name: "read-mmap-4K", fresh: true, do: readMapped},
	{name: "write-seq-1M", fresh: true, do: func() int { return writeSeq("seq", 0, 1<<20, bigMiB) }},
	{name: "write-seq-4K", fresh: true, do: func() int { return writeSeq("seq4k", 0, 4<<10, random) }},
	{name: "write-direct-1M", fresh: true, do: func() int { return writeSeq("direct", unix.O_DIRECT, 1<<20, bigMiB) }},
	{name: "write-rand-4K", fresh: true, do: writeRandom},
	{name: "create", fresh: true, do: create},
	{name: "stat-cold", fresh: true, do: func() int { return each("flat", lstat) }},
	{name: "stat-again", rest: 1200 * time.Millisecond, do: func() int { return each("flat", lstat) }},
	{name: "stat-missing", do: func() int { return each("flat", func(p string) { _ = unix.Lstat(p+"-", &st) }) }},
	{name: "open-read-close", fresh: true, do: func() int { return each("flat", readSmall) }},
	{name: "open-read-again", rest: 1200 * time.Millisecond, do: func() int { return each("flat", readSmall) }},
	{name: "ls-l", fresh: true, do: list},
	{name: "chmod-utimes", do: func() int { return each("flat", touch) }},
	{name: "rename", fresh: true, do: func() int { return each("renamed", func(p string) { must(unix.Rename(p, p+".new")) }) }},
	{name: "unlink", fresh: true, do: func() int { return each("old", func(p string) { must(unix.Unlink(p)) }) }},
	{name: "walk-cold", fresh: true, do: walk},
	{name: "walk-again", rest: 1200 * time.Millisecond, do: walk},
	{name: "walk-warm", do: walk},
	{name: "mkdir-rmdir", fresh: true, do: folders},
	{name: "git-add", fresh: true, do: func() int { git("init", "-q"); git("add", "."); return sources }},
	{name: "git-status-cold", fresh: true, do: func() int { git("status", "--short"); return sources }},
	{name: "git-status-again", rest: 1200 * time.Millisecond, do: func() int { git("status", "--short"); return sources }},
}

var st unix.Stat_t

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func at(name string) string { return mnt + "/" + name }

// aligned is a buffer that O_DIRECT takes.
func aligned(n int) []byte {
	p, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	must(err)
	return p
}

func open(name string, flags int) int {
	fd, err := unix.Open(at(name), flags|unix.O_CLOEXEC, 0o644)
	must(err)
	return fd
}

func readAll(name string, flags, block int) int {
	fd := open(name, unix.O_RDONLY|flags)
	defer unix.Close(fd)
	buf := aligned(block)
	for n := 0; ; n++ {
		k, err := unix.Read(fd, buf)
		must(err)
		if k == 0 {
			return n
		}
	}
}

// offsets are the same on both sides.
func offsets() []int {
	return rand.New(rand.NewPCG(1, 2)).Perm(bigMiB << 20 / 4096)[:random]
}

func readRandom(flags int) int {
	fd := open("big", unix.O_RDONLY|flags)
	defer unix.Close(fd)
	must(unix.Fadvise(fd, 0, 0, unix.FADV_RANDOM))
	buf, all := aligned(4096), offsets()
	for _, o := range all {
		_, err := unix.Pread(fd, buf, int64(o)*4096)
		must(err)
	}
	return len(all)
}

func readMapped() int {
	fd := open("big", unix.O_RDONLY)
	defer unix.Close(fd)
	m, err := unix.Mmap(fd, 0, bigMiB<<20, unix.PROT_READ, unix.MAP_SHARED)
	must(err)
	must(unix.Madvise(m, unix.MADV_RANDOM))
	sum, all := byte(0), offsets()
	for _, o := range all {
		sum += m[o*4096]
	}
	st.Size = int64(sum)
	must(unix.Munmap(m))
	return len(all)
}

func writeSeq(name string, flags, block, n int) int {
	fd := open(name, unix.O_WRONLY|unix.O_CREAT|flags)
	buf := aligned(block)
	for range n {
		_, err := unix.Write(fd, buf)
		must(err)
	}
	must(unix.Fsync(fd))
	must(unix.Close(fd))
	return n
}

func writeRandom() int {
	fd := open("big", unix.O_RDWR)
	buf, all := aligned(4096), offsets()
	for _, o := range all {
		_, err := unix.Pwrite(fd, buf, int64(o)*4096)
		must(err)
	}
	must(unix.Fsync(fd))
	must(unix.Close(fd))
	return len(all)
}

// each does something with the path of every file of a flat folder.
func each(folder string, f func(path string)) int {
	for i := range files {
		f(mnt + "/" + folder + "/file-" + strconv.Itoa(i))
	}
	return files
}

func lstat(p string) { must(unix.Lstat(p, &st)) }

func create() int {
	must(unix.Mkdir(at("made"), 0o755))
	buf := make([]byte, smallLen)
	return each("made", func(p string) {
		fd, err := unix.Open(p, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o644)
		must(err)
		_, err = unix.Write(fd, buf)
		must(err)
		must(unix.Close(fd))
	})
}

func readSmall(p string) {
	fd, err := unix.Open(p, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	must(err)
	var buf [4096]byte
	_, err = unix.Read(fd, buf[:])
	must(err)
	must(unix.Close(fd))
}

func touch(p string) {
	must(unix.Chmod(p, 0o755))
	must(unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{{Sec: 1}, {Sec: 2}}, 0))
}

func list() int {
	all, err := os.ReadDir(at("flat"))
	must(err)
	for _, e := range all {
		must(unix.Lstat(mnt+"/flat/"+e.Name(), &st))
	}
	return len(all)
}

// walk reads every folder and looks at every file.
func walk() int {
	n := 0
	must(filepath.WalkDir(at("tree"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			n++
			err = unix.Lstat(path, &st)
		}
		return err
	}))
	return n
}

// git works on the folder repo.
func git(args ...string) {
	before := []string{"--library-path", "/git", "/git/git", "-C", at("repo"), "-c", "core.fsync=none", "-c", "core.preloadIndex=false"}
	c := exec.Command("/git/ld-linux-x86-64.so.2", append(before, args...)...)
	c.Env = []string{"HOME=/", "GIT_CONFIG_NOSYSTEM=1", "GIT_OPTIONAL_LOCKS=0"}
	out, err := c.CombinedOutput()
	if err != nil {
		panic(fmt.Sprintf("git %v: %v: %s", args, err, out))
	}
}

func folders() int {
	const n = 40
	for i := range n {
		must(unix.Mkdir(at("d"+strconv.Itoa(i)), 0o755))
	}
	for i := range n {
		must(unix.Rmdir(at("d" + strconv.Itoa(i))))
	}
	return n
}
