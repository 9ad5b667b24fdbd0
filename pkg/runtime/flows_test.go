package runtime

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/anthropics/boxlite/pkg/runtime/internal/vmm"
	"github.com/stretchr/testify/require"
)

// flowBox is a box that does not run, and how to write to its flow log.
func flowBox(t *testing.T, rt *Runtime, name string) (*LiteBox, func(...vmm.FlowEntry)) {
	t.Helper()
	b, err := rt.Create(t.Context(), BoxOptions{KeepOnStop: true}, name)
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(filepath.Dir(b.FlowLog()), 0o700))
	return b, func(list ...vmm.FlowEntry) {
		f, err := os.OpenFile(b.FlowLog(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		require.NoError(t, err)
		defer f.Close()
		for _, e := range list {
			line, err := json.Marshal(e)
			require.NoError(t, err)
			_, err = f.Write(append(line, '\n'))
			require.NoError(t, err)
		}
	}
}

// readFlows are the names of a box's flows.
func readFlows(t *testing.T, b *LiteBox, o LogOptions) (names []string) {
	t.Helper()
	for f, err := range b.Flows(t.Context(), o) {
		require.NoError(t, err)
		names = append(names, f.Name)
	}
	return names
}

func TestFlows(t *testing.T) {
	rt := plainRuntime(t)
	b, write := flowBox(t, rt, "flows")
	require.Empty(t, readFlows(t, b, LogOptions{}), "it has not run yet")
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	entry := func(name string, minute int) vmm.FlowEntry {
		return vmm.FlowEntry{Time: at.Add(time.Duration(minute) * time.Minute), Name: name, Protocol: "tcp", Action: "allow"}
	}
	long := entry("long", 0)
	long.Seconds = 180
	write(entry("one", 0), entry("two", 1))
	require.NoError(t, os.Rename(b.FlowLog(), b.FlowLog()+".1"))
	write(entry("three", 2), long)
	require.NoError(t, appendText(b.FlowLog(), `{"Name":"half`)) // its process was killed
	require.NoError(t, appendText(b.FlowLog(), "\n"))
	write(entry("four", 4))
	require.NoError(t, appendText(b.FlowLog(), `{"Name":"being written"`))

	require.Equal(t, []string{"one", "two", "three", "long", "four"}, readFlows(t, b, LogOptions{}))
	require.Equal(t, []string{"long", "four"}, readFlows(t, b, LogOptions{Since: at.Add(3 * time.Minute)}), "by its end")
	require.Equal(t, []string{"four"}, readFlows(t, b, LogOptions{Tail: 1}))
	require.Equal(t, []string{"two", "three", "long", "four"}, readFlows(t, b, LogOptions{Tail: 5}), "one of the lines is none")
	require.Equal(t, []string{"one", "two", "three", "long", "four"}, readFlows(t, b, LogOptions{Follow: true}), "it does not run")
	for range b.Flows(t.Context(), LogOptions{}) {
		break
	}
	require.NoError(t, rt.Remove(t.Context(), "flows", true))
	for _, err := range b.Flows(t.Context(), LogOptions{}) {
		require.ErrorIs(t, err, ErrNotFound)
	}
}

func appendText(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(text)
	return err
}

// TestFlowsFollow reads on over files that are moved aside, and lines that come in
// pieces.
func TestFlowsFollow(t *testing.T) {
	rt := plainRuntime(t)
	b, write := flowBox(t, rt, "follow")
	var got []string
	r := flowReader{log: fileFollower{path: b.FlowLog()}, yield: func(f Flow) bool { got = append(got, f.Name); return true }}
	defer r.log.close()
	runs, step := true, 0
	err := r.read(t.Context(), LogOptions{Follow: true}, func() bool {
		switch step++; step {
		case 1:
			write(vmm.FlowEntry{Name: "1"})
		case 2:
			require.NoError(t, appendText(b.FlowLog(), `{"Na`))
		case 3:
			require.NoError(t, appendText(b.FlowLog(), "me\":\"2\"}\n"))
			require.NoError(t, os.Rename(b.FlowLog(), b.FlowLog()+".1"))
			write(vmm.FlowEntry{Name: "3"})
		case 4:
			runs = false
		}
		return runs
	})
	require.NoError(t, err)
	require.Equal(t, []string{"1", "2", "3"}, got)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, r.read(ctx, LogOptions{Follow: true}, func() bool { return true }), context.Canceled)
}

// TestFlowIsFlowEntry holds the public type to what the VM process writes.
func TestFlowIsFlowEntry(t *testing.T) {
	e := vmm.FlowEntry{
		Time: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), Seconds: 1.5, Protocol: "udp", Inbound: true,
		From: netip.MustParseAddrPort("1.2.3.4:5"), To: netip.MustParseAddrPort("[::1]:6"), Name: "n", Action: "deny",
		Rule: "r", Reason: "why", Sent: 1, Received: 2, Error: "e", Lost: 3,
	}
	line, err := json.Marshal(e)
	require.NoError(t, err)
	var f Flow
	require.NoError(t, json.Unmarshal(line, &f))
	again, err := json.Marshal(f)
	require.NoError(t, err)
	require.Equal(t, string(line), string(again))
	require.Equal(t, fmt.Sprint(e), fmt.Sprint(vmm.FlowEntry{
		Time: f.Time, Seconds: f.Seconds, Protocol: string(f.Protocol), Inbound: f.Inbound, From: f.From, To: f.To, Name: f.Name,
		Action: f.Action, Rule: f.Rule, Reason: f.Reason, Sent: f.Sent, Received: f.Received, Error: f.Error, Lost: f.Lost,
	}))
}
