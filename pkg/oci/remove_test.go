package oci

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// realBytes is what a store takes up on disk, records and all.
func realBytes(t testing.TB, s *Store) (n int64) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(s.root, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		n += onDisk(info)
		return err
	}))
	return n
}

func pullAll(t testing.TB, s *Store, refs ...string) []Image {
	t.Helper()
	var out []Image
	for _, ref := range refs {
		img, err := s.Pull(t.Context(), ref, PullOptions{})
		require.NoError(t, err)
		out = append(out, img)
	}
	return out
}

func usedBy(name string, s *Store, img Image) Uses {
	return func(ctx context.Context) ([]Use, error) {
		r, err := s.Rootfs(ctx, img, nil)
		u := Use{By: name, Image: img.Digest}
		for _, p := range r.Parts {
			u.Paths = append(u.Paths, p.Path)
		}
		return []Use{u}, err
	}
}

func TestRemoveCountsReferences(t *testing.T) {
	srv := newServer(t)
	base := tarOf(t, "base", noise(1, 300<<10))
	a, b := imageOf(t, nil, base, tarOf(t, "a", noise(2, 200<<10))), imageOf(t, nil, base, tarOf(t, "b", noise(3, 100<<10)))
	s := newStore(t)
	refA, refB, refA2 := srv.push("app", "a", a), srv.push("app", "b", b), srv.push("other", "a", a)
	images := pullAll(t, s, refA, refB, refA2)

	u, err := s.DiskUsage(t.Context(), nil)
	require.NoError(t, err)
	require.Len(t, u.Images, 3)
	require.Equal(t, u.Total, u.Reclaimable)
	require.Zero(t, u.Unfinished)
	for _, iu := range u.Images {
		require.Greater(t, iu.Shared, int64(300<<10), iu.Image.Reference)
		require.Less(t, iu.Shared, int64(330<<10))
		require.Greater(t, iu.Unique, int64(100<<10))
	}

	// One of two names: nothing goes.
	r, err := s.Remove(t.Context(), refA, RemoveOptions{})
	require.NoError(t, err)
	require.Equal(t, Removed{Untagged: []string{refA}}, r)
	_, err = s.Resolve(t.Context(), refA)
	require.ErrorIs(t, err, ErrNotFound)
	requireContents(t, s, images[2], noise(1, 300<<10), noise(2, 200<<10))

	// The last name, by digest: what is shared stays, the rest is free.
	before := realBytes(t, s)
	r, err = s.Remove(t.Context(), images[2].Digest.Short(), RemoveOptions{})
	require.NoError(t, err)
	require.Equal(t, []string{refA2}, r.Untagged)
	require.Equal(t, []Digest{a.digest()}, r.Deleted)
	require.Greater(t, r.Freed, int64(200<<10))
	require.LessOrEqual(t, r.Freed, before-realBytes(t, s))
	require.GreaterOrEqual(t, r.Freed+16<<10, before-realBytes(t, s), "what the records took apart")
	requireContents(t, s, images[1], noise(1, 300<<10), noise(3, 100<<10))

	_, err = s.Remove(t.Context(), refB, RemoveOptions{})
	require.NoError(t, err)
	require.Zero(t, realBytes(t, s))
	_, err = s.Remove(t.Context(), refB, RemoveOptions{})
	require.ErrorIs(t, err, ErrNotFound)
	require.ErrorContains(t, err, "boxlite images")
	_, err = s.Remove(t.Context(), "sha256:abcd", RemoveOptions{})
	require.ErrorIs(t, err, ErrNotFound)

	// And all of it comes back.
	requireContents(t, s, pullAll(t, s, refA)[0], noise(1, 300<<10), noise(2, 200<<10))
}

