package proof

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/anthropics/boxlite/pkg/runtime"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// pg is a script with PostgreSQL's programs at hand, for a server in /srv/pg.
func pg(format string, args ...any) runtime.BoxCommand {
	return sh("export PATH=/usr/lib/postgresql/15/bin:$PATH PGDATA=/srv/pg/data PGHOST=/tmp\n"+format, args...)
}

// TestGuestVolumePostgres has a database server keep its files on a volume, pulls the
// plug while it is at work, and looks whether it has all that it had promised to keep.
func TestGuestVolumePostgres(t *testing.T) {
	volume := t.TempDir()
	require.NoError(t, os.Chmod(volume, 0o755))
	b := box(t, "debian-programs", func(o *runtime.BoxOptions) {
		o.MemoryMiB, o.User, o.KeepOnStop = 1024, "postgres", true // whose the volume's files then are
		o.Volumes = []runtime.VolumeSpec{{HostPath: volume, GuestPath: "/srv/pg"}}
	})
	transactions, kept, sync := 30, 40, "--no-sync"
	if soak() {
		transactions, kept, sync = 5000, 5000, ""
	}
	t.Run("initdb", func(t *testing.T) {
		output(t, b, pg(`initdb %s --wal-segsize=1 -A trust -E UTF8 --locale=C >/dev/null
cat >>$PGDATA/postgresql.conf <<-END
	listen_addresses = ''
	unix_socket_directories = '/tmp'
	dynamic_shared_memory_type = mmap
	shared_buffers = 16MB
	jit = off
	autovacuum = off
END
pg_ctl -w -t 1000 -l /tmp/log start >/dev/null`, sync))
	})
	t.Run("load", func(t *testing.T) {
		output(t, b, pg(`pgbench -q -i -I dtGvp -s 1 2>&1
psql -qc 'create extension amcheck' -c 'create table promised (n integer primary key)'`))
	})
	consistent := func(t *testing.T) {
		out := output(t, b, pg(`pg_amcheck --heapallindexed -d postgres 2>&1
psql -qAt <<-END
	select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history),
		(select sum(tbalance) from pgbench_tellers) = (select sum(delta) from pgbench_history),
		(select sum(bbalance) from pgbench_branches) = (select sum(delta) from pgbench_history),
		(select count(*) from pgbench_accounts);
END`))
		require.Equal(t, "t|t|t|100000\n", out)
	}

	t.Run("pgbench", func(t *testing.T) {
		const clients = 4
		out := output(t, b, pg("pgbench -n -c %d -t %d 2>&1", clients, transactions))
		require.Contains(t, out, fmt.Sprintf("actually processed: %d/%[1]d\n", clients*transactions))
		require.Contains(t, out, "failed transactions: 0 ")
		require.Equal(t, fmt.Sprintln(clients*transactions), output(t, b, pg("psql -qAtc 'select count(*) from pgbench_history'")))
		t.Log(out)
	})
	t.Run("consistent", consistent)
	promised := 0
	t.Run("plug pulled", func(t *testing.T) {
		start(t, b, pg("pgbench -n -c 3 -T 100000 2>&1"))
		promises := start(t, b, pg("seq 1000000 | sed 's/.*/insert into promised values (&) returning n;/' | psql -qAt"))
		last := 0
		for line, err := "", error(nil); err == nil; line, err = promises.lines.ReadString('\n') {
			if n, whole := strings.CutSuffix(line, "\n"); whole { // what is on its way counts
				got, err := strconv.Atoi(n)
				require.NoError(t, err)
				require.Equal(t, last+1, got)
				last = got
			}
			if last == kept {
				require.NoError(t, unix.Kill(vmm(t, b), unix.SIGKILL))
			}
		}
		require.GreaterOrEqual(t, last, kept)
		promised = last
	})
	t.Run("recovered", func(t *testing.T) {
		require.NoError(t, b.Start(guarded(t)))
		output(t, b, pg("pg_ctl -w -t 1000 -l /tmp/log2 start >/dev/null"))
		log := output(t, b, sh("cat /tmp/log2"))
		require.Contains(t, log, "database system was not properly shut down; automatic recovery in progress")
		require.Contains(t, log, "redo done")
		var most, count int
		_, err := fmt.Sscanf(output(t, b, pg("psql -qAtc 'select max(n), count(*) from promised'")), "%d|%d", &most, &count)
		require.NoError(t, err)
		require.Equal(t, most, count, "none is missing")
		require.GreaterOrEqual(t, most, promised, "all that it said it had")
		t.Logf("%d promised, %d there", promised, most)
	})
	t.Run("consistent", consistent)
	t.Run("stopped", func(t *testing.T) {
		output(t, b, pg("pg_ctl -w -t 1000 -m fast stop >/dev/null"))
		require.Contains(t, output(t, b, pg("pg_controldata")), "shut down\n")
		require.Greater(t, sameFiles(t, b, "/srv/pg", volume), 900)
	})
}
