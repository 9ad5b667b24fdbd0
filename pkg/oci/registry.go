package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// registry is one repository of a registry, spoken to by the OCI distribution
// spec 1.1. Requests are our own rather than go-containerregistry's, because
// those cannot continue a blob, notice a stall or keep from redirects.
type registry struct {
	s     *Store
	ref   name.Reference
	guard *guard
	scope string // of the login: transport.PullScope, or PushScope

	mu     sync.Mutex
	client *http.Client // after the handshake
	login  bool         // credentials were found for it
}

const userAgent = "boxlite"

func (s *Store) newRegistry(ref name.Reference) *registry {
	host := ref.Context().RegistryStr()
	return &registry{s: s, ref: ref, scope: transport.PullScope, guard: newGuard(host, s.isInsecure(host))}
}

func (r *registry) addressed() bool { return true }
func (r *registry) remote() bool    { return true }

func (r *registry) Close() error {
	r.guard.base.CloseIdleConnections()
	return nil
}

// host is the registry as people call it.
func (r *registry) host() string {
	if h := r.ref.Context().RegistryStr(); h != name.DefaultRegistry {
		return h
	}
	return dockerIO
}

// connect finds out how to log in (and over which scheme to talk), and does.
func (r *registry) connect(ctx context.Context) (*http.Client, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.client != nil {
		return r.client, nil
	}
	repo := r.ref.Context()
	keychain := r.s.opts.Keychain
	if keychain == nil {
		keychain = authn.DefaultKeychain
	}
	auth, err := authn.Resolve(ctx, keychain, repo)
	if err != nil {
		return nil, fail(ErrUnauthorized, "reading the credentials for registry %s: %w", r.host(), err)
	}
	r.login = auth != authn.Anonymous
	ctx, stall := watchStall(ctx, r.s.opts.StallTimeout)
	defer stall.stop()
	rt, err := transport.NewWithContext(ctx, repo.Registry, auth, transport.NewUserAgent(r.guard, userAgent),
		[]string{repo.Scope(r.scope)})
	if err != nil {
		return nil, r.connectError(ctx, err)
	}
	r.client = &http.Client{Transport: rt, CheckRedirect: r.guard.redirect}
	return r.client, nil
}

// connectError words a handshake that failed. A registry that cannot be
// reached at all is reported at once; one that answers with a passing trouble
// is tried again.
func (r *registry) connectError(ctx context.Context, err error) error {
	var te *transport.Error
	var dns *net.DNSError
	switch {
	case errors.As(err, &te):
		return r.statusError(te.StatusCode, te, "")
	case errors.Is(context.Cause(ctx), errStalled):
		return fail(ErrUnavailable, "registry %s did not answer within %s", r.host(), r.s.opts.StallTimeout)
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, http.ErrSchemeMismatch):
		return fail(ErrUnavailable, "registry %s speaks plain http; list it as insecure to allow that", r.host())
	case errors.As(err, &dns):
		return fail(ErrUnavailable, "registry %s: its name cannot be resolved; check the name and the network: %w", r.host(), dns)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fail(ErrUnavailable, "registry %s is not reachable: connection refused", r.host())
	case isKind(err):
		return err
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET):
		return &tempError{err: fail(ErrUnavailable, "registry %s: %w", r.host(), err)}
	}
	return fail(ErrUnavailable, "registry %s is not reachable: %w", r.host(), err)
}

// isKind tells an error that already says what it is about.
func isKind(err error) bool {
	var k *kindError
	return errors.As(err, &k)
}

// get does one GET below the repository. The body ends with an error if the
// registry sends nothing for the stall time. accept is for manifests.
func (r *registry) get(ctx context.Context, path string, header http.Header) (*http.Response, error) {
	client, err := r.connect(ctx)
	if err != nil {
		return nil, err
	}
	repo := r.ref.Context()
	url := fmt.Sprintf("%s://%s/v2/%s/%s", repo.Scheme(), repo.RegistryStr(), repo.RepositoryStr(), path)
	ctx, stall := watchStall(ctx, r.s.opts.StallTimeout)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		stall.stop()
		return nil, err
	}
	req.Header = header
	resp, err := client.Do(req)
	if err != nil {
		err = r.requestError(ctx, err)
		stall.stop()
		return nil, err
	}
	resp.Body = &watchedBody{r: r, ctx: ctx, stall: stall, rc: resp.Body}
	if resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusPartialContent {
		return resp, nil
	}
	defer resp.Body.Close()
	if blob, ok := strings.CutPrefix(path, "blobs/"); ok && resp.StatusCode == http.StatusNotFound {
		return nil, fail(ErrCorrupt, "registry %s lacks blob %s, which the manifest names", r.host(), blob)
	}
	return nil, r.statusError(resp.StatusCode, transport.CheckError(resp, http.StatusOK), resp.Header.Get("Retry-After"))
}

