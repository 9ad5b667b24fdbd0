package agent

import (
	"os"
	"strconv"
	"strings"

	"github.com/anthropics/boxlite/initramfs/init/users"
	"github.com/anthropics/boxlite/pkg/agentapi"
	"golang.org/x/sys/unix"
)

// defaultPath is what a program gets when the image names no PATH, as in Docker.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// prepared is everything about a program that is known before it is forked.
type prepared struct {
	args0 string
	path  string // of the file to execute, from dir if relative
	dir   string
	env   []string
	user  users.User
}

// prepare resolves user, directory, environment and program, in this order, so
// that of several mistakes the first one is told.
func prepare(spec *agentapi.ExecSpec, base, env []string) (*prepared, error) {
	p := &prepared{args0: spec.Args[0]}
	var err error
	if p.user, err = resolveUser(spec.User); err != nil {
		return nil, err
	}
	if p.dir, err = workDir(spec.Dir); err != nil {
		return nil, err
	}
	p.env = buildEnv(base, env, p.user.Home, spec.TTY)
	if p.path, err = p.lookUp(p.args0); err != nil {
		return nil, err
	}
	return p, nil
}

func resolveUser(spec string) (users.User, error) {
	passwd, err := readConfig("/etc/passwd")
	if err != nil {
		return users.User{}, fail(agentapi.CodeNoUser, "exec", "reading /etc/passwd of the image", err)
	}
	var group []byte
	if spec != "" {
		if group, err = readConfig("/etc/group"); err != nil {
			return users.User{}, fail(agentapi.CodeNoUser, "exec", "reading /etc/group of the image", err)
		}
	}
	u, err := users.Resolve(spec, passwd, group)
	if err != nil {
		return u, fail(agentapi.CodeNoUser, "exec", err.Error(), nil)
	}
	return u, nil
}

// readConfig reads a regular file of the image; none reads as empty. Whatever
// else lies there, a FIFO for one, must not stop us.
func readConfig(path string) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err == unix.ENOENT || err == unix.ENOTDIR {
		return nil, nil
	}
	if err != nil {
		return nil, os.NewSyscallError("open", err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, os.NewSyscallError("fstat", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, os.NewSyscallError("not a regular file", unix.EINVAL)
	}
	b := make([]byte, min(max(st.Size, 0), users.MaxFile))
	n := 0
	for n < len(b) {
		m, err := unix.Read(fd, b[n:])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, os.NewSyscallError("read", err)
		}
		if m == 0 {
			break
		}
		n += m
	}
	return b[:n], nil
}

// workDir makes sure that the working directory is one, creating it as
// `docker run -w` does.
func workDir(dir string) (string, error) {
	if dir == "" {
		return "/", nil
	}
	bad := func(err error) error {
		return fail(agentapi.CodeBadDir, "exec", "working directory "+strconv.Quote(dir), err)
	}
	if dir[0] != '/' {
		return "", fail(agentapi.CodeBadDir, "exec", "working directory "+strconv.Quote(dir)+" is not absolute", nil)
	}
	var st unix.Stat_t
	err := unix.Stat(dir, &st)
	if err == unix.ENOENT {
		if err := mkdirAll(dir); err != nil {
			return "", bad(err)
		}
		return dir, nil
	}
	if err == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		err = unix.ENOTDIR
	}
	if err != nil {
		return "", bad(err)
	}
	return dir, nil
}

// mkdirAll makes a directory and those above it that are missing, mode 0755.
func mkdirAll(dir string) error {
	for i := 1; i <= len(dir); i++ {
		if i < len(dir) && dir[i] != '/' {
			continue
		}
		if err := unix.Mkdir(dir[:i], 0o755); err != nil && err != unix.EEXIST {
			return err
		}
	}
	return nil
}

// buildEnv joins the environments; of equal keys the last one counts. PATH,
// HOSTNAME and, with a terminal, TERM have defaults, and so has HOME.
func buildEnv(base, own []string, home string, tty bool) []string {
	var u unix.Utsname
	unix.Uname(&u) // cannot fail
	defaults := []string{"PATH=" + defaultPath, "HOSTNAME=" + unix.ByteSliceToString(u.Nodename[:]), "HOME=" + home}
	if tty {
		defaults = append(defaults, "TERM=xterm")
	}
	env := make([]string, 0, len(defaults)+len(base)+len(own))
	at := make(map[string]int, cap(env))
	for _, list := range [][]string{defaults, base, own} {
		for _, kv := range list {
			k, _, ok := strings.Cut(kv, "=")
			if !ok || k == "" {
				continue
			}
			if i, ok := at[k]; ok {
				env[i] = kv
				continue
			}
			at[k] = len(env)
			env = append(env, kv)
		}
	}
	return env
}