func TestRemoveOfAnImageInUse(t *testing.T) {
	srv := newServer(t)
	s := newStore(t)
	ref := srv.push("app", "x", imageOf(t, nil, tarOf(t, "f", noise(1, 100<<10))))
	img := pullAll(t, s, ref)[0]
	uses := usedBy("box web (01J)", s, img)
	_, err := s.Remove(t.Context(), ref, RemoveOptions{Uses: uses})
	require.ErrorIs(t, err, ErrInUse)
	require.ErrorContains(t, err, "box web (01J)")
	require.ErrorContains(t, err, "-f")
	unstarted := func(context.Context) ([]Use, error) { return []Use{{By: "box new", Reference: ref}}, nil }
	_, err = s.Remove(t.Context(), string(img.Digest), RemoveOptions{Uses: unstarted})
	require.ErrorIs(t, err, ErrInUse)
	require.ErrorContains(t, err, "box new was not started yet and needs the name: remove that first")
	require.NotContains(t, err.Error(), "-f", "it would not help")
	many := func(context.Context) (list []Use, _ error) {
		for _, name := range []string{"a", "b", "c", "d", "e"} {
			list = append(list, Use{By: "box " + name, Reference: ref})
		}
		return list, nil
	}
	_, err = s.Remove(t.Context(), ref, RemoveOptions{Uses: many})
	require.ErrorContains(t, err, "box a, box b, box c and 2 more (`boxlite ls -a` lists them) were not started yet and need the name: remove those first")
	r, err := s.Prune(t.Context(), PruneOptions{All: true, Uses: unstarted})
	require.NoError(t, err)
	require.Empty(t, r.Untagged)

	// By force only the name goes.
	r, err = s.Remove(t.Context(), ref, RemoveOptions{Uses: uses, Force: true})
	require.NoError(t, err)
	require.Equal(t, []string{ref}, r.Untagged)
	require.Equal(t, []Digest{img.Digest}, r.Kept)
	require.Empty(t, r.Deleted)
	require.Less(t, r.Freed, int64(10<<10), "manifest and config at most")
	_, err = s.Resolve(t.Context(), ref)
	require.ErrorIs(t, err, ErrNotFound)
	requireContents(t, s, img, noise(1, 100<<10))
	u, err := s.DiskUsage(t.Context(), uses)
	require.NoError(t, err)
	require.Less(t, u.Reclaimable, int64(10<<10), "a box needs the rest")

	// With the user gone the files go as well.
	freed, err := s.Collect(t.Context(), uses)
	require.NoError(t, err)
	require.Zero(t, freed)
	freed, err = s.Collect(t.Context(), nil)
	require.NoError(t, err)
	require.Greater(t, freed, int64(100<<10))
	require.NoFileExists(t, s.path(orphansName))
	require.Zero(t, realBytes(t, s))
}

func TestMovedTagLeavesADanglingImage(t *testing.T) {
	srv := newServer(t)
	s := newStore(t)
	one, two := imageOf(t, nil, tarOf(t, "f", "the first")), imageOf(t, nil, tarOf(t, "f", "the second"))
	ref := srv.push("app", "x", one)
	first := pullAll(t, s, ref)[0]
	srv.push("app", "x", two)
	second, err := s.Pull(t.Context(), ref, PullOptions{Policy: PullAlways})
	require.NoError(t, err)
	require.Equal(t, two.digest(), second.Digest)

	old, err := s.Find(t.Context(), string(one.digest()))
	require.NoError(t, err)
	require.Len(t, old, 1)
	require.True(t, old[0].Dangling)
	require.Equal(t, srv.host()+"/app@"+string(one.digest()), old[0].Reference)
	for _, key := range []string{string(first.Digest), first.Digest.Short(), string(first.ConfigDigest), old[0].Reference} {
		got, err := s.Resolve(t.Context(), key)
		require.NoError(t, err, key)
		require.Equal(t, first.Digest, got.Digest)
	}
	// Pulling what the tag was, as the restart of a box does, needs no network.
	got, err := s.Pull(t.Context(), ref, PullOptions{Digest: first.Digest})
	require.NoError(t, err)
	require.Equal(t, first.Digest, got.Digest)

	r, err := s.Prune(t.Context(), PruneOptions{Uses: usedBy("box", s, first)})
	require.NoError(t, err)
	require.Empty(t, r.Untagged)
	r, err = s.Prune(t.Context(), PruneOptions{})
	require.NoError(t, err)
	require.Equal(t, []Digest{first.Digest}, r.Deleted)
	_, err = s.Resolve(t.Context(), string(first.Digest))
	require.ErrorIs(t, err, ErrNotFound)
	requireContents(t, s, second, "the second")

	// Gone from here, the registry still has it by digest; only by that.
	got, err = s.Pull(t.Context(), ref, PullOptions{Digest: first.Digest})
	require.NoError(t, err)
	require.Equal(t, first.Digest, got.Digest)
	require.False(t, got.Dangling)
	requireContents(t, s, got, "the first")
}

// Files that have become another image are not taken for the one asked for.
func TestDigestOfAFolderThatChanged(t *testing.T) {
	s := newStore(t)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "f"), []byte("one"), 0o600))
	img := pullAll(t, s, "dir:"+dir)[0]
	require.NoError(t, os.WriteFile(filepath.Join(dir, "f"), []byte("other"), 0o600))
	_, err := s.Remove(t.Context(), string(img.Digest), RemoveOptions{})
	require.NoError(t, err)
	for range 2 { // before and after the folder is imported as it is now
		_, err = s.Pull(t.Context(), "dir:"+dir, PullOptions{Digest: img.Digest})
		require.ErrorIs(t, err, ErrNotFound)
		require.ErrorContains(t, err, string(img.Digest))
		pullAll(t, s, "dir:"+dir)
	}
}

