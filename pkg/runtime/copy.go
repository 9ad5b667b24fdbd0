package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"github.com/anthropics/boxlite/pkg/agentapi"
	"github.com/anthropics/boxlite/pkg/runtime/internal/guest"
)

// CopyOptions changes how files are copied into or out of a box.
type CopyOptions struct {
	// Owner gives everything that is made in the box to one user and group;
	// directories that are there stay as they are. nil keeps the owners of the
	// archive, also for such directories. CopyFrom's archive always has those of the
	// box.
	Owner *Owner
	// FollowLink copies what a symbolic link at the end of the path leads to, in
	// place of the link itself. Links further down are always copied as links.
	FollowLink bool
}

// SparseComment is the pax record "comment" of a file with holes in an archive of
// [LiteBox.CopyFrom], which has its zeros all the same. [LiteBox.CopyTo] leaves the
// zeros of a file that has it out.
const SparseComment = agentapi.SparseComment

// Owner is a user and group of a box, by number.
type Owner struct{ UID, GID uint32 }

// PathStat describes a file of a box, as its guest tells it.
type PathStat struct {
	Name       string      // last element of the path, "/" for the root
	Mode       fs.FileMode // type and permissions
	Size       int64       // bytes
	ModTime    time.Time
	Owner      Owner
	LinkTarget string // of a symbolic link, as it was made
}

// IsDir reports whether it is a directory.
func (s PathStat) IsDir() bool { return s.Mode.IsDir() }

// StatPath describes what lies at a path of the box. A symbolic link at its end
// is described itself, unless the path ends in a slash: then it is followed, and
// has to lead to a directory. Nothing at the path is ErrNotFound, and
// [fs.ErrNotExist]. A box that does not run is started for it, as by
// [LiteBox.CopyTo].
func (b *LiteBox) StatPath(ctx context.Context, guestPath string) (st PathStat, err error) {
	link, release, err := b.forFiles(ctx)
	if err != nil {
		return PathStat{}, err
	}
	defer func() { err = release(ctx, err) }()
	return b.stat(ctx, link, guestPath, false)
}

func (b *LiteBox) stat(ctx context.Context, link *guestLink, guestPath string, follow bool) (PathStat, error) {
	i, err := link.client.StatPath(ctx, guestPath, follow)
	if err != nil {
		return PathStat{}, b.copyError(err, fmt.Sprintf("look at %q in box %s", guestPath, b))
	}
	return PathStat{
		Name: path.Base(path.Clean("/" + guestPath)), Mode: fileMode(i.Mode), Size: int64(min(i.Size, 1<<62)),
		ModTime: time.Unix(0, i.ModTime), Owner: Owner{i.UID, i.GID}, LinkTarget: i.LinkTarget,
	}, nil
}

// CopyTo unpacks a tar archive into a directory of the box, which must exist,
// and returns when everything is in place. Files of the same name are replaced,
// each once its successor is complete, and directories merged; a directory never replaces a file, nor the other way
// round. Hard and symbolic links, devices, extended attributes and times are
// kept, and set-id bits. No symbolic link below the directory is followed.
//
// The archive is streamed, of whatever size; reading it is paced by the box's
// disk. ctx ends the copy, except for a Read of the archive that blocks. After
// an error, part of the archive may have been unpacked.
//
// A box that does not run is started, and stopped again afterwards if it is one
// that outlives its stop (BoxOptions.KeepOnStop).
func (b *LiteBox) CopyTo(ctx context.Context, guestDir string, archive io.Reader, o CopyOptions) (err error) {
	link, release, err := b.forFiles(ctx)
	if err != nil {
		return err
	}
	defer func() { err = release(ctx, err) }()
	m := agentapi.ArchivePut{Path: guestDir}
	if o.Owner != nil {
		m.Own, m.UID, m.GID = true, o.Owner.UID, o.Owner.GID
	}
	op := fmt.Sprintf("copy to %q in box %s", guestDir, b)
	if err := link.client.ArchivePut(ctx, m, archive); err != nil {
		return b.copyError(err, op)
	}
	return nil
}

// CopyFrom returns a tar archive of what lies at a path of the box, with
// everything below it, and a description of it. The archive's entries begin with
// the last element of the path, or with "." when it has none: "/", or a path
// that ends in "/.".
//
// The archive is streamed, and must be read to its end or closed; what could not
// be read in the box is left out of it and told by an error in place of the
// final io.EOF. ctx ends the copy, reading included. A box that does not run is
// started as by [LiteBox.CopyTo], and stopped by Close.
//
// The archive is made by a guest that may be hostile: whoever unpacks it has to
// guard against names and links that lead elsewhere.
func (b *LiteBox) CopyFrom(ctx context.Context, guestPath string, o CopyOptions) (_ io.ReadCloser, st PathStat, err error) {
	link, release, err := b.forFiles(ctx)
	if err != nil {
		return nil, PathStat{}, err
	}
	defer func() {
		if err != nil {
			err = release(ctx, err)
		}
	}()
	if st, err = b.stat(ctx, link, guestPath, o.FollowLink); err != nil {
		return nil, PathStat{}, err
	}
	op := fmt.Sprintf("copy %q from box %s", guestPath, b)
	a, err := link.client.ArchiveGet(ctx, guestPath, o.FollowLink)
	if err != nil {
		return nil, PathStat{}, b.copyError(err, op)
	}
	return &boxArchive{ReadCloser: a, box: b, op: op, release: func() error { return release(context.WithoutCancel(ctx), nil) }}, st, nil
}

