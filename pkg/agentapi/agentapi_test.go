package agentapi

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"
)

// samples holds at least one filled message of every type.
func samples() []Message {
	return []Message{
		&Hello{Version: Version, Agent: "v1", Kernel: "6.12.0", CPUs: 2, Memory: 1 << 28, Init: time.Millisecond, Dialed: time.Second, Ready: true},
		&Setup{
			Version: Version, Root: Root{Kind: RootDisk, Lower: "/dev/vda", Type: "erofs", Upper: "/dev/vdb", Size: 10 << 30},
			Hostname: "box", Hosts: []Host{{Addr: "10.0.0.1", Names: []string{"a", "b"}}, {Addr: "::1"}}, User: "a:b",
			Network: Network{
				Link: "eth0", Addrs: []Prefix{{"\xc0\xa8\x7f\x02", 24}}, Gateways: []string{"\xc0\xa8\x7f\x01"},
				Neighbours: []Neighbour{{"\xc0\xa8\x7f\x01", "\x5a\x94\xef\xe4\x0c\xdd"}},
			},
			ResolvConf: "nameserver 10.0.0.1\n", Env: []string{"A=1", "B="}, Time: 1700000000_000000005,
			Shm: 1 << 26, Orphan: -1, Log: LogDebug, NoCgroup: true, MaxExecs: 7, ExitLinger: 3, StreamGrace: 4,
		},
		&Setup{},
		&Ready{Steps: []Step{{Name: "mount", Took: 5}, {}}, At: 9, Disk: 10, UID: 11, GID: 12},
		&ExecSpec{
			ID: 1 << 63, Args: []string{"sh", "-c", "echo ä\x00\xff"}, Env: []string{"K=V"}, Dir: "/w", User: "a:b", TTY: true,
			Rows: 24, Cols: 80, Streams: WantAll, Timeout: time.Hour, Grace: -1, Detach: true,
		},
		&Started{PID: 77},
		&Exited{ID: 5, Status: ExitStatus{Code: -1, Signal: 9, TimedOut: true, OOMKilled: true, Held: true, User: 1, System: 2, MaxRSS: 3, Peak: 4, Wall: 5}},
		&Signal{ID: 5, Signal: 15}, &Kill{ID: 5}, &Resize{ID: 5, Rows: 1, Cols: 2},
		&Ping{}, &OK{}, &Shutdown{Grace: time.Second}, &PowerOff{Reason: "guest"}, &Log{Level: LogInfo, Text: "x"},
		&StatPath{Path: "/etc/ä", Follow: true},
		&PathInfo{Mode: 0o100644, UID: 1, GID: 2, Size: 1 << 40, ModTime: 1700000000, LinkTarget: "../x"}, &PathInfo{},
		&ArchiveGet{ID: 7, Path: "/a/.", Follow: true}, &ArchivePut{ID: 8, Path: "/b", Own: true, UID: 3, GID: 4},
		&ListProcesses{}, &ProcessList{}, &ProcessList{Now: 5, Total: 9, List: []ProcessInfo{
			{PID: 2, PPID: 1, UID: 1000, State: 'S', Threads: 3, TTY: 0x8801, RSS: 1 << 20, CPU: 7, Start: 8, Command: "sh -c x"}, {},
		}},
		&GetStats{}, &GuestStats{
			Uptime: 1, CPUUser: 2, CPUSystem: 3, CPUIdle: 4, CPUSteal: 5, MemTotal: 6, MemFree: 7, MemAvail: 8, MemCache: 9, SwapTotal: 10,
			SwapFree: 11, Load: [3]uint32{12, 13, 14}, Processes: 15, Threads: 16, DiskTotal: 17, DiskUsed: 18, BlockRead: 19, BlockWrite: 20,
		},
		&Mount{}, &Mount{Points: []MountPoint{
			{Kind: MountShare, Path: "/a", ReadOnly: true, NoExec: true, Tag: "v0", File: "f", Populate: true},
			{Kind: MountTmpfs, Path: "/b", Size: 1 << 40, Mode: 0o755}, {},
		}},
		&Error{Code: CodeSetup, Errno: 22, Op: "mount lower", Msg: "invalid argument"},
	}
}