func TestAmbiguousDigest(t *testing.T) {
	srv := newServer(t)
	s := newStore(t)
	var common string
	seen := map[string]string{}
	for i := 0; common == ""; i++ { // two images whose digests begin alike
		img := imageOf(t, nil, tarOf(t, "f", fmt.Sprint(i)))
		ref := srv.push("app", fmt.Sprint("t", i), img)
		prefix := img.digest().Hex()[:4]
		if other, ok := seen[prefix]; ok {
			common = prefix
			pullAll(t, s, other, ref)
		}
		seen[prefix] = ref
	}
	_, err := s.Remove(t.Context(), common, RemoveOptions{Force: true})
	require.ErrorIs(t, err, ErrAmbiguous)
	require.ErrorContains(t, err, "give more of it")
	_, err = s.Resolve(t.Context(), "sha256:"+common)
	require.ErrorIs(t, err, ErrAmbiguous)
}

func TestRemoveByDigestOfSeveralNames(t *testing.T) {
	srv := newServer(t)
	s := newStore(t)
	img := imageOf(t, nil, tarOf(t, "f", "x"))
	refs := []string{srv.push("app", "a", img), srv.push("app", "b", img)}
	pullAll(t, s, refs...)
	_, err := s.Remove(t.Context(), string(img.digest()), RemoveOptions{})
	require.ErrorIs(t, err, ErrInUse)
	require.ErrorContains(t, err, refs[1])
	r, err := s.Remove(t.Context(), string(img.digest()), RemoveOptions{Force: true})
	require.NoError(t, err)
	require.Equal(t, refs, r.Untagged)
	require.Zero(t, realBytes(t, s))
}

// A pull that counts on a layer keeps it, also in another process; when that is
// killed it keeps nothing.
func TestPullKeepsWhatItCountsOn(t *testing.T) {
	for _, kill := range []bool{false, true} {
		t.Run(fmt.Sprint("killed: ", kill), func(t *testing.T) {
			srv := newServer(t)
			base := tarOf(t, "base", noise(1, 100<<10))
			a := imageOf(t, nil, base)
			b := imageOf(t, nil, base, tarOf(t, "b", noise(2, 100<<10)))
			refA, refB := srv.push("app", "a", a), srv.push("app", "b", b)
			gate, reached := make(chan struct{}), make(chan struct{})
			var once sync.Once
			srv.setHook(func(w http.ResponseWriter, r *http.Request) bool {
				if isBlob(r, b.layers[1]) {
					once.Do(func() { close(reached) })
					select {
					case <-gate:
					case <-r.Context().Done():
					}
				}
				return false
			})
			s := newStore(t)
			pullAll(t, s, refA)
			c := child(t, s, refB)
			c.Stderr = nil
			require.NoError(t, c.Start())
			<-reached
			r, err := s.Remove(t.Context(), refA, RemoveOptions{})
			require.NoError(t, err)
			require.Less(t, r.Freed, int64(50<<10))
			if kill {
				require.NoError(t, c.Process.Kill())
				var exit *exec.ExitError
				require.ErrorAs(t, c.Wait(), &exit)
				close(gate)
				r, err = s.Prune(t.Context(), PruneOptions{})
				require.NoError(t, err)
				require.Greater(t, r.Freed, int64(100<<10))
				require.Zero(t, realBytes(t, s))
				return
			}
			close(gate)
			require.NoError(t, c.Wait())
			img, err := s.Resolve(t.Context(), refB)
			require.NoError(t, err)
			requireContents(t, s, img, noise(1, 100<<10), noise(2, 100<<10))
			require.Equal(t, 1, srv.count(digestOf(b.layers[0])))
		})
	}
}