// boxArchive puts the errors of an archive in the terms of the caller.
type boxArchive struct {
	io.ReadCloser
	box     *LiteBox
	op      string
	release func() error
}

func (a *boxArchive) Read(p []byte) (int, error) {
	n, err := a.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		err = a.box.copyError(err, a.op)
	}
	return n, err
}

func (a *boxArchive) Close() error {
	err := a.ReadCloser.Close()
	if a.release != nil {
		err = errors.Join(err, a.release())
		a.release = nil
	}
	return err
}

// OpenForCopy makes the box ready for several copies in a row: one that does not
// run is started, and release stops it again, where every single copy would.
// A box that is removed when it stops is ErrInvalidState unless it runs.
func (b *LiteBox) OpenForCopy(ctx context.Context) (release func() error, err error) {
	row, err := b.rt.find(ctx, string(b.id))
	if err != nil {
		return nil, err
	}
	if !BoxStatus(row.Status).IsActive() && !b.opts.KeepOnStop {
		return nil, fail(ErrInvalidState, "copy files of box %s: it does not run, and is removed when it stops: start it first", b)
	}
	_, done, err := b.forFiles(ctx)
	if err != nil {
		return nil, err
	}
	return func() error { return done(ctx, nil) }, nil
}

// copyLock is a file in a box's folder that is locked as long as files are copied,
// so that who has booted the box for that ends it when all are done.
const copyLock = "copy.lock"

// forFiles connects to the guest, booting the box if it does not run. release
// ends what was booted only for this, and passes an error on.
func (b *LiteBox) forFiles(ctx context.Context) (link *guestLink, release func(context.Context, error) error, err error) {
	if _, err := b.row(ctx); err != nil {
		return nil, nil, err
	}
	copying, err := lockFile(ctx, b.dir(), copyLock, false)
	if err != nil {
		return nil, nil, wrap(ErrStorage, err, "lock box %s", b)
	}
	booted := false
	defer func() {
		if err != nil {
			err = b.copied(ctx, copying, booted, err)
		}
	}()
	if link = b.currentLink(); link == nil {
		// A command of the box's own would change the files, and may end at once.
		if booted, err = b.startWithoutMain(ctx); err != nil {
			return nil, nil, err
		}
		if link, err = b.connect(ctx); err != nil {
			return nil, nil, err
		}
	}
	return link, func(ctx context.Context, err error) error { return b.copied(ctx, copying, booted, err) }, nil
}

// copied ends a copy, and the box when it was booted for it and no other copy goes on.
func (b *LiteBox) copied(ctx context.Context, copying *os.File, booted bool, err error) error {
	defer copying.Close()
	if !booted || !b.opts.KeepOnStop {
		return err
	}
	if lerr := waitFlock(ctx, copying, true); lerr != nil && ctx.Err() == nil {
		err = errors.Join(err, wrap(ErrStorage, lerr, "lock box %s", b))
	}
	return errors.Join(err, b.Stop(context.WithoutCancel(ctx)))
}

// copyError puts the guest's refusal in the terms of the caller.
func (b *LiteBox) copyError(err error, op string) error {
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s: %w", op, err)
	case errors.Is(err, guest.ErrSource):
		return &Error{Kind: ErrInvalidArgument, Op: op, Err: err}
	case errors.Is(err, agentapi.ErrNoPath):
		return &Error{Kind: ErrNotFound, Op: op, Err: notExist{err}}
	case errors.Is(err, agentapi.ErrArchive), errors.Is(err, agentapi.ErrFileType), errors.Is(err, &agentapi.Error{Code: agentapi.CodeInvalid}):
		return &Error{Kind: ErrInvalidArgument, Op: op, Err: err}
	}
	var refused *agentapi.Error
	if errors.As(err, &refused) {
		return &Error{Kind: ErrRPC, Op: op, Err: err}
	}
	return b.lost(err, op)
}

// notExist is an error about a path that says itself what is not there.
type notExist struct{ err error }

func (e notExist) Error() string   { return e.err.Error() }
func (e notExist) Unwrap() []error { return []error{e.err, fs.ErrNotExist} }

// fileMode turns Linux's st_mode into Go's.
func fileMode(m uint32) fs.FileMode {
	mode := fs.FileMode(m & 0o777)
	for bit, is := range map[uint32]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if m&bit != 0 {
			mode |= is
		}
	}
	switch m & 0o170000 { // S_IFMT, inode(7)
	case 0o040000:
		mode |= fs.ModeDir
	case 0o120000:
		mode |= fs.ModeSymlink
	case 0o020000:
		mode |= fs.ModeDevice | fs.ModeCharDevice
	case 0o060000:
		mode |= fs.ModeDevice
	case 0o010000:
		mode |= fs.ModeNamedPipe
	case 0o140000:
		mode |= fs.ModeSocket
	case 0o100000:
	default:
		mode |= fs.ModeIrregular
	}
	return mode
}

// printable makes text of a guest fit for a terminal: control characters, those
// that reorder text, and what is no UTF-8 become question marks.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r >= 0x7f && r < 0xa0 || r == 0xfffd || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 {
			return '?'
		}
		return r
	}, s)
}