// requestError words a request that got no answer, or lost its connection
// while the body came.
func (r *registry) requestError(ctx context.Context, err error) error {
	var te *transport.Error // from the token server
	switch {
	case errors.Is(context.Cause(ctx), errStalled):
		err = fail(ErrUnavailable, "registry %s sent nothing for %s", r.host(), r.s.opts.StallTimeout)
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.As(err, &te):
		return r.statusError(te.StatusCode, te, "")
	case isKind(err):
		return err
	default:
		err = fail(ErrUnavailable, "registry %s: connection lost: %w", r.host(), err)
	}
	return &tempError{err: err}
}

// statusError words an answer that is a refusal.
func (r *registry) statusError(code int, err error, retryAfter string) error {
	detail := http.StatusText(code)
	var te *transport.Error
	if errors.As(err, &te) && len(te.Errors) > 0 {
		detail = strings.TrimSuffix(clip(string(te.Errors[0].Code)+": "+te.Errors[0].Message), ": ")
	}
	switch {
	case code == http.StatusNotFound:
		return fail(ErrNotFound, "registry %s has no such image (%d %s); check name and tag", r.host(), code, detail)
	case code == http.StatusUnauthorized || code == http.StatusForbidden:
		if r.login {
			return fail(ErrUnauthorized, "registry %[1]s does not let the stored credentials %[4]s (%[2]d %[3]s); "+
				"log in again with `docker login %[1]s` or check the name", r.host(), code, detail, r.action())
		}
		return fail(ErrUnauthorized, "registry %[1]s does not let everybody %[4]s (%[2]d %[3]s); "+
			"if the name is right, log in with `docker login %[1]s`", r.host(), code, detail, r.action())
	case code == http.StatusTooManyRequests:
		secs, _ := strconv.Atoi(retryAfter)
		return &tempError{after: time.Duration(max(0, min(secs, 3600))) * time.Second,
			err: fail(ErrUnavailable, "registry %s limits requests (%d %s); wait, or log in with `docker login %[1]s`", r.host(), code, detail)}
	case code == http.StatusRequestTimeout || code >= 500:
		return &tempError{err: fail(ErrUnavailable, "registry %s is in trouble (%d %s)", r.host(), code, detail)}
	}
	return fail(ErrUnavailable, "registry %s answered with %d %s", r.host(), code, detail)
}

// action is what is being asked for.
func (r *registry) action() string {
	if r.scope == transport.PushScope {
		return "push to this repository"
	}
	return "pull this image"
}

func (r *registry) top(ctx context.Context) (raw []byte, mediaType string, err error) {
	err = r.s.retry(ctx, func() error {
		raw, mediaType, err = r.getManifest(ctx, r.ref.Identifier())
		return err
	})
	if err != nil {
		return nil, "", err
	}
	if d, ok := r.ref.(name.Digest); ok {
		if got := digestOf(raw); string(got) != d.DigestStr() {
			return nil, "", fail(ErrCorrupt, "registry %s sent a manifest with digest %s instead", r.host(), got)
		}
	}
	return raw, mediaType, nil
}

func (r *registry) manifest(ctx context.Context, d descriptor) (raw []byte, err error) {
	err = r.s.retry(ctx, func() error {
		raw, _, err = r.getManifest(ctx, string(d.Digest))
		return err
	})
	return raw, err
}

func (r *registry) getManifest(ctx context.Context, ident string) ([]byte, string, error) {
	resp, err := r.get(ctx, "manifests/"+ident, http.Header{"Accept": {strings.Join(manifestTypes, ", ")}})
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	raw, err := readAtMost(resp.Body, maxManifest)
	if errors.Is(err, errTooLarge) {
		return nil, "", fail(ErrUnsupported, "registry %s sends a manifest of more than %s", r.host(), bytesText(maxManifest))
	}
	return raw, resp.Header.Get("Content-Type"), err
}

func (r *registry) blob(ctx context.Context, d descriptor, off int64) (io.ReadCloser, error) {
	// identity: the bytes as stored, not what a transfer encoding makes of them.
	h := http.Header{"Accept-Encoding": {"identity"}}
	if off > 0 {
		h.Set("Range", fmt.Sprintf("bytes=%d-%d", off, d.Size-1))
	}
	resp, err := r.get(ctx, "blobs/"+string(d.Digest), h)
	if err != nil {
		return nil, err
	}
	skip := off
	if resp.StatusCode == http.StatusPartialContent {
		var first int64
		if _, err := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-", &first); err != nil || first != off {
			resp.Body.Close()
			return nil, fail(ErrUnavailable, "registry %s answers a request for bytes from %d on with Content-Range %q",
				r.host(), off, clip(resp.Header.Get("Content-Range")))
		}
		skip = 0
	}
	if n := resp.ContentLength; n >= 0 && n != d.Size-off+skip {
		resp.Body.Close()
		return nil, fail(ErrCorrupt, "registry %s has %d bytes for blob %s, the manifest says %d", r.host(), n+off-skip, d.Digest, d.Size)
	}
	// A registry without ranges sends everything again.
	if _, err := io.CopyN(io.Discard, resp.Body, skip); err != nil {
		resp.Body.Close()
		return nil, err
	}
	return resp.Body, nil
}