// A removal may end after any of its steps: the image is whole or absent, it can
// be pulled again, and the rest goes with the next prune.
func TestRemovalCutShort(t *testing.T) {
	srv := newServer(t)
	ref := srv.push("app", "x", imageOf(t, nil, tarOf(t, "f", "text one"), tarOf(t, "g", "text two")))
	for cut := 0; ; cut++ {
		s := newStore(t)
		img := pullAll(t, s, ref)[0]
		steps := []string{s.refPath(ref, s.opts.Platform)}
		require.NoError(t, s.eachContent(func(name string, _ fs.FileInfo) error {
			steps = append(steps, s.path(name))
			return nil
		}))
		for _, p := range steps[:min(cut, len(steps))] {
			require.NoError(t, os.Remove(p))
		}
		got, err := s.Resolve(t.Context(), ref)
		if cut == 0 {
			require.NoError(t, err)
			require.Equal(t, img, got)
		} else {
			require.ErrorIs(t, err, ErrNotFound)
		}
		if cut%2 == 0 {
			requireContents(t, s, pullAll(t, s, ref)[0], "text one", "text two")
		}
		_, err = s.Prune(t.Context(), PruneOptions{All: true})
		require.NoError(t, err)
		require.Zero(t, realBytes(t, s))
		if cut > len(steps) {
			break
		}
	}
}

// A record whose layers are damaged is removed with what is left of them.
func TestUselessRecord(t *testing.T) {
	srv := newServer(t)
	s := newStore(t)
	ref := srv.push("app", "x", imageOf(t, nil, tarOf(t, "f", noise(1, 50<<10)), tarOf(t, "g", noise(2, 50<<10))))
	img := pullAll(t, s, ref)[0]
	require.NoError(t, os.Remove(s.layerMeta(img.Layers[0].DiffID)))
	_, err := s.Find(t.Context(), ref)
	require.ErrorIs(t, err, ErrNotFound)
	// One of a later version is left alone with its files.
	later := s.path(refsDir, strings.Repeat("f", 64)+".json")
	require.NoError(t, os.WriteFile(later, []byte(`{"version":2,"image":{"layers":[{"diffID":"`+string(img.Layers[1].DiffID)+`"}]}}`), 0o600))
	_, err = s.Prune(t.Context(), PruneOptions{All: true})
	require.NoError(t, err)
	require.NoFileExists(t, s.refPath(ref, s.opts.Platform))
	require.NoFileExists(t, s.layerBlob(img.Layers[0].DiffID))
	require.FileExists(t, later)
	require.FileExists(t, s.layerBlob(img.Layers[1].DiffID))
}

// Pulls, removals, prunes and starts at once: what a start has found under Hold
// is whole, and every pull that succeeds has told the truth at that moment.
func TestPullsAndRemovalsAtOnce(t *testing.T) {
	srv := newServer(t)
	base := tarOf(t, "base", noise(1, 20<<10))
	var refs []string
	for i := range 3 {
		refs = append(refs, srv.push("app", fmt.Sprint("t", i), imageOf(t, nil, base, tarOf(t, "f", noise(uint64(10+i), 20<<10)))))
	}
	s := newStore(t)
	stop := make(chan struct{})
	errs := make(chan error, 100)
	var wg sync.WaitGroup
	loop := func(f func(*Store, int) error) {
		own, err := Open(s.root, s.opts)
		require.NoError(t, err)
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				if err := f(own, i); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	starts := 0
	for range 2 {
		loop(func(s *Store, i int) error {
			_, err := s.Pull(context.Background(), refs[i%3], PullOptions{})
			return err
		})
	}
	loop(func(s *Store, i int) error {
		_, err := s.Remove(context.Background(), refs[i%3], RemoveOptions{})
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		return err
	})
	loop(func(s *Store, _ int) error {
		_, err := s.Prune(context.Background(), PruneOptions{All: true})
		return err
	})
	loop(func(s *Store, i int) error {
		release, err := s.Hold(context.Background())
		if err != nil {
			return err
		}
		defer release()
		img, err := s.Resolve(context.Background(), refs[i%3])
		if errors.Is(err, ErrNotFound) {
			return nil
		} else if err != nil {
			return err
		}
		r, err := s.Rootfs(context.Background(), img, nil)
		if err != nil {
			return err
		}
		for _, p := range r.Parts {
			if st, err := os.Stat(p.Path); err != nil || st.Size() != p.Length {
				return fmt.Errorf("%s of %s: %w", p.Path, img.Reference, err)
			}
		}
		if starts++; starts == 100 {
			close(stop)
		}
		return nil
	})
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	select {
	case <-done:
	case err := <-errs:
		require.NoError(t, err)
	case <-time.After(3 * time.Minute):
		t.Fatal("nothing gets on")
	}
	for i, ref := range refs {
		requireContents(t, s, pullAll(t, s, ref)[0], noise(1, 20<<10), noise(uint64(10+i), 20<<10))
	}
	leases, err := os.ReadDir(s.path(leasesDir))
	require.NoError(t, err)
	require.Empty(t, leases)
}
