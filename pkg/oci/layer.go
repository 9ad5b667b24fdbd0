package oci

import (
	"context"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"os"
	"sync/atomic"

	"github.com/anthropics/boxlite/pkg/oci/erofs"
)

// Files of a layer are named by its DiffID and the version of their format: a
// program with another format makes its own and leaves these alone.
const (
	blobSuffix = ".v1.blob" // contents of files
	metaSuffix = ".v1.meta" // everything else
)

func (s *Store) layerBlob(d Digest) string { return s.path(layersDir, d.Hex()+blobSuffix) }
func (s *Store) layerMeta(d Digest) string { return s.path(layersDir, d.Hex()+metaSuffix) }

// haveLayer tells whether a layer is in the store and how many bytes it takes.
// The blob is put in place after the metadata.
func (s *Store) haveLayer(d Digest) (stored int64, ok bool) {
	blob, err := os.Stat(s.layerBlob(d))
	if err != nil {
		return 0, false
	}
	meta, err := os.Stat(s.layerMeta(d))
	if err != nil {
		return 0, false
	}
	return blob.Size() + meta.Size(), true
}

// layerJob brings one layer into the store.
type layerJob struct {
	s      *Store
	src    source
	desc   descriptor
	diffID Digest
	ev     *events
}

// run returns how many bytes the layer takes up in the store. Whoever fetches
// a layer holds the lock on its partial file; everybody else waits for that.
func (j *layerJob) run(ctx context.Context) (int64, error) {
	s := j.s
	if n, ok := s.haveLayer(j.diffID); ok {
		j.ev.send(j.desc.Digest, Cached, j.desc.Size, j.desc.Size)
		return n, nil
	}
	path := s.partialPath(j.desc.Digest)
	lock, err := lockWait(ctx, path, func() {
		if st, err := os.Stat(path); err == nil {
			j.ev.send(j.desc.Digest, Waiting, min(st.Size(), j.desc.Size), j.desc.Size)
		}
	})
	if err != nil {
		return 0, s.diskError(err, j.desc.Size)
	}
	defer lock.Close()
	if n, ok := s.haveLayer(j.diffID); ok {
		os.Remove(path)
		j.ev.send(j.desc.Digest, Cached, j.desc.Size, j.desc.Size)
		return n, nil
	}
	n, resumed, err := j.fetch(ctx, lock)
	if resumed && errors.Is(err, ErrCorrupt) {
		// What was left from an earlier attempt may be the damaged part
		// (a power cut leaves zeros): once more, from the start.
		s.log.Warn("image pull: continued download is damaged, starting over", "layer", j.desc.Digest, "err", err)
		if err = lock.Truncate(0); err == nil {
			n, _, err = j.fetch(ctx, lock)
		}
	}
	if err != nil {
		if !j.worthKeeping(lock, err) {
			os.Remove(path)
		}
		return 0, err
	}
	os.Remove(path)
	j.ev.send(j.desc.Digest, Done, j.desc.Size, j.desc.Size)
	return n, nil
}

// worthKeeping tells whether what a failed attempt has downloaded is kept for
// the next: not if it is bad, nor on a full disk, which needs the space.
func (j *layerJob) worthKeeping(partial *os.File, err error) bool {
	if errors.Is(err, ErrCorrupt) || errors.Is(err, ErrUnsupported) || errors.Is(err, ErrNoSpace) {
		return false
	}
	st, serr := partial.Stat()
	return serr == nil && st.Size() > 0
}

// fetch converts the layer while it arrives. resumed: part of it was there.
func (j *layerJob) fetch(ctx context.Context, lock *os.File) (stored int64, resumed bool, err error) {
	in, have, end, err := j.open(ctx, lock)
	if err != nil {
		return 0, false, err
	}
	defer end()
	stored, err = j.unpack(ctx, in)
	return stored, have > 0, err
}

// open begins to fetch the blob; have is how much of it was there. end, which
// has to be called, waits for what runs in the background.
func (j *layerJob) open(ctx context.Context, lock *os.File) (in *input, have int64, end func(), err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	if !j.src.remote() {
		body, err := j.src.blob(ctx, j.desc, 0)
		if err != nil {
			cancel(nil)
			return nil, 0, nil, err
		}
		in := j.newInput(ctx, body)
		in.report = func() { j.ev.send(j.desc.Digest, Extracting, in.count.Load(), j.desc.Size) }
		return in, 0, func() {
			body.Close()
			cancel(nil)
		}, nil
	}
	d, have, err := j.s.newDownload(lock, j.desc)
	if err != nil {
		cancel(nil)
		return nil, 0, nil, err
	}
	in = j.newInput(ctx, d)
	in.report = func() {
		if have := d.have(); have < j.desc.Size {
			j.ev.send(j.desc.Digest, Downloading, have, j.desc.Size)
		} else {
			j.ev.send(j.desc.Digest, Extracting, in.count.Load(), j.desc.Size)
		}
	}
	d.report = in.report
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		d.run(ctx, j.src)
	}()
	return in, have, func() {
		cancel(nil) // the download is complete, or of no use any more
		<-finished
	}, nil
}

