package runtime

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestOwnersCannotBeKept has a volume where files have no extended attributes.
func TestOwnersCannotBeKept(t *testing.T) {
	const without = "/proc" // the one such file system that every host has
	rt, ctx := newRuntime(t), t.Context()
	create := func(v VolumeSpec) (*LiteBox, error) {
		v.HostPath, v.GuestPath = without, "/v"
		return rt.Create(ctx, BoxOptions{KeepOnStop: true, Volumes: []VolumeSpec{v}}, "")
	}
	_, err := create(VolumeSpec{Owners: OwnersKept})
	require.ErrorIs(t, err, ErrUnsupported)
	require.EqualError(t, err, "volume /proc: the file system of /proc has no user extended attributes, in which owners are kept: "+
		"choose owners=mapped, or a place that has them, as on ext4, XFS and Btrfs")
	for _, v := range []VolumeSpec{{}, {Owners: OwnersMapped}, {Owners: OwnersKept, ReadOnly: true}} {
		_, err := create(v)
		require.NoError(t, err, "%+v", v)
	}
	list, err := rt.ListInfo(ctx)
	require.NoError(t, err)
	require.Len(t, list, 3)

	// At a later start the folder may be on another file system, and a volume of the
	// home is looked at only then.
	b := newLiteBox(rt, "", "box")
	b.opts.Volumes = []VolumeSpec{{HostPath: without, GuestPath: "/v", Owners: OwnersKept}}
	_, err = b.vmmMounts(ctx)
	require.ErrorIs(t, err, ErrUnsupported)
	require.ErrorContains(t, err, "start box box")
	require.NoError(t, (&VolumeSpec{Name: "n"}).checkKept(t.TempDir()))
	err = (&VolumeSpec{Name: "n"}).checkKept(without)
	require.ErrorContains(t, err, "volume n: the file system of /proc has no")
}
