package state

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestVolumes(t *testing.T) {
	ctx, db := context.Background(), open(t, filepath.Join(t.TempDir(), "db"))
	now := time.Now().Truncate(time.Microsecond)
	none := func(Volume) error { t.Error("nothing to take away"); return nil }

	added, err := db.AddVolume(ctx, Volume{Name: "data", CreatedAt: now, Labels: `{"a":"b"}`})
	require.NoError(t, err)
	require.True(t, added)
	added, err = db.AddVolume(ctx, Volume{Name: "data", CreatedAt: now.Add(time.Hour)})
	require.NoError(t, err)
	require.False(t, added)
	v, err := db.FindVolume(ctx, "data")
	require.NoError(t, err)
	require.Equal(t, Volume{Name: "data", CreatedAt: now, Labels: `{"a":"b"}`}, v)
	_, err = db.FindVolume(ctx, "dat")
	require.ErrorIs(t, err, ErrNoVolume)
	require.ErrorIs(t, db.RemoveVolume(ctx, "dat", none), ErrNoVolume)

	// Boxes bring theirs with them.
	named, other := newBox("web"), newBox("")
	named.Volumes = []Volume{{Name: "data", CreatedAt: now}, {Name: "aa11", CreatedAt: now, Anonymous: true}, {Name: "shared", CreatedAt: now, Anonymous: true}}
	other.Volumes = []Volume{{Name: "data"}, {Name: "shared"}}
	require.NoError(t, db.Insert(ctx, named))
	require.NoError(t, db.Insert(ctx, other))
	list, err := db.Volumes(ctx)
	require.NoError(t, err)
	require.Len(t, list, 3)
	require.Equal(t, "aa11", list[0].Name)
	require.True(t, list[0].Anonymous)
	require.Equal(t, []string{"web"}, list[0].Boxes)
	require.ElementsMatch(t, []string{"web", other.ID}, list[1].Boxes)
	err = db.RemoveVolume(ctx, "data", none)
	require.ErrorIs(t, err, ErrVolumeInUse)
	require.ErrorContains(t, err, "web")
	require.ErrorContains(t, err, other.ID)

	// A name in use leaves no volume behind.
	twin := newBox("web")
	twin.Volumes = []Volume{{Name: "never"}}
	require.ErrorIs(t, db.Insert(ctx, twin), ErrExists)
	_, err = db.FindVolume(ctx, "never")
	require.ErrorIs(t, err, ErrNoVolume)

	// What cannot be taken away stays, and so does the box.
	full := errors.New("as asked")
	require.ErrorIs(t, db.Delete(ctx, named.ID, "destroy", false, func([]Volume) error { return full }), full)
	_, err = db.Find(ctx, "web")
	require.NoError(t, err)
	var taken []Volume
	require.NoError(t, db.Delete(ctx, named.ID, "destroy", false, func(v []Volume) error { taken = v; return nil }))
	require.Equal(t, []Volume{{Name: "aa11", CreatedAt: now, Anonymous: true}}, taken, "the other box names the other one")
	_, err = db.FindVolume(ctx, "aa11")
	require.ErrorIs(t, err, ErrNoVolume)
	require.NoError(t, db.Delete(ctx, other.ID, "destroy", false, nil))
	v, err = db.FindVolume(ctx, "shared")
	require.NoError(t, err, "kept without a word to the contrary")
	require.Empty(t, v.Boxes)

	require.NoError(t, db.Judge(ctx, func(exists func(string, time.Time) (bool, error)) error {
		for at, want := range map[time.Time]bool{now: true, now.Add(time.Second): false} {
			got, err := exists("data", at)
			require.NoError(t, err)
			require.Equal(t, want, got)
		}
		return nil
	}))
	require.ErrorIs(t, db.RemoveVolume(ctx, "data", func(Volume) error { return full }), full)
	_, err = db.FindVolume(ctx, "data")
	require.NoError(t, err)
	require.NoError(t, db.RemoveVolume(ctx, "data", func(v Volume) error { require.Equal(t, now, v.CreatedAt); return nil }))
	_, err = db.FindVolume(ctx, "data")
	require.ErrorIs(t, err, ErrNoVolume)
}

// TestVolumesOfOthers has a box given an anonymous volume that was kept of another:
// it stays when that box goes.
func TestVolumesOfOthers(t *testing.T) {
	ctx, db := context.Background(), open(t, filepath.Join(t.TempDir(), "db"))
	one, two := newBox("web"), newBox("rescue")
	one.Volumes = []Volume{{Name: "aa11", CreatedAt: time.Now(), Anonymous: true}}
	require.NoError(t, db.Insert(ctx, one))
	require.NoError(t, db.Delete(ctx, one.ID, "destroy", false, nil))
	two.Volumes = []Volume{{Name: "aa11", CreatedAt: time.Now()}, {Name: "bb22", CreatedAt: time.Now(), Anonymous: true}}
	require.NoError(t, db.Insert(ctx, two))
	var taken []string
	require.NoError(t, db.Delete(ctx, two.ID, "destroy", false, func(list []Volume) error {
		for _, v := range list {
			taken = append(taken, v.Name)
		}
		return nil
	}))
	require.Equal(t, []string{"bb22"}, taken)
	v, err := db.FindVolume(ctx, "aa11")
	require.NoError(t, err)
	require.True(t, v.Anonymous)
}

// TestVolumesMadeWithABox has boxes that never came to be used removed with what was
// made with them, and nothing that anybody else has a part in.
func TestVolumesMadeWithABox(t *testing.T) {
	ctx, db := context.Background(), open(t, filepath.Join(t.TempDir(), "db"))
	now := time.Now()
	volumes := func(names ...string) (list []Volume) {
		for _, n := range names {
			list = append(list, Volume{Name: n, CreatedAt: now})
		}
		return list
	}
	_, err := db.AddVolume(ctx, volumes("before")[0])
	require.NoError(t, err)
	box, guest, user := newBox("box"), newBox("guest"), newBox("user")
	box.Volumes = volumes("before", "new", "new", "visited", "used", "claimed")
	require.NoError(t, db.Insert(ctx, box))
	guest.Volumes = volumes("visited")
	require.NoError(t, db.Insert(ctx, guest))
	require.NoError(t, db.Delete(ctx, guest.ID, "destroy", true, func([]Volume) error { t.Error("not made with it"); return nil }))
	user.Volumes = volumes("used")
	require.NoError(t, db.Insert(ctx, user))
	added, err := db.AddVolume(ctx, volumes("claimed")[0])
	require.NoError(t, err)
	require.False(t, added)
	var taken []string
	require.NoError(t, db.Delete(ctx, box.ID, "destroy", true, func(list []Volume) error {
		for _, v := range list {
			taken = append(taken, v.Name)
		}
		return nil
	}))
	require.Equal(t, []string{"new"}, taken)
	list, err := db.Volumes(ctx)
	require.NoError(t, err)
	require.Len(t, list, 4)

	// Without being asked it leaves them.
	last := newBox("last")
	last.Volumes = volumes("kept")
	require.NoError(t, db.Insert(ctx, last))
	require.NoError(t, db.Delete(ctx, last.ID, "destroy", false, func([]Volume) error { t.Error("it has a name of its own"); return nil }))
}
