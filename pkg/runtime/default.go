package runtime

import "sync"

// shared is the runtime of a program that needs only one.
var shared struct {
	mu sync.Mutex
	rt *Runtime
}

// Default returns the program's own runtime, made with the zero [Options] when
// it is first asked for. Whoever closes it closes it for everybody; the next call
// makes a new one.
func Default() (*Runtime, error) {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.rt == nil || shared.rt.isClosed() {
		rt, err := New(Options{})
		if err != nil {
			return nil, err
		}
		shared.rt = rt
	}
	return shared.rt, nil
}

// TryDefault returns the program's own runtime if there is one, else nil.
func TryDefault() *Runtime {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.rt == nil || shared.rt.isClosed() {
		return nil
	}
	return shared.rt
}

// InitDefault makes the program's own runtime with options. One that is there
// already is ErrAlreadyExists.
func InitDefault(opts Options) error {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.rt != nil && !shared.rt.isClosed() {
		return fail(ErrAlreadyExists, "the default runtime exists already, with home directory %s: initialise it before its first use", shared.rt.HomeDir())
	}
	rt, err := New(opts)
	if err != nil {
		return err
	}
	shared.rt = rt
	return nil
}