func TestEveryTypeRoundTrips(t *testing.T) {
	seen := map[Type]bool{}
	for i, m := range samples() {
		seen[m.Type()] = true
		frame, err := AppendFrame([]byte("kept"), uint32(i), m)
		require.NoError(t, err)
		require.Equal(t, "kept", string(frame[:4]))
		r := NewReader(iotest.OneByteReader(bytes.NewReader(frame[4:])))
		id, got, err := r.Read()
		require.NoError(t, err, "%v", m.Type())
		require.Equal(t, uint32(i), id)
		require.Equal(t, m, got)
		_, _, err = r.Read()
		require.Equal(t, io.EOF, err)

		// Every shorter body must be refused, and every longer one.
		body := frame[8:]
		for n := range body {
			_, _, err := Decode(body[:n])
			require.ErrorIs(t, err, ErrFrame, "%v cut to %d bytes", m.Type(), n)
		}
		_, _, err = Decode(append(bytes.Clone(body), 0))
		require.ErrorIs(t, err, ErrFrame)
	}
	for typ := range Type(255) {
		require.Equal(t, newMessage(typ) != nil, seen[typ], "%v", typ)
		require.Equal(t, seen[typ], !strings.HasPrefix(typ.String(), "type "))
	}
}

func TestLengthIsCheckedBeforeAllocation(t *testing.T) {
	for _, n := range []uint32{0, 4, MaxFrame + 1, 1 << 31, 1<<32 - 1} {
		_, err := NewReader(bytes.NewReader(binary.LittleEndian.AppendUint32(nil, n))).Next()
		require.ErrorIs(t, err, ErrFrame, "%d", n)
	}
	// The largest length announced, few bytes sent: no more than what came is kept.
	r := NewReader(io.MultiReader(bytes.NewReader(binary.LittleEndian.AppendUint32(nil, MaxFrame)), bytes.NewReader(make([]byte, 100))))
	_, err := r.Next()
	require.Equal(t, io.ErrUnexpectedEOF, err)
	require.Equal(t, readerBuf, len(r.buf))
	// A list of 2^16 elements announced in a frame of 20 bytes reserves nothing.
	body := append([]byte{byte(TypeReady), 0, 0, 0, 0}, 0, 0, 1, 0)
	body = append(body, make([]byte, 20)...)
	require.Less(t, testing.AllocsPerRun(10, func() { Decode(body) }), 6.0)
}

func TestReaderAcrossSizes(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var wire []byte
	var want []string
	for range 60 {
		n := rng.IntN(3 * readerBuf)
		if rng.IntN(10) == 0 {
			n = MaxFrame - bodyHeader - 4 - 1 - rng.IntN(9)
		}
		want = append(want, strings.Repeat("x", n))
		var err error
		wire, err = AppendFrame(wire, 1, &Log{Text: want[len(want)-1]})
		require.NoError(t, err)
	}
	for _, src := range []io.Reader{bytes.NewReader(wire), iotest.HalfReader(bytes.NewReader(wire)), iotest.DataErrReader(bytes.NewReader(wire))} {
		r := NewReader(src)
		for i := range want {
			_, m, err := r.Read()
			require.NoError(t, err)
			require.Equal(t, len(want[i]), len(m.(*Log).Text), "frame %d", i)
		}
		_, _, err := r.Read()
		require.Equal(t, io.EOF, err)
	}
	_, err := NewReader(bytes.NewReader(wire[:len(wire)-1])).drain()
	require.Equal(t, io.ErrUnexpectedEOF, err)
	_, err = NewReader(neverReader{}).Next()
	require.Equal(t, io.ErrNoProgress, err)
}

type neverReader struct{}

func (neverReader) Read([]byte) (int, error) { return 0, nil }

func (r *Reader) drain() (n int, err error) {
	for {
		if _, err = r.Next(); err != nil {
			return n, err
		}
		n++
	}
}

func TestTooLargeToSend(t *testing.T) {
	b, err := AppendFrame([]byte("kept"), 1, &ExecSpec{Args: []string{strings.Repeat("x", MaxFrame)}})
	require.ErrorIs(t, err, &Error{Code: CodeLimit})
	require.Equal(t, "kept", string(b))
}

