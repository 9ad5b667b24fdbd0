package users

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const passwd = `root:x:0:0:root:/root:/bin/sh
# comment:x:9:9::/:
daemon:*:1:2:daemon:/usr/sbin:/usr/sbin/nologin

bad:x:notanumber:1::/:
short:x:7
nohome:x:8:8
web:x:1000:100:Web, the:/srv/web:/bin/sh
web:x:2000:200:second:/:
huge:x:4294967295:1::/:
toor:x:0:5:other root:/toor:/bin/sh
 spaced:x:77:78::/sp:
`

const group = `root:x:0:
daemon:x:2:web
audio:x:29:daemon, web
users:x:100:web,other
docker:x:999:other,web
webby:x:50:webx
broken:x:x:web
big:x:4294967296:web
nomembers:x:60
`

func TestResolve(t *testing.T) {
	for _, c := range []struct {
		spec string
		want User
	}{
		{"", User{0, 0, []uint32{0}, "/root"}},
		{"root", User{0, 0, []uint32{0}, "/root"}},
		{"0", User{0, 0, []uint32{0}, "/root"}},
		{"web", User{1000, 100, []uint32{100, 2, 29, 999}, "/srv/web"}},
		{"1000", User{1000, 100, []uint32{100, 2, 29, 999}, "/srv/web"}},
		{"web:", User{1000, 100, []uint32{100, 2, 29, 999}, "/srv/web"}},
		{"web:audio", User{1000, 29, []uint32{29}, "/srv/web"}},
		{"web:12345", User{1000, 12345, []uint32{12345}, "/srv/web"}},
		{"4242", User{4242, 0, []uint32{0}, "/"}},
		{"4242:docker", User{4242, 999, []uint32{999}, "/"}},
		{":docker", User{0, 999, []uint32{999}, "/root"}},
		{"nohome", User{8, 8, []uint32{8}, "/"}},
		{"toor", User{0, 5, []uint32{5}, "/toor"}},
		{"spaced", User{77, 78, []uint32{78}, "/sp"}},
		{"4294967294", User{4294967294, 0, []uint32{0}, "/"}},
	} {
		got, err := Resolve(c.spec, []byte(passwd), []byte(group))
		require.NoError(t, err, c.spec)
		require.Equal(t, c.want, got, c.spec)
	}
}

func TestUnknown(t *testing.T) {
	for spec, want := range map[string]string{
		"nobody": `no user "nobody" in the image`, "bad": `no user "bad" in the image`, "huge": `no user "huge" in the image`,
		"web:nosuch": `no group "nosuch" in the image`, "web:broken": `no group "broken" in the image`,
		"4294967295": `no user "4294967295" in the image`, "1:99999999999": `no group "99999999999" in the image`,
		"-1": `no user "-1" in the image`, "a\x1b[": `no user "a\x1b[" in the image`, "#": `no user "#" in the image`,
	} {
		_, err := Resolve(spec, []byte(passwd), []byte(group))
		var unknown *UnknownError
		require.ErrorAs(t, err, &unknown, spec)
		require.Equal(t, want, err.Error())
	}
	u, err := Resolve("", nil, nil)
	require.NoError(t, err)
	require.Equal(t, User{0, 0, []uint32{0}, "/"}, u)
}

func TestBounds(t *testing.T) {
	many := bytes.NewBufferString("")
	for range 3 * 65536 {
		many.WriteString("g:x:")
		many.WriteString(strings.Repeat("1", 1))
		many.WriteString(":web\n")
	}
	u, err := Resolve("web", []byte(passwd), many.Bytes())
	require.NoError(t, err)
	require.Equal(t, []uint32{100, 1}, u.Groups)
	far := append(bytes.Repeat([]byte{'\n'}, MaxFile), passwd...)
	_, err = Resolve("web", far, nil)
	require.Error(t, err, "an entry behind the limit is not seen")
}

func FuzzResolve(f *testing.F) {
	f.Add("web:audio", []byte(passwd), []byte(group))
	f.Add("1000", []byte(passwd), []byte(group))
	f.Fuzz(func(t *testing.T, spec string, passwd, group []byte) {
		u, err := Resolve(spec, passwd, group)
		if err != nil {
			return
		}
		if u.UID > maxID || u.GID > maxID || u.Home == "" || len(u.Groups) == 0 || u.Groups[0] != u.GID || len(u.Groups) > maxGroups {
			t.Fatalf("%q gave %+v", spec, u)
		}
	})
}