func getenv(env []string, key string) string {
	for _, kv := range env {
		if v, ok := strings.CutPrefix(kv, key+"="); ok {
			return v
		}
	}
	return ""
}

// lookUp finds the file of a command, as execvp(3) in the working directory with
// the program's PATH and identity would.
func (p *prepared) lookUp(name string) (string, error) {
	if strings.Contains(name, "/") {
		switch err := p.executable(p.absolute(name)); err {
		case nil:
			return name, nil
		case unix.ENOENT, unix.ENOTDIR:
			return "", fail(agentapi.CodeNotFound, "exec", strconv.Quote(name), err)
		default:
			return "", fail(agentapi.CodeNotExecutable, "exec", strconv.Quote(name), err)
		}
	}
	var denied error
	for _, dir := range strings.Split(getenv(p.env, "PATH"), ":") {
		if dir == "" {
			dir = "."
		}
		path := dir + "/" + name
		err := p.executable(p.absolute(path))
		if err == nil {
			return path, nil
		}
		if err == unix.EACCES && denied == nil {
			denied = err
		}
	}
	if denied != nil {
		return "", fail(agentapi.CodeNotExecutable, "exec", strconv.Quote(name), denied)
	}
	return "", fail(agentapi.CodeNotFound, "exec", strconv.Quote(name)+": executable file not found in PATH", nil)
}

func (p *prepared) absolute(path string) string {
	if path[0] == '/' {
		return path
	}
	return strings.TrimSuffix(p.dir, "/") + "/" + path
}

// executable tells whether the program's user may execute a file: nil or the
// error of execve(2).
func (p *prepared) executable(path string) error {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return unix.EACCES
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || !p.mayExecute(&st) {
		return unix.EACCES
	}
	return nil
}

// mayExecute judges by mode bits; access control lists are left to execve.
func (p *prepared) mayExecute(st *unix.Stat_t) bool {
	switch {
	case p.user.UID == 0:
		return st.Mode&0o111 != 0
	case st.Uid == p.user.UID:
		return st.Mode&0o100 != 0
	case p.inGroup(st.Gid):
		return st.Mode&0o010 != 0
	}
	return st.Mode&0o001 != 0
}

func (p *prepared) inGroup(gid uint32) bool {
	for _, g := range p.user.Groups {
		if g == gid {
			return true
		}
	}
	return false
}

// explain makes the error of fork, chdir or execve into a typed one. They come
// out of one call, so which step it was is found out afterwards.
func (p *prepared) explain(err error) error {
	errno := errnoOf(err)
	if !p.mayEnter(p.dir) {
		return fail(agentapi.CodeBadDir, "exec", "working directory "+strconv.Quote(p.dir), errno)
	}
	name := strconv.Quote(p.args0)
	switch errno {
	case unix.ENOENT:
		if in := interpreter(p.absolute(p.path)); in != "" {
			return fail(agentapi.CodeNotFound, "exec", name+": its interpreter "+strconv.Quote(in)+" does not exist", errno)
		}
		return fail(agentapi.CodeNotFound, "exec", name, errno)
	case unix.ENOTDIR:
		return fail(agentapi.CodeNotFound, "exec", name, errno)
	case unix.EACCES, unix.ENOEXEC, unix.EISDIR, unix.ELIBBAD, unix.ETXTBSY, unix.EINVAL, unix.ELOOP, unix.EPERM:
		return fail(agentapi.CodeNotExecutable, "exec", name, errno)
	case unix.E2BIG:
		return fail(agentapi.CodeLimit, "exec", name+" with its arguments and environment", errno)
	}
	return fail(agentapi.CodeSystem, "exec", "starting "+name, errno)
}

// mayEnter tells whether the user may enter a directory, each on the way to it.
func (p *prepared) mayEnter(dir string) bool {
	if p.user.UID == 0 {
		return true
	}
	for i := 1; i <= len(dir); i++ {
		if i < len(dir) && dir[i] != '/' && i > 1 || i == len(dir) && i == 1 {
			continue
		}
		var st unix.Stat_t
		if unix.Stat(dir[:i], &st) == nil && !p.mayExecute(&st) {
			return false
		}
	}
	return true
}

// interpreter reads the first line of a script, or names the loader of what is
// not one.
func interpreter(path string) string {
	b, err := readSmall(path)
	if err != nil || len(b) < 2 {
		return ""
	}
	if string(b[:2]) == "#!" {
		line, _, _ := strings.Cut(string(b[2:]), "\n")
		line, _, _ = strings.Cut(strings.TrimSpace(line), " ")
		return line
	}
	if string(b[:2]) == "\x7fE" {
		return "of the ELF file"
	}
	return ""
}