func TestErrorText(t *testing.T) {
	err := error(&Error{Code: CodeNotFound, Op: "exec", Msg: "no \x1b[2Jsuch\u202e file"})
	require.Equal(t, "agent: exec: no ?[2Jsuch? file", err.Error())
	require.ErrorIs(t, err, ErrNotFound)
	require.False(t, errors.Is(err, ErrNoUser))
	require.Equal(t, "agent: bad working directory", ErrBadDir.Error())
	require.LessOrEqual(t, len((&Error{Msg: strings.Repeat("\x00", 5000)}).Error()), maxShown+20)
	require.Equal(t, "code 999", Code(999).String())
}

func TestStreamHeader(t *testing.T) {
	for s := Stdin; s <= Terminal; s++ {
		h := StreamHeader{Exec: 0x1122334455667788, Stream: s}
		got, err := ParseStreamHeader(h.Bytes())
		require.NoError(t, err)
		require.Equal(t, h, got)
	}
	good := StreamHeader{Exec: 1}.Bytes()
	for _, i := range []int{0, 3, 4, 6, 7} {
		bad := good
		bad[i] ^= 1
		_, err := ParseStreamHeader(bad)
		require.ErrorIs(t, err, ErrFrame, "byte %d", i)
	}
	good[5] = 4
	_, err := ParseStreamHeader(good)
	require.ErrorIs(t, err, ErrFrame)
}

// TestProcessListFits: the largest list that may be sent is within a frame, and
// what is beyond its limits is refused.
func TestProcessListFits(t *testing.T) {
	full := &ProcessList{List: make([]ProcessInfo, MaxProcesses)}
	for i := range full.List {
		full.List[i].Command = strings.Repeat("x", MaxCommandLine)
	}
	decode := func() error {
		frame, err := AppendFrame(nil, 1, full)
		require.NoError(t, err)
		_, _, err = Decode(frame[headerLen:])
		return err
	}
	require.NoError(t, decode())
	full.List[0].Command += "x"
	require.ErrorIs(t, decode(), ErrFrame)
	full.List = make([]ProcessInfo, MaxProcesses+1)
	require.ErrorIs(t, decode(), ErrFrame)
}

func TestShellCode(t *testing.T) {
	require.Equal(t, 137, ExitStatus{Code: -1, Signal: 9}.ShellCode())
	require.Equal(t, 3, ExitStatus{Code: 3}.ShellCode())
	require.True(t, ExitStatus{}.Success())
	require.False(t, ExitStatus{Code: -1, Signal: 1}.Success())
}

// FuzzDecode: any body decodes to a message that encodes to the same bytes, or
// is refused. One meaning, one encoding.
func FuzzDecode(f *testing.F) {
	for _, m := range samples() {
		b, err := AppendFrame(nil, 3, m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b[headerLen:])
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		id, m, err := Decode(body)
		if err != nil {
			if !errors.Is(err, ErrFrame) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		b, err := AppendFrame(nil, id, m)
		if err != nil || !bytes.Equal(b[headerLen:], body) {
			t.Fatalf("%v decoded from %x encodes to %x, %v", m.Type(), body, b, err)
		}
	})
}

// FuzzReader: any byte stream yields frames or an error, in bounded memory.
func FuzzReader(f *testing.F) {
	var all []byte
	for _, m := range samples() {
		all, _ = AppendFrame(all, 3, m)
	}
	f.Add(all)
	f.Add([]byte{255, 255, 15, 0, 1})
	f.Fuzz(func(t *testing.T, wire []byte) {
		r := NewReader(bytes.NewReader(wire))
		for {
			if _, _, err := r.Read(); err != nil {
				if len(r.buf) > 2*max(len(wire), readerBuf) {
					t.Fatalf("%d bytes kept for %d received", len(r.buf), len(wire))
				}
				if !errors.Is(err, ErrFrame) && err != io.EOF && err != io.ErrUnexpectedEOF {
					t.Fatalf("untyped error %v", err)
				}
				return
			}
		}
	})
}

func FuzzStreamHeader(f *testing.F) {
	h := StreamHeader{Exec: 9, Stream: Stderr}.Bytes()
	f.Add(h[:])
	f.Fuzz(func(t *testing.T, p []byte) {
		var b [StreamHeaderLen]byte
		copy(b[:], p)
		if h, err := ParseStreamHeader(b); err == nil && h.Bytes() != b {
			t.Fatalf("%x means %+v, which is written %x", b, h, h.Bytes())
		}
	})
}
