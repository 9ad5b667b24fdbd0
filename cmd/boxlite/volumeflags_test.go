package main

import (
	"testing"

	"github.com/anthropics/boxlite/pkg/runtime"
	"github.com/stretchr/testify/require"
)

func TestParseVolume(t *testing.T) {
	for s, want := range map[string]runtime.VolumeSpec{
		"/a:/b":                        {HostPath: "/a", GuestPath: "/b"},
		"/a/:/b":                       {HostPath: "/a/", GuestPath: "/b"},
		"/:/b":                         {HostPath: "/", GuestPath: "/b"},
		"/a:/b:ro":                     {HostPath: "/a", GuestPath: "/b", ReadOnly: true},
		"/a:/b:rw,z":                   {HostPath: "/a", GuestPath: "/b"},
		"/a:/b:ro,locks,ro,locks":      {HostPath: "/a", GuestPath: "/b", ReadOnly: true, SharedLocks: true},
		".:/b":                         {HostPath: ".", GuestPath: "/b"},
		"./x:/b":                       {HostPath: "./x", GuestPath: "/b"},
		"../x:/b":                      {HostPath: "../x", GuestPath: "/b"},
		"data:/b":                      {Name: "data", GuestPath: "/b"},
		"data:/b:nocopy,locks":         {Name: "data", GuestPath: "/b", NoCopy: true, SharedLocks: true},
		"/b":                           {GuestPath: "/b"},
		"/a:/b:owners=kept,ro":         {HostPath: "/a", GuestPath: "/b", Owners: runtime.OwnersKept, ReadOnly: true},
		"/with space:/b":               {HostPath: "/with space", GuestPath: "/b"},
		"/a:relative/is/told/of/later": {HostPath: "/a", GuestPath: "relative/is/told/of/later"},
	} {
		got, err := parseVolume(s)
		require.NoError(t, err, s)
		require.Equal(t, want, got, s)
	}
	for s, want := range map[string]string{
		"":                                   "want HOST:PATH",
		":":                                  "want HOST:PATH",
		":/b":                                "want HOST:PATH",
		"/a:":                                "want HOST:PATH",
		"/a:/b:":                             "there is no option",
		"/a:/b:rx":                           `there is no option "rx": choose ro`,
		"/a:/b:ro:rw":                        "too many colons",
		"/a:/b:owners=me":                    `there is no option "owners=me": choose ro, rw, owners=kept`,
		"/a:/b:ro,rw":                        `"ro" and "rw" contradict each other: leave one of them out`,
		"/a:/b:owners=kept,ro,owners=mapped": `"owners=kept" and "owners=mapped" contradict each other`,
		"a/b:/c":                             "for a folder here write ./a/b",
		".b:/c":                              "for a folder here write ./.b",
		"~/b:/c":                             "only a shell knows ~",
	} {
		_, err := parseVolume(s)
		require.ErrorContains(t, err, want, s)
	}
}

