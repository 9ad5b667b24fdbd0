package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// job is what the host side asks of the guest side; /job.json in the archive.
type job struct {
	Argv  []string
	Env   []string
	Stdin bool // there is input to wait for
}

// guestMain is PID 1 of the emulated machine. It never returns: whatever
// happens is told on the control port or the console, then the machine stops.
func guestMain() {
	code, err := guest()
	if err != nil {
		fmt.Println("rig:", err)
		code = exitRig
	}
	if ctl, err := openPort("rig.ctl", os.O_WRONLY); err == nil {
		fmt.Fprintf(ctl, "exit %d\n", code)
	}
	unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART) // QEMU runs with -no-reboot
	select {}
}

func guest() (int, error) {
	for _, m := range []struct {
		kind, where, data string
	}{
		{"proc", "/proc", ""}, {"sysfs", "/sys", ""}, {"devtmpfs", "/dev", ""},
		{"devpts", "/dev/pts", "ptmxmode=0666,mode=620,gid=5"}, {"tmpfs", "/dev/shm", ""},
		{"tmpfs", "/tmp", "mode=1777,size=90%"}, {"tmpfs", "/run", "mode=755"}, {"cgroup2", "/sys/fs/cgroup", ""},
	} {
		os.MkdirAll(m.where, 0o755)
		if err := unix.Mount(m.kind, m.where, m.kind, 0, m.data); err != nil {
			return 0, fmt.Errorf("mounting %s: %w", m.where, err)
		}
	}
	for name, target := range map[string]string{"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"} {
		os.Symlink(target, "/dev/"+name)
	}
	if err := loadModules(); err != nil {
		return 0, err
	}
	os.Chmod("/dev/kvm", 0o666)
	if err := loopbackUp(); err != nil {
		return 0, err
	}
	unix.Sethostname([]byte("rig"))
	data, err := os.ReadFile("/job.json")
	if err != nil {
		return 0, err
	}
	var j job
	if err := json.Unmarshal(data, &j); err != nil {
		return 0, fmt.Errorf("/job.json: %w", err)
	}
	go answerBeats()
	return j.run()
}

// parameters of modules. KVM remembers how fast the kernel thought the TSC ran when
// KVM was loaded. On a quick machine that is before the kernel has measured it a
// second time, and where the first measurement failed the two differ by up to 1 %,
// beyond which the kernel keeps the first. KVM lets them differ by 0.025 % and then
// counts on hardware that scales the TSC, which the emulator lacks: guests boot, but
// their timers never fire.
var parameters = map[string]string{"kvm": "tsc_tolerance_ppm=20000"}

func loadModules() error {
	order, err := os.ReadFile("/lib/modules/order")
	if err != nil {
		return err
	}
	for _, name := range strings.Fields(string(order)) {
		f, err := os.Open("/lib/modules/" + name + ".ko")
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), parameters[name], 0)
		f.Close()
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("loading module %s: %w", name, err)
		}
	}
	return nil
}

func loopbackUp() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(s)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return os.NewSyscallError("SIOCSIFFLAGS", unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, lo))
}

// openPort opens the virtio-serial port of that name. The kernel makes ports
// in the background, so a port may be a moment away.
func openPort(name string, flags int) (*os.File, error) {
	for range 5000 {
		names, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
		for _, n := range names {
			if is, _ := os.ReadFile(n); strings.TrimSpace(string(is)) == name {
				return os.OpenFile("/dev/"+filepath.Base(filepath.Dir(n)), flags, 0)
			}
		}
		time.Sleep(time.Millisecond)
	}
	return nil, fmt.Errorf("no virtio port %s", name)
}

// run starts the command, carries its streams, and returns its exit code. The
// streams are pipes, because a port cannot be opened twice and programs do
// open /dev/stderr.
func (j *job) run() (int, error) {
	env := append([]string{"PATH=/rig:/bin:/usr/bin:/usr/sbin:/sbin", "HOME=/rig", "TERM=dumb", "USER=root", "RIG=/rig"}, j.Env...)
	for _, e := range env {
		if k, v, ok := strings.Cut(e, "="); ok {
			os.Setenv(k, v)
		}
	}
	if err := os.Chdir(rigDir); err != nil {
		return 0, err
	}
	files := make([]*os.File, 3)
	var err error
	if files[0], err = j.input(); err != nil {
		return 0, err
	}
	var copies []chan struct{}
	for i, name := range []string{"rig.out", "rig.err"} {
		port, err := openPort(name, os.O_WRONLY)
		if err != nil {
			return 0, err
		}
		r, w, err := os.Pipe()
		if err != nil {
			return 0, err
		}
		files[1+i] = w
		done := make(chan struct{})
		copies = append(copies, done)
		go func() {
			defer close(done)
			io.Copy(struct{ io.Writer }{port}, struct{ io.Reader }{r})
		}()
	}
	code := j.command(files)
	for _, f := range files {
		f.Close()
	}
	// What the command wrote is in the pipes by now; a process that it left
	// behind may hold them open for ever.
	late := time.After(time.Second)
	for _, done := range copies {
		select {
		case <-done:
		case <-late:
		}
	}
	return code, nil
}

// command runs the command to its end.
func (j *job) command(files []*os.File) (code int) {
	path, err := exec.LookPath(j.Argv[0])
	if err != nil {
		fmt.Fprintf(files[2], "rig: %v\n", err)
		return 127
	}
	p, err := os.StartProcess(path, j.Argv, &os.ProcAttr{Env: os.Environ(), Files: files})
	if err != nil {
		fmt.Fprintf(files[2], "rig: %v\n", err)
		return 126
	}
	for _, f := range files {
		f.Close() // so that the copies end when the command does
	}
	return reapUntil(p.Pid)
}

// input returns the command's standard input.
func (j *job) input() (*os.File, error) {
	if !j.Stdin {
		return os.Open("/dev/null")
	}
	port, err := openPort("rig.in", os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	go func() {
		defer w.Close()
		io.Copy(struct{ io.Writer }{w}, struct{ io.Reader }{port})
	}()
	return r, nil
}

// reapUntil waits for every child, as PID 1 must, until pid has ended.
func reapUntil(pid int) int {
	for {
		var ws syscall.WaitStatus
		got, err := syscall.Wait4(-1, &ws, 0, nil)
		if err != nil && !errors.Is(err, syscall.EINTR) {
			return exitRig
		}
		if got == pid && ws.Exited() {
			return ws.ExitStatus()
		}
		if got == pid && ws.Signaled() {
			return 128 + int(ws.Signal())
		}
	}
}
