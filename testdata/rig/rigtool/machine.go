package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex
	buf  []byte
	also io.Writer // gets a copy, unless nil
}

const tailSize = 16 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if extra := len(t.buf) - tailSize; extra > 0 {
		t.buf = append(t.buf[:0], t.buf[extra:]...)
	}
	if t.also != nil {
		t.also.Write(p)
	}
	return len(p), nil
}

// show prints the last lines to stderr.
func (t *tail) show() {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := bytes.Split(bytes.TrimSpace(bytes.ReplaceAll(t.buf, []byte("\r"), nil)), []byte("\n"))
	if len(lines) > 40 {
		lines = lines[len(lines)-40:]
	}
	fmt.Fprintf(os.Stderr, "rig: end of the emulated machine's console:\n%s\n", bytes.Join(lines, []byte("\n")))
}

// machine is one start of QEMU.
type machine struct {
	program string // QEMU
	args    []string
	files   []*os.File // for QEMU, from descriptor 3
}

// fd gives QEMU a file and returns its number there.
func (m *machine) fd(f *os.File) int {
	m.files = append(m.files, f)
	return 2 + len(m.files)
}

// stream adds a character device and returns our end of it.
func (m *machine) stream(id string) (*net.UnixConn, error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	ours := os.NewFile(uintptr(fds[0]), id)
	defer ours.Close() // FileConn duplicates it
	n := m.fd(os.NewFile(uintptr(fds[1]), id))
	m.args = append(m.args, "-chardev", fmt.Sprintf("socket,id=%s,fd=%d", id, n))
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, err
	}
	return conn.(*net.UnixConn), nil
}

// Parts of Debian's start-up that take half of its instructions and serve
// nothing here: certificates, BTF of BPF struct_ops, the jitter RNG, names of
// trace events, self tests, the keyboard controller, the PM timer.
const skipped = "cryptomgr.notests initcall_blacklist=bpf_tcp_ca_kfunc_init,bpf_dummy_struct_ops_init," +
	"load_system_certificate_list,jent_mod_init,init_kprobe_trace,trace_eval_init,i8042_init,init_acpi_pm_clocksource"