func TestParseMount(t *testing.T) {
	for s, want := range map[string]runtime.VolumeSpec{
		"type=bind,src=/a,dst=/b":                        {HostPath: "/a", GuestPath: "/b"},
		"type=bind,source=a:b,target=/b,readonly":        {HostPath: "a:b", GuestPath: "/b", ReadOnly: true},
		`type=bind,"src=/a,b",destination=/b,ro=false`:   {HostPath: "/a,b", GuestPath: "/b"},
		"src=v,dst=/b,volume-nocopy,locks,owners=mapped": {Name: "v", GuestPath: "/b", NoCopy: true, SharedLocks: true, Owners: runtime.OwnersMapped},
		"type=volume,dst=/b":                             {GuestPath: "/b"},
		"type=volume,dst=/b,ro,readonly=1,target=/b":     {GuestPath: "/b", ReadOnly: true},
	} {
		v, tmpfs, err := parseMount(s)
		require.NoError(t, err, s)
		require.Nil(t, tmpfs)
		require.Equal(t, want, *v, s)
	}
	v, tmpfs, err := parseMount("type=tmpfs,dst=/t,tmpfs-size=64m,tmpfs-mode=755,exec,ro")
	require.NoError(t, err)
	require.Nil(t, v)
	require.Equal(t, runtime.TmpfsSpec{GuestPath: "/t", SizeBytes: 64 << 20, Mode: 0o755, Exec: true, ReadOnly: true}, *tmpfs)
	for s, want := range map[string]string{
		"":                                  "want type=",
		"type=nfs,dst=/b":                   `there is no type "nfs"`,
		"type=bind,src=/a":                  "add dst=PATH",
		"type=bind,dst=/a":                  "add src=PATH",
		"type=bind,src=/a,dst=/b,speed=1":   `there is no key "speed": choose type, src`,
		"type=bind,src=/a,dst=/b,ro=maybe":  `"maybe": want true or false`,
		"type=bind,src=/a,dst=/b,exec":      "exec is for type=tmpfs",
		"type=tmpfs,dst=/b,tmpfs-size=lots": `"lots": want a size`,
		"type=tmpfs,dst=/b,tmpfs-mode=9":    `"9": want an octal number`,
		"type=tmpfs,dst=/b,src=/a":          "not for type=tmpfs",
		"type=tmpfs,dst=/b,volume-nocopy":   "volume-nocopy is for type=volume",
		"src=./here,dst=/b":                 `"./here" is no name of a volume: add type=bind`,
		`type=bind,"src=/a,dst=/b`:          "want type=",
		"type=bind,src=/a,dst=/b\nreadonly": "there is a line break in it",
		"type=bind,src=/a,dst=/b\n":         "there is a line break in it",
		"type=bind,src=/a,dst=/b,target=/c": `"dst=/b" and "target=/c" contradict each other`,
		"src=v,dst=/b,readonly,ro=false":    `"readonly" and "ro=false" contradict each other`,
		"type=bind,type=tmpfs,dst=/b":       `"type=bind" and "type=tmpfs" contradict each other`,
		"type=volume,src=1,src=t,dst=/b":    `"src=1" and "src=t" contradict each other`,
	} {
		_, _, err := parseMount(s)
		require.ErrorContains(t, err, want, s)
	}
}

func TestParseTmpfs(t *testing.T) {
	for s, want := range map[string]runtime.TmpfsSpec{
		"/t":                        {GuestPath: "/t"},
		"/t:size=1k":                {GuestPath: "/t", SizeBytes: 1024},
		"/t:size=65536,mode=0700":   {GuestPath: "/t", SizeBytes: 65536, Mode: 0o700},
		"/t:rw,noexec,nosuid,nodev": {GuestPath: "/t"},
		"/t:exec,ro":                {GuestPath: "/t", Exec: true, ReadOnly: true},
		"/t:size=1m,size=1024k":     {GuestPath: "/t", SizeBytes: 1 << 20},
		"/t:mode=755,mode=0755":     {GuestPath: "/t", Mode: 0o755},
	} {
		got, err := parseTmpfs(s)
		require.NoError(t, err, s)
		require.Equal(t, want, got, s)
	}
	for s, want := range map[string]string{
		"":                 "want PATH",
		":size=1":          "want PATH",
		"/t:":              "there is no option",
		"/t:size=-1":       "want a size",
		"/t:size=9999999t": "a smaller size",
		"/t:suid":          `there is no option "suid"`,
		"/t:exec,noexec":   `"exec" and "noexec" contradict each other`,
		"/t:size=1,size=2": `"size=1" and "size=2" contradict each other`,
	} {
		_, err := parseTmpfs(s)
		require.ErrorContains(t, err, want, s)
	}
}

// TestRelativeVolume has a path that the box keeps whatever folder later starts are in.
func TestRelativeVolume(t *testing.T) {
	here := t.TempDir()
	t.Chdir(here)
	rt, err := runtime.New(runtime.Options{HomeDir: t.TempDir()})
	require.NoError(t, err)
	defer rt.Close()
	v, err := parseVolume("./:/b")
	require.NoError(t, err)
	b, err := rt.Create(t.Context(), runtime.BoxOptions{Volumes: []runtime.VolumeSpec{v}}, "")
	require.NoError(t, err)
	require.Equal(t, here+"/", b.Options().Volumes[0].HostPath, "and what ends in a slash shall be a folder")
}
