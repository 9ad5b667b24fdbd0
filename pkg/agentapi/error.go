package agentapi

// Code classifies an [Error]. A receiver treats codes it does not know as
// [CodeSystem].
type Code uint16

const (
	CodeSystem        Code = 1  // the kernel refused; Errno says how
	CodeProtocol      Code = 2  // malformed, or not allowed at this point
	CodeVersion       Code = 3  // the other side speaks another version
	CodeState         Code = 4  // not set up yet, or already set up, or shutting down
	CodeInvalid       Code = 5  // a field has no valid value
	CodeLimit         Code = 6  // larger or more than allowed
	CodeSetup         Code = 7  // a step of Setup did not work; Op names the step
	CodeNotFound      Code = 8  // command not found (exit code 127 by convention)
	CodeNotExecutable Code = 9  // command found but cannot be executed (126)
	CodeNoUser        Code = 10 // no such user or group in the image
	CodeBadDir        Code = 11 // working directory is unusable
	CodeNoProcess     Code = 12 // no such execution
	CodeExited        Code = 13 // the execution has already ended
	CodeExists        Code = 14 // the execution id is taken
	CodeNoTTY         Code = 15 // the execution has no terminal
	CodeNoPath        Code = 16 // no such file or directory in the box
	CodeArchive       Code = 17 // an archive that is damaged or may not be unpacked
	CodeFileType      Code = 18 // a directory where none may be, or the other way round
)

var codeNames = [...]string{
	CodeSystem: "system", CodeProtocol: "protocol", CodeVersion: "version", CodeState: "state",
	CodeInvalid: "invalid", CodeLimit: "limit", CodeSetup: "setup", CodeNotFound: "not found",
	CodeNotExecutable: "not executable", CodeNoUser: "no such user", CodeBadDir: "bad working directory",
	CodeNoProcess: "no such execution", CodeExited: "already ended", CodeExists: "already exists", CodeNoTTY: "no terminal",
	CodeNoPath: "no such file or directory", CodeArchive: "bad archive", CodeFileType: "wrong type of file",
}

func (c Code) String() string {
	if int(c) < len(codeNames) && codeNames[c] != "" {
		return codeNames[c]
	}
	return "code " + utoa(uint64(c))
}

// Sentinels for errors.Is, which compares codes only.
var (
	ErrNotFound      = &Error{Code: CodeNotFound}
	ErrNotExecutable = &Error{Code: CodeNotExecutable}
	ErrNoUser        = &Error{Code: CodeNoUser}
	ErrBadDir        = &Error{Code: CodeBadDir}
	ErrSetup         = &Error{Code: CodeSetup}
	ErrState         = &Error{Code: CodeState}
	ErrExited        = &Error{Code: CodeExited}
	ErrNoTTY         = &Error{Code: CodeNoTTY}
	ErrNoPath        = &Error{Code: CodeNoPath}
	ErrArchive       = &Error{Code: CodeArchive}
	ErrFileType      = &Error{Code: CodeFileType}
)

// Error is the answer to a request that did not work, and the Go error made of
// it. Msg is a whole sentence for people, without Op.
type Error struct {
	Code  Code
	Errno uint32 // Linux error number, 0 when there is none
	Op    string // the step or the request, e.g. "mount lower", "exec"
	Msg   string
}

// Error implements error. Bytes that could steer a terminal are escaped: the
// text may come from a hostile guest.
func (e *Error) Error() string {
	s := "agent: "
	if e.Op != "" {
		s += printable(e.Op) + ": "
	}
	if e.Msg == "" {
		return s + e.Code.String()
	}
	return s + printable(e.Msg)
}

// Is makes errors.Is(err, ErrNotFound) and the like work.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Op == "" && t.Msg == "" && t.Code == e.Code
}

func (*Error) Type() Type { return TypeError }
func (m *Error) encode(e *encoder) {
	e.u16(uint16(m.Code))
	e.u32(m.Errno)
	e.str(m.Op)
	e.str(m.Msg)
}
func (m *Error) decode(d *decoder) {
	m.Code, m.Errno, m.Op, m.Msg = Code(d.u16()), d.u32(), d.str(), d.str()
}

// maxShown bounds what one error may put on a terminal or in a log, in bytes.
const maxShown = 1024

// printable replaces control bytes and cuts what is too long.
func printable(s string) string {
	long := len(s) > maxShown
	if long {
		s = s[:maxShown]
	}
	clean := true
	for _, r := range s {
		if unprintable(r) {
			clean = false
			break
		}
	}
	if !clean {
		b := make([]byte, 0, len(s))
		for _, r := range s {
			if unprintable(r) {
				b = append(b, '?')
			} else {
				b = append(b, string(r)...)
			}
		}
		s = string(b)
	}
	if long {
		s += "..."
	}
	return s
}

// unprintable reports C0 and C1 controls, invalid UTF-8 and the characters that
// reorder text (U+202A-202E, U+2066-2069).
func unprintable(r rune) bool {
	return r < 0x20 || r >= 0x7f && r < 0xa0 || r == 0xfffd || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069
}
