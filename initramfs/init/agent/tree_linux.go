package agent

import (
	"bytes"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// tree is every process of one execution: a cgroup of its own, or, where there
// are no cgroups, its session.
type tree struct {
	dir string // of the cgroup; "" without
	fd  int    // of dir, for clone3; -1 without
}

// newTree makes the cgroup of an execution under base, or a tree without one.
func newTree(base string, id uint64) (tree, error) {
	if base == "" {
		return tree{fd: -1}, nil
	}
	t := tree{dir: base + "/exec-" + strconv.FormatUint(id, 16)}
	if err := unix.Mkdir(t.dir, 0o755); err != nil {
		return tree{fd: -1}, os.NewSyscallError("mkdir "+t.dir, err)
	}
	fd, err := unix.Open(t.dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		unix.Rmdir(t.dir)
		return tree{fd: -1}, os.NewSyscallError("open "+t.dir, err)
	}
	t.fd = fd
	return t, nil
}

// forked drops what only the fork needed.
func (t *tree) forked() {
	if t.fd >= 0 {
		unix.Close(t.fd)
		t.fd = -1
	}
}

// kill ends every process of the tree, whatever it tries (cgroup v2, "cgroup.kill").
func (t *tree) kill(leader int) {
	if t.dir != "" && writeFile(t.dir+"/cgroup.kill", "1") == nil {
		return
	}
	for _, pid := range t.pids(leader) {
		unix.Kill(pid, unix.SIGKILL)
	}
}

// signal sends sig to every process of the tree.
func (t *tree) signal(leader int, sig unix.Signal) {
	for _, pid := range t.pids(leader) {
		unix.Kill(pid, sig)
	}
}

// empty reports that no process is left.
func (t *tree) empty(leader int) bool {
	if t.dir != "" {
		b, err := readSmall(t.dir + "/cgroup.events")
		return err != nil || bytes.Contains(b, []byte("populated 0"))
	}
	return len(t.pids(leader)) == 0
}

// maxPids bounds one look at a tree; callers that want to reach all repeat.
const maxPids = 1 << 16

func (t *tree) pids(leader int) []int {
	var list []int
	if t.dir != "" {
		if b, err := readAll(t.dir + "/cgroup.procs"); err == nil {
			for line := range strings.Lines(string(b)) {
				if pid, err := strconv.Atoi(strings.TrimSpace(line)); err == nil && pid > 1 && len(list) < maxPids {
					list = append(list, pid)
				}
			}
			return list
		}
	}
	return session(leader)
}

// session lists the processes of a session by /proc. Each execution leads one;
// a process that makes its own session escapes, which is why cgroups are the rule.
func session(leader int) (pids []int) {
	for _, name := range list("/proc") {
		pid, err := strconv.Atoi(name)
		if err != nil || pid <= 1 {
			continue
		}
		if sid, err := unix.Getsid(pid); err == nil && sid == leader && !isZombie(name) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// isZombie reads the state out of /proc/<pid>/stat (proc(5)): behind the last
// parenthesis, because the name before it may contain anything.
func isZombie(pid string) bool {
	b, err := readSmall("/proc/" + pid + "/stat")
	i := bytes.LastIndexByte(b, ')')
	return err == nil && i > 0 && i+2 < len(b) && b[i+2] == 'Z'
}

// usage reads what the kernel counted for the tree (cgroup v2, memory).
func (t *tree) usage() (peak uint64, oom bool) {
	if t.dir == "" {
		return 0, false
	}
	if b, err := readSmall(t.dir + "/memory.peak"); err == nil {
		peak, _ = strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	}
	b, err := readSmall(t.dir + "/memory.events")
	if err != nil {
		return peak, false
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "oom_kill "); ok {
			oom = v != "0"
		}
	}
	return peak, oom
}

// remove deletes the cgroup, and those a program made below it. It reports
// whether it is gone: it is not while a process lives in it.
func (t *tree) remove() bool {
	if t.dir == "" {
		return true
	}
	err := unix.Rmdir(t.dir)
	if err == unix.EBUSY {
		removeBelow(t.dir, 0)
		err = unix.Rmdir(t.dir)
	}
	return err == nil || err == unix.ENOENT
}

func removeBelow(dir string, depth int) {
	if depth > 32 {
		return
	}
	for _, name := range list(dir) {
		sub := dir + "/" + name // files among them answer ENOTDIR
		if unix.Rmdir(sub) == unix.EBUSY {
			removeBelow(sub, depth+1)
			unix.Rmdir(sub)
		}
	}
}

// list returns the names in a directory, none when there is a problem. It spares
// the weight of os.ReadDir.
func list(dir string) (names []string) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	buf := make([]byte, 8192)
	for len(names) < maxPids {
		n, err := unix.ReadDirent(fd, buf)
		if n <= 0 || err != nil {
			return names
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
	}
	return names
}

// readSmall reads the first page of a kernel file without os.ReadFile's fstat
// and growing.
func readSmall(path string) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	buf := make([]byte, 1024)
	n, err := unix.Read(fd, buf)
	if err != nil {
		return nil, err
	}
	return buf[:n], nil
}

// readAll reads a kernel file of any length, up to what maxPids lines can take.
func readAll(path string) (all []byte, err error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	buf := make([]byte, 4096)
	for len(all) < 8*maxPids {
		n, err := unix.Read(fd, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		if n == 0 {
			break
		}
		all = append(all, buf[:n]...)
	}
	return all, nil
}

func writeFile(path, text string) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, []byte(text))
	return err
}
