package oci

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// Push copies what a layout or oci-archive holds under from, an image, an
// artifact or an index with all it lists, byte for byte to a registry, and
// returns its digest. Blobs that are there already are not sent again. If ref
// has a digest, that must be it.
func (s *Store) Push(ctx context.Context, from, ref string, progress func(Event)) (Digest, error) {
	src, err := s.parse(from)
	if err != nil {
		return "", err
	}
	to, err := s.parse(ref)
	if err != nil {
		return "", err
	}
	d, err := s.push(ctx, src[0], to[0], newEvents(progress, to[0].String()))
	if err != nil {
		return "", fmt.Errorf("oci: pushing %s: %w", to[0], err)
	}
	return d, nil
}

func (s *Store) push(ctx context.Context, from, to target, ev *events) (Digest, error) {
	if to.kind != fromRegistry {
		return "", fail(ErrReference, "images are pushed to registries; %s is none", to)
	}
	if from.kind == fromRegistry || from.kind == fromTree || from.kind == fromDockerArchive {
		return "", fail(ErrUnsupported, "only image layouts and oci-archives can be pushed, %s is neither", from)
	}
	src, err := s.openSource(ctx, from)
	if err != nil {
		return "", fmt.Errorf("%s: %w", from, err)
	}
	defer src.Close()
	raw, mediaType, err := src.top(ctx)
	if err != nil {
		return "", fmt.Errorf("%s: %w", from, err)
	}
	reg := s.newRegistry(to.ref)
	reg.scope = transport.PushScope
	defer reg.Close()
	p := &pusher{s: s, src: src, reg: reg, ev: ev, ident: to.ref.Identifier()}
	if d, ok := to.ref.(name.Digest); ok && d.DigestStr() != string(digestOf(raw)) {
		return "", fail(ErrReference, "what is to be pushed has the digest %s", digestOf(raw))
	}
	if err := p.manifest(ctx, raw, mediaType, p.ident, 0); err != nil {
		return "", err
	}
	ev.send("", Done, 0, 0)
	return digestOf(raw), nil
}

type pusher struct {
	s     *Store
	src   source
	reg   *registry
	ev    *events
	ident string
	seen  int
}

// manifest pushes what a manifest or index names, and then itself.
func (p *pusher) manifest(ctx context.Context, raw []byte, mediaType, ident string, depth int) error {
	if p.seen++; depth > maxIndexDepth || p.seen > maxIndexVisits {
		return fail(ErrUnsupported, "index is too deep or too large")
	}
	doc, err := parseArtifact(raw)
	if err != nil {
		return err
	}
	for _, d := range doc.Manifests {
		if err := d.check(maxManifest); err != nil {
			return fail(ErrUnsupported, "index entry: %w", err)
		}
		sub, err := p.src.manifest(ctx, d)
		if err != nil {
			return err
		}
		if err := verify("manifest", sub, d); err != nil {
			return err
		}
		if err := p.manifest(ctx, sub, d.MediaType, string(d.Digest), depth+1); err != nil {
			return err
		}
	}
	blobs := doc.Layers
	if doc.Config != nil {
		blobs = append([]descriptor{*doc.Config}, blobs...)
	}
	for _, d := range blobs {
		if err := d.check(maxBlob); err != nil {
			return fail(ErrUnsupported, "layer: %w", err)
		}
		if err := p.s.retry(ctx, func() error { return p.blob(ctx, d) }); err != nil {
			return err
		}
		p.ev.send(d.Digest, Done, d.Size, d.Size)
	}
	if doc.MediaType != "" {
		mediaType = doc.MediaType
	}
	return p.s.retry(ctx, func() error {
		resp, err := p.reg.send(ctx, http.MethodPut, p.reg.url("manifests/"+ident), mediaType, bytes.NewReader(raw), int64(len(raw)))
		if err != nil {
			return err
		}
		return resp.Body.Close()
	})
}

// blob uploads a blob in one piece (distribution-spec 1.1, "POST then PUT").
func (p *pusher) blob(ctx context.Context, d descriptor) error {
	if resp, err := p.reg.send(ctx, http.MethodHead, p.reg.url("blobs/"+string(d.Digest)), "", nil, 0); err == nil {
		return resp.Body.Close()
	} else if !errors.Is(err, ErrNotFound) {
		return err
	}
	resp, err := p.reg.send(ctx, http.MethodPost, p.reg.url("blobs/uploads/"), "", nil, 0)
	if err != nil {
		return err
	}
	resp.Body.Close()
	to, err := resp.Location() // relative to the request, if need be
	if err != nil {
		return fail(ErrUnavailable, "registry %s does not say where to upload to", p.reg.host())
	}
	q := to.Query()
	q.Set("digest", string(d.Digest))
	to.RawQuery = q.Encode()
	body, err := p.src.blob(ctx, d, 0)
	if err != nil {
		return err
	}
	defer body.Close()
	up := &uploadBody{r: io.LimitReader(body, d.Size), report: func(n int64) { p.ev.send(d.Digest, Writing, n, d.Size) }}
	resp, err = p.reg.send(ctx, http.MethodPut, to, "application/octet-stream", up, d.Size)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

type uploadBody struct {
	r      io.Reader
	n      int64
	report func(int64)
	alive  func()
}

func (u *uploadBody) Read(b []byte) (int, error) {
	n, err := u.r.Read(b)
	u.n += int64(n)
	u.report(u.n)
	if u.alive != nil {
		u.alive()
	}
	return n, err
}

// url is an address below the repository.
func (r *registry) url(path string) *url.URL {
	repo := r.ref.Context()
	return &url.URL{Scheme: repo.Scheme(), Host: repo.RegistryStr(), Path: "/v2/" + repo.RepositoryStr() + "/" + path}
}

// send does one request of a push. The answer is a success.
func (r *registry) send(ctx context.Context, method string, to *url.URL, contentType string, body io.Reader, size int64) (*http.Response, error) {
	client, err := r.connect(ctx)
	if err != nil {
		return nil, err
	}
	ctx, stall := watchStall(ctx, r.s.opts.StallTimeout)
	defer stall.stop()
	if up, ok := body.(*uploadBody); ok {
		up.alive = func() { stall.timer.Reset(stall.limit) }
	}
	req, err := http.NewRequestWithContext(ctx, method, to.String(), body)
	if err != nil {
		return nil, err
	}
	req.ContentLength = size
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, r.requestError(ctx, err)
	}
	// Nothing of an answer's body is of use, and it ends with ctx.
	if resp.StatusCode/100 != 2 {
		defer resp.Body.Close()
		return nil, r.statusError(resp.StatusCode, transport.CheckError(resp, http.StatusOK), resp.Header.Get("Retry-After"))
	}
	return resp, nil
}