// arguments are QEMU's, but for streams and files.
func (o *options) arguments(image string) []string {
	cmdline := "console=ttyS0 quiet loglevel=4 panic=-1 reboot=t tsc=reliable no_timer_check noreplace-smp random.trust_cpu=on apparmor=0 audit=0 " + skipped
	tcg := "tcg,thread=multi"
	var args []string
	if o.icount {
		// The clock is the instruction counter, and the calendar starts from now.
		tcg = "tcg,thread=single"
		args = append(args, "-icount", "shift=0,sleep=off", "-rtc", "base=utc,clock=vm")
	} else {
		// Nobody measures here; an -i run keeps the mitigations that a real host has.
		cmdline += " mitigations=off" + tscParameter()
	}
	if extra := os.Getenv("RIG_CMDLINE"); extra != "" {
		cmdline += " " + extra
	}
	cpu := "EPYC-Milan,+svm,+npt,-erms,-fsrm,-xsaves"
	if c := os.Getenv("RIG_CPU"); c != "" {
		cpu = c
	}
	return append(args,
		"-accel", tcg, "-cpu", cpu, "-smp", strconv.Itoa(o.cpus), "-m", strconv.Itoa(o.memory),
		"-machine", "pc,vmport=off,hpet=off", "-bios", "qboot.rom",
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-kernel", image, "-append", cmdline)
}

// noise is what the emulator says about features of the CPU that it lacks.
var noise = []byte("warning: TCG doesn't support requested feature")

// quiet passes whole lines on, but for noise.
type quiet struct {
	to   io.Writer
	line []byte
}

func (q *quiet) Write(p []byte) (int, error) {
	q.line = append(q.line, p...)
	for {
		i := bytes.IndexByte(q.line, '\n')
		if i < 0 {
			return len(p), nil
		}
		if !bytes.Contains(q.line[:i], noise) {
			q.to.Write(q.line[:i+1])
		}
		q.line = q.line[i+1:]
	}
}

// runEmulated runs the command in the emulated machine.
func runEmulated(o *options, things []thing) (int, error) {
	start := time.Now()
	phase := func(what string) {
		if o.verbose {
			say("%6.2f s  %s", time.Since(start).Seconds(), what)
		}
	}
	err := need(map[string]string{
		"/usr/bin/qemu-system-x86_64": "qemu-system-x86", "/usr/share/qemu/qboot.rom": "qemu-system-data",
		"/bin/busybox": "busybox-static", "/usr/bin/xz": "xz-utils", "/sbin/modinfo": "kmod",
	})
	if err != nil {
		return exitRig, err
	}
	cache, k, unlock, err := lockedKernel()
	if err != nil {
		return exitRig, err
	}
	base, err := k.baseArchive(cache, o.modules)
	if err != nil {
		return exitRig, err
	}
	program, err := correctedQEMU(qemuProgram, qemuModules, cache)
	if err != nil {
		return exitRig, err
	}
	unlock()
	stdin := wantsInput()
	archive, err := o.archive(cache, base, things, stdin)
	if err != nil {
		return exitRig, err
	}
	phase("archive ready")

	m := &machine{program: program, args: append([]string{"-L", qemuData}, o.arguments(k.image)...)}
	m.args = append(m.args, "-initrd", fmt.Sprintf("/proc/self/fd/%d", m.fd(archive)))
	conns := map[string]*net.UnixConn{}
	for _, id := range []string{"con", "in", "out", "err", "ctl", "beat"} {
		if conns[id], err = m.stream(id); err != nil {
			return exitRig, err
		}
	}
	// Without ioeventfd a write to a port is carried out by the CPU that makes
	// it, so that counted instructions do not depend on other threads.
	m.args = append(m.args, "-serial", "chardev:con", "-device", "virtio-serial-pci,ioeventfd=off,max_ports=8")
	for _, id := range []string{"in", "out", "err", "ctl", "beat"} {
		m.args = append(m.args, "-device", "virtserialport,chardev="+id+",name=rig."+id)
	}
	m.args = append(m.args, strings.Fields(os.Getenv("RIG_QEMU"))...)
	return m.run(o, conns, stdin, phase)
}

// run starts QEMU and carries the streams until it ends.
func (m *machine) run(o *options, conns map[string]*net.UnixConn, stdin bool, phase func(string)) (int, error) {
	console, qemuLog := &tail{}, &tail{}
	if o.verbose {
		console.also, qemuLog.also = os.Stderr, os.Stderr
	}
	runtime.LockOSThread() // Pdeathsig is about the thread that starts the child
	qemu := exec.Command(m.program, m.args...)
	qemu.Args[0] = "qemu-system-x86_64"
	qemu.Env = append(os.Environ(), "QEMU_MODULE_DIR="+qemuModules) // it looks beside itself
	qemu.ExtraFiles, qemu.Stderr = m.files, &quiet{to: qemuLog}
	qemu.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := qemu.Start(); err != nil {
		return exitRig, err
	}
	for _, f := range m.files {
		f.Close()
	}
	phase("QEMU started")
	if stdin {
		go func() {
			io.Copy(conns["in"], os.Stdin)
			conns["in"].CloseWrite()
		}()
	}
	var copies sync.WaitGroup
	var control bytes.Buffer
	for id, w := range map[string]io.Writer{"con": console, "out": os.Stdout, "err": os.Stderr, "ctl": &control} {
		copies.Go(func() { io.Copy(w, conns[id]) })
	}
	var beat heartbeat
	if !o.icount {
		beat.start(conns["beat"])
	}
	ended := make(chan error, 1)
	go func() { ended <- qemu.Wait() }()
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	limit := time.NewTimer(o.limit)
	var stopped error
	code := -1
	select {
	case <-ended:
	case s := <-signals:
		qemu.Process.Kill()
		<-ended
		code, stopped = 128+int(s.(syscall.Signal)), fmt.Errorf("stopped by %v", s)
	case <-beat.dead:
		qemu.Process.Kill()
		<-ended
		code, stopped = exitHung, fmt.Errorf("the emulated machine hangs: no sign of life for %v", beatLimit)
	case <-limit.C:
		qemu.Process.Kill()
		<-ended
		code, stopped = exitTimeout, fmt.Errorf("no end within %v", o.limit)
	}
	copies.Wait()
	phase("QEMU ended")
	if code == -1 {
		if n, ok := strings.CutPrefix(control.String(), "exit "); ok {
			if c, err := strconv.Atoi(strings.TrimSpace(n)); err == nil {
				if c == exitRig {
					console.show()
				}
				return c, nil
			}
		}
		code, stopped = exitRig, fmt.Errorf("the emulated machine ended without a word (%v): %s", qemu.ProcessState, qemuLog.buf)
	}
	if !o.verbose {
		console.show()
	}
	return code, stopped
}

// wantsInput tells whether standard input is anything worth carrying.
func wantsInput() bool {
	info, err := os.Stdin.Stat()
	if err != nil {
		return false
	}
	null, err := os.Stat(os.DevNull)
	return err != nil || !os.SameFile(info, null)
}

// archive returns this run's initramfs: base, the job, and the things, in a
// file without a name.
func (o *options) archive(cache, base string, things []thing, stdin bool) (*os.File, error) {
	f, err := os.CreateTemp(cache, "run")
	if err != nil {
		return nil, err
	}
	os.Remove(f.Name())
	b, err := os.Open(base)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	if _, err := io.Copy(f, b); err != nil {
		return nil, err
	}
	data, err := json.Marshal(job{Argv: o.argv, Env: o.env, Stdin: stdin})
	if err != nil {
		return nil, err
	}
	c := newCPIO(f)
	for _, d := range []string{"rig", "bin", "tmp"} {
		c.dirs[d] = true // base has them
	}
	if err := c.bytes("job.json", 0o644, data); err != nil {
		return nil, err
	}
	libs := map[string]bool{}
	for _, t := range things {
		if t.dir {
			if err := c.tree(t.dest, t.src); err != nil {
				return nil, fmt.Errorf("packing %s: %w", t.src, err)
			}
			continue
		}
		if err := c.file(t.dest, t.src); err != nil {
			return nil, fmt.Errorf("packing %s: %w", t.src, err)
		}
		for _, lib := range libraries(t.src) {
			libs[lib] = true
		}
	}
	for lib := range libs {
		if err := c.file(lib, lib); err != nil {
			return nil, fmt.Errorf("packing %s: %w", lib, err)
		}
	}
	return f, c.close()
}

// libraries returns the shared libraries and the loader of a dynamic program.
func libraries(program string) []string {
	head := make([]byte, 4)
	f, err := os.Open(program)
	if err != nil {
		return nil
	}
	_, err = io.ReadFull(f, head)
	f.Close()
	if err != nil || string(head) != "\x7fELF" {
		return nil
	}
	out, err := exec.Command("ldd", program).Output()
	if err != nil {
		return nil // static
	}
	var libs []string
	for word := range strings.FieldsSeq(string(out)) {
		if filepath.IsAbs(word) {
			libs = append(libs, word)
		}
	}
	return libs
}
