package proof

import (
	"crypto/md5"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/anthropics/boxlite/pkg/runtime"
	"github.com/stretchr/testify/require"
)

// TestGuestVolumeProof lets the programs that people use work on a volume, and holds
// every file that they leave there to what the box says of it.
func TestGuestVolumeProof(t *testing.T) {
	volume := t.TempDir()
	require.NoError(t, os.Chmod(volume, 0o755))
	b := box(t, "debian-programs", func(o *runtime.BoxOptions) {
		o.MemoryMiB = 1024
		o.Volumes = []runtime.VolumeSpec{{HostPath: volume, GuestPath: "/work"}}
	})
	times := func(short, long int) int {
		if soak() {
			return long
		}
		return short
	}
	t.Run("git", func(t *testing.T) {
		out := output(t, b, sh(`cd /work
git init -q -b main origin
cd origin
git config user.email a@b.test; git config user.name a
for i in $(seq %d); do mkdir -p d$((i %% 7)); echo "line $i" >d$((i %% 7))/f$i; done
ln -s d1/f1 link
git add . && git commit -q -m one
git mv d1 moved && git commit -q -m two
cd .. && git clone -q --no-local origin clone
cd clone && git fsck --strict 2>&1 && git status --porcelain
git log --oneline | wc -l`, times(40, 2000)))
		require.Equal(t, "2\n", out, "nothing to complain about, nothing changed, two commits")
	})
	t.Run("sqlite", func(t *testing.T) {
		out := output(t, b, sh(`cd /work
sqlite3 wal.db 'pragma journal_mode=wal; create table t(a integer primary key, b text)' >/dev/null
for w in 1 2; do
	(for i in $(seq %d); do sqlite3 -cmd '.timeout 60000' wal.db "insert into t(b) values(hex(randomblob(100)))"; done) &
done
wait
sqlite3 wal.db 'pragma integrity_check; select count(*) from t'`, times(5, 500)))
		require.Equal(t, fmt.Sprintf("ok\n%d\n", 2*times(5, 500)), out)
	})
	t.Run("fio", func(t *testing.T) {
		for _, how := range []string{"--ioengine=psync", "--ioengine=psync --direct=1", "--ioengine=mmap"} {
			out := output(t, b, sh("cd /work && fio --name=verify --rw=randwrite --bs=16k --size=%dM --verify=crc32c --verify_fatal=1 %s", times(2, 256), how))
			require.Contains(t, out, "err= 0", out)
		}
	})
	t.Run("dbench", func(t *testing.T) {
		out := output(t, b, sh("mkdir /work/dbench && dbench -c /usr/share/dbench/client.txt -D /work/dbench -t %d %d 2>&1", times(6, 120), times(2, 8)))
		require.Regexp(t, `(?m)^Throughput [1-9][0-9.]* MB/sec  \d clients`, out)
		// What it says of its semaphore it says everywhere.
		require.NotRegexp(t, "(?i)error|fail", strings.Replace(out, "failed to create barrier semaphore", "", 1))
	})
	t.Run("the host's view", func(t *testing.T) {
		require.Greater(t, sameFiles(t, b, "/work", volume), 80)
	})
}

// sameFiles holds every regular file of a volume, as the box reads it, to what this host
// reads, and returns how many there are.
func sameFiles(t *testing.T, b *runtime.LiteBox, guest, host string) int {
	t.Helper()
	inside := strings.Split(strings.TrimSpace(output(t, b, sh("cd %s && find . -type f -print0 | xargs -0 md5sum", guest))), "\n")
	var outside []string
	require.NoError(t, filepath.WalkDir(host, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		p, err := os.ReadFile(path)
		rel, _ := filepath.Rel(host, path)
		outside = append(outside, fmt.Sprintf("%x  ./%s", md5.Sum(p), rel))
		return err
	}))
	require.ElementsMatch(t, inside, outside)
	return len(outside)
}
