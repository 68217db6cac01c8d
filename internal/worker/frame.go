package worker

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// A frame is one message: a kind, a JSON header and raw bytes. On the pipe:
//
//	kind      1 byte
//	header    4 bytes length, big endian
//	body      4 bytes length, big endian
//	header, body
type frame struct {
	kind byte
	head []byte
	body []byte
}

// The kinds of frames, and who sends them.
const (
	frameConfig = 'c' // parent, once
	frameHello  = 'h' // worker, once
	frameJob    = 'j' // parent
	frameQuery  = 'q' // worker, while it has a job
	frameAnswer = 'a' // parent
	frameResult = 'r' // worker
)

const (
	prefixSize = 9
	maxHead    = 64 << 10
)

// errProtocol marks a message that no honest other side sends.
var errProtocol = errors.New("protocol violation")

// errTooLarge marks a body over the bound that was set for it.
var errTooLarge = fmt.Errorf("%w: frame too large", errProtocol)

// writeFrame sends one message; header must encode as JSON in at most maxHead bytes.
func writeFrame(w io.Writer, kind byte, header any, body []byte) error {
	head, err := json.Marshal(header)
	if err != nil {
		return err
	}
	if len(head) > maxHead || int64(len(body)) > 1<<32-1 {
		return errTooLarge
	}
	buf := make([]byte, prefixSize, prefixSize+len(head)+min(len(body), maxHead))
	buf[0] = kind
	binary.BigEndian.PutUint32(buf[1:], uint32(len(head)))
	binary.BigEndian.PutUint32(buf[5:], uint32(len(body)))
	buf = append(buf, head...)
	if len(body) <= maxHead { // one system call for what is small
		_, err = w.Write(append(buf, body...))
		return err
	}
	if _, err = w.Write(buf); err != nil {
		return err
	}
	_, err = w.Write(body)
	return err
}

// readFrame reads one message whose body has at most maxBody bytes. Errors are
// io.EOF at the end between two messages, errProtocol (errTooLarge), or what
// the reader returned. Memory is taken as bytes arrive, not as announced.
func readFrame(r io.Reader, maxBody int64) (frame, error) {
	var prefix [prefixSize]byte
	if _, err := io.ReadFull(r, prefix[:]); err != nil {
		return frame{}, err
	}
	headLen := int64(binary.BigEndian.Uint32(prefix[1:]))
	bodyLen := int64(binary.BigEndian.Uint32(prefix[5:]))
	if headLen > maxHead || bodyLen > maxBody {
		return frame{}, errTooLarge
	}
	f := frame{kind: prefix[0]}
	var err error
	if f.head, err = readN(r, headLen); err != nil {
		return frame{}, err
	}
	if f.body, err = readN(r, bodyLen); err != nil {
		return frame{}, err
	}
	return f, nil
}

func readN(r io.Reader, n int64) ([]byte, error) {
	if n <= 1<<20 {
		buf := make([]byte, n)
		_, err := io.ReadFull(r, buf)
		return buf, unexpected(err)
	}
	var buf bytes.Buffer
	if _, err := io.CopyN(&buf, r, n); err != nil {
		return nil, unexpected(err)
	}
	return buf.Bytes(), nil
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// decode reads the header into v; anything unexpected in it is errProtocol.
func (f frame) decode(v any) error {
	dec := json.NewDecoder(bytes.NewReader(f.head))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return fmt.Errorf("%w: header of a %q frame: %w", errProtocol, f.kind, err)
	}
	return nil
}