// unpack reads the blob to its end, converts it, and puts the result into the
// store if size, digest and DiffID are what they should be.
func (j *layerJob) unpack(ctx context.Context, in *input) (stored int64, err error) {
	s, id := j.s, j.desc.Digest
	in.report()
	blob, err := s.newTemp()
	if err != nil {
		return 0, s.diskError(err, j.desc.Size)
	}
	defer dropTemp(blob)
	meta, err := s.newTemp()
	if err != nil {
		return 0, s.diskError(err, j.desc.Size)
	}
	defer dropTemp(meta)
	info, err := convert(ctx, in, blob, meta, erofs.Options{MaxBytes: s.opts.MaxLayer, Compressed: in.count.Load})
	if in.err != nil {
		return 0, in.err
	}
	if err != nil && (isNoSpace(err) || ctx.Err() != nil) {
		return 0, s.diskError(err, in.estimate(blob))
	}
	// Bytes behind the end of the compressed stream belong to the blob, and
	// whether bytes that do not unpack are the right ones only the digest
	// of all of them tells.
	if _, derr := io.Copy(io.Discard, in); derr != nil {
		return 0, derr
	}
	if cerr := in.check(j); cerr != nil {
		return 0, cerr
	}
	if err != nil {
		if errors.Is(err, erofs.ErrLimit) || isKind(err) {
			return 0, fail(ErrUnsupported, "layer %s: %w", id, err)
		}
		return 0, fail(ErrCorrupt, "layer %s cannot be unpacked: %w", id, err)
	}
	if got := Digest(digestPrefix + info.DiffID); got != j.diffID {
		return 0, fail(ErrCorrupt, "layer %s unpacks to %s, the image config says %s", id, got, j.diffID)
	}
	if err := publish(meta, s.layerMeta(j.diffID)); err != nil {
		return 0, s.diskError(err, in.estimate(blob))
	}
	if err := publish(blob, s.layerBlob(j.diffID)); err != nil {
		return 0, s.diskError(err, in.estimate(blob))
	}
	return info.BlobSize + info.MetaSize, nil
}

func convert(ctx context.Context, r io.Reader, blob, meta *os.File, opts erofs.Options) (erofs.LayerInfo, error) {
	plain, err := decompress(r)
	if err != nil {
		return erofs.LayerInfo{}, err
	}
	defer plain.Close()
	ahead := newReadAhead(plain)
	defer ahead.Close()
	return erofs.ConvertLayer(ctx, ahead, blob, meta, opts)
}

// input is the blob as it is read: hashed, counted, and never more of it than
// the descriptor says.
type input struct {
	r      io.Reader
	ctx    context.Context
	sum    hash.Hash
	size   int64
	count  atomic.Int64
	err    error // of r, other than its end
	report func()
}

func (j *layerJob) newInput(ctx context.Context, r io.Reader) *input {
	return &input{r: r, ctx: ctx, sum: sha256.New(), size: j.desc.Size}
}

func (in *input) Read(p []byte) (int, error) {
	if in.err == nil && in.ctx.Err() != nil {
		in.err = context.Cause(in.ctx)
	}
	if in.err != nil {
		return 0, in.err
	}
	n, err := in.r.Read(p)
	in.sum.Write(p[:n])
	if in.count.Add(int64(n)) > in.size {
		err = fail(ErrCorrupt, "blob is longer than the %d bytes its manifest says", in.size)
	}
	if err != nil && err != io.EOF {
		in.err = err
	}
	in.report()
	return n, err
}

// check judges the blob as a whole, after its end.
func (in *input) check(j *layerJob) error {
	if n := in.count.Load(); n != in.size {
		return fail(ErrCorrupt, "layer %s ends after %d of %d bytes", j.desc.Digest, n, in.size)
	}
	if got := digestSum(in.sum); j.src.addressed() && got != j.desc.Digest {
		return fail(ErrCorrupt, "layer %s arrived with the digest %s", j.desc.Digest, got)
	}
	return nil
}

// estimate guesses what is still to be written of a layer from how much the
// part so far grew.
func (in *input) estimate(blob *os.File) int64 {
	st, err := blob.Stat()
	n := in.count.Load()
	if err != nil || n <= 0 {
		return in.size
	}
	return int64(float64(st.Size())/float64(n)*float64(in.size-n)) + in.size - n
}
