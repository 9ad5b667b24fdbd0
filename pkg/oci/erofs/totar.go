package erofs

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"strings"
	"time"
)

// WriteTar writes a layer as a tar archive: the members that ConvertLayer read,
// in their order, with whiteouts, hard links, extended attributes and holes.
// meta and blob are what ConvertLayer or FromDir wrote; blob may be nil if that
// is empty. Converting the archive gives the same files, but the archive is not
// the one that was converted: other headers give it another DiffID. The same
// layer always gives the same bytes.
//
// A tar archive has no sockets: those of a folder are left out, and skipped
// says how many. What means something else in a layer than in a folder, a name
// that begins with ".wh.", is ErrFormat.
func WriteTar(ctx context.Context, meta io.Reader, blob io.ReaderAt, w io.Writer) (skipped int, err error) {
	m, _, err := readMeta(meta, MergeOptions{}.withDefaults().MaxMeta)
	if err != nil {
		return 0, fmt.Errorf("erofs: writing layer: %w", err)
	}
	t := &tarWriter{w: w, tw: tar.NewWriter(w), blob: blob, buf: make([]byte, 256<<10)}
	var e entry
	for {
		more, err := m.next(&e)
		if err == nil && more {
			if !e.insideBlob(m.blocks) {
				err = fmt.Errorf("data behind the end of the blob: %w", ErrFormat)
			} else {
				err = t.add(ctx, &e)
			}
		}
		if err != nil {
			return 0, fmt.Errorf("erofs: writing layer: %.200q: %w", e.path(), err)
		}
		if !more {
			break
		}
	}
	if err := t.tw.Close(); err != nil {
		return 0, fmt.Errorf("erofs: writing layer: %w", err)
	}
	return t.skipped, nil
}

type tarWriter struct {
	w       io.Writer
	tw      *tar.Writer
	blob    io.ReaderAt
	buf     []byte
	skipped int
}

func (t *tarWriter) add(ctx context.Context, e *entry) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	h := &tar.Header{Format: tar.FormatPAX, Name: e.path(), ModTime: time.Unix(0, 0)}
	switch e.kind {
	case kindOpaque:
		h.Name, h.Typeflag = strings.TrimPrefix(e.dir+"/"+whiteoutOpaque, "/"), tar.TypeReg
		return t.tw.WriteHeader(h)
	case kindWhiteout:
		h.Name, h.Typeflag = strings.TrimPrefix(e.dir+"/"+whiteoutPrefix+e.base, "/"), tar.TypeReg
		return t.tw.WriteHeader(h)
	case kindSock:
		t.skipped++
		return nil
	}
	if hasWhiteout(h.Name) || hasWhiteout(e.target) && e.kind == kindLink {
		return fmt.Errorf("a name that begins with %s would be a whiteout in a layer: %w", whiteoutPrefix, ErrFormat)
	}
	if e.kind == kindLink {
		h.Typeflag, h.Linkname = tar.TypeLink, e.target
		return t.tw.WriteHeader(h)
	}
	h.Mode = int64(e.perm)
	h.Uid, h.Gid = int(e.uid), int(e.gid)
	h.ModTime = time.Unix(e.sec, int64(e.nsec))
	var err error
	if h.PAXRecords, err = xattrRecords(e.xattrs); err != nil {
		return err
	}
	switch e.kind {
	case kindDir:
		h.Typeflag = tar.TypeDir
		if h.Name += "/"; e.base == "" {
			h.Name = "./"
		}
	case kindSymlink:
		h.Typeflag, h.Linkname = tar.TypeSymlink, e.target
	case kindChar, kindBlock:
		h.Typeflag = tar.TypeChar
		if e.kind == kindBlock {
			h.Typeflag = tar.TypeBlock
		}
		h.Devmajor, h.Devminor = int64(e.rdev>>8&0xfff), int64(e.rdev&0xff|e.rdev>>12&^0xff)
	case kindFifo:
		h.Typeflag = tar.TypeFifo
	case kindReg:
		return t.file(ctx, h, e)
	}
	return t.tw.WriteHeader(h)
}

func (t *tarWriter) file(ctx context.Context, h *tar.Header, e *entry) error {
	if e.sparse != nil {
		return t.sparseFile(ctx, h, e)
	}
	h.Typeflag, h.Size = tar.TypeReg, int64(e.size)
	if err := t.tw.WriteHeader(h); err != nil {
		return err
	}
	if e.inline != "" || e.size == 0 {
		_, err := io.WriteString(t.tw, e.inline)
		return err
	}
	return t.copy(ctx, t.tw, int64(e.block)*BlockSize, int64(e.size))
}

// copy copies n bytes of the blob.
func (t *tarWriter) copy(ctx context.Context, to io.Writer, off, n int64) error {
	for n > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		b := t.buf[:min(n, int64(len(t.buf)))]
		if t.blob == nil {
			return fmt.Errorf("layer without blob: %w", ErrFormat)
		}
		if got, err := t.blob.ReadAt(b, off); got < len(b) {
			if err == io.EOF {
				err = fmt.Errorf("blob ends early: %w", ErrFormat)
			}
			return err
		}
		if _, err := to.Write(b); err != nil {
			return err
		}
		off, n = off+int64(len(b)), n-int64(len(b))
	}
	return nil
}

// xattrRecords turns the entries of an inode body into PAX records, the way
// that layers have them.
func xattrRecords(body string) (map[string]string, error) {
	if body == "" {
		return nil, nil
	}
	records := make(map[string]string)
	for len(body) > 0 { // validXattrs has looked at it
		name, value := int(body[0]), int(body[2])|int(body[3])<<8
		index, rest := body[1], body[xattrEntry:xattrEntry+name]
		key := xattrName(index) + rest
		if strings.ContainsRune(key, '=') {
			return nil, fmt.Errorf("extended attribute %q: a tar archive cannot hold a name with '=': %w", key, ErrFormat)
		}
		records["SCHILY.xattr."+key] = body[xattrEntry+name : xattrEntry+name+value]
		body = body[align(int64(xattrEntry+name+value), 4):]
	}
	return records, nil
}

// xattrName is the reverse of splitXattr.
func xattrName(index byte) string {
	for _, s := range xattrSpaces {
		if s.index == index {
			return s.prefix
		}
	}
	return ""
}
