package git

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-git/go-git/v5/plumbing/format/pktline"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/transport"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/source"
)

const (
	handshakeTimeout = 30 * time.Second
	maxStderr        = 4 << 10
)

// sshConnection runs git-upload-pack at the other end. go-git's transport is not
// used because it reads the user's ssh_config and known_hosts, asks an agent when
// it has no key, and takes no context.
type sshConnection struct {
	client  *ssh.Client
	command string
	opts    Options
	list    *refsList

	// Of the command that runs; it answers one request only.
	session *ssh.Session
	in      io.WriteCloser
	out     io.Reader
	asked   bool
}

// connectSSH opens a connection for one fetch, and asks for the refs. Errors are
// *fault.Error, or what the network says.
func (r *remote) connectSSH(ctx context.Context, req source.Request, list *refsList) (uploader, *packp.AdvRefs, error) {
	user, address, path, _ := source.SplitSSH(req.URL)
	secret := req.Credential.Secret()
	config, err := r.sshConfig(secret, cmp.Or(user, secret.Username, "git"), address)
	if err != nil {
		return nil, nil, err
	}
	way, err := r.route(req.Credential)
	if err != nil {
		return nil, nil, err
	}
	conn, err := way.dial(ctx, address)
	if err != nil {
		return nil, nil, err
	}
	// From here on everything ends when the connection does.
	context.AfterFunc(ctx, func() { _ = conn.Close() })
	client, err := handshake(ctx, conn, address, config)
	if err != nil {
		return nil, nil, err
	}
	c := &sshConnection{client: client, command: "git-upload-pack " + quoted(path), opts: r.opts, list: list}
	refs, err := c.start()
	if err != nil {
		_ = c.Close()
		return nil, nil, cmp.Or(ctx.Err(), err)
	}
	return c, refs, nil
}

func handshake(ctx context.Context, conn net.Conn, address string, config *ssh.ClientConfig) (*ssh.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	c, channels, requests, err := ssh.NewClientConn(conn, address, config)
	if !stop() {
		return nil, ctx.Err()
	}
	if errors.Is(err, net.ErrClosed) { // by the end of the context, of which this one is about to hear
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if err != nil {
		_ = conn.Close()
		return nil, sshError(err, address)
	}
	return ssh.NewClient(c, channels, requests), nil
}

// sshConfig says who asks and which host keys are trusted: those of the
// credential only. Errors: Refused (no known_hosts), Unauthorized (no key),
// Invalid.
func (r *remote) sshConfig(secret source.Secret, user, address string) (*ssh.ClientConfig, error) {
	if len(secret.KnownHosts) == 0 {
		return nil, fault.New(fault.Refused, "the host key of %s cannot be checked", address).
			WithHint("refer to a Secret with the key known_hosts, as ssh-keyscan prints it")
	}
	if len(secret.SSHKey) == 0 {
		return nil, fault.New(fault.Unauthorized, "the Git server asks for an SSH key").WithHint("refer to a Secret with the key identity")
	}
	signer, err := signerOf(secret)
	if err != nil {
		return nil, err
	}
	check, err := r.hostKeys(secret.KnownHosts)
	if err != nil {
		return nil, err
	}
	algorithms := algorithmsFor(check, address)
	if len(algorithms) == 0 {
		return nil, fault.New(fault.Unreachable, "known_hosts has no key for %s", address).
			WithHint("add what ssh-keyscan prints for it, after comparing it with what the server's owner publishes")
	}
	return &ssh.ClientConfig{
		User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)},
		HostKeyCallback: check, HostKeyAlgorithms: algorithms, Timeout: handshakeTimeout,
	}, nil
}

func signerOf(secret source.Secret) (ssh.Signer, error) {
	if err := checkKey(secret.SSHKey); err != nil {
		return nil, err
	}
	signer, err := ssh.ParsePrivateKey(secret.SSHKey)
	if _, encrypted := errors.AsType[*ssh.PassphraseMissingError](err); encrypted && secret.Password != "" {
		signer, err = ssh.ParsePrivateKeyWithPassphrase(secret.SSHKey, []byte(secret.Password))
	} else if encrypted {
		return nil, fault.New(fault.Invalid, "the SSH key is encrypted").WithHint("put its passphrase into the Secret as password")
	}
	if err != nil {
		return nil, fault.New(fault.Invalid, "the SSH key cannot be read").WithHint("it must be a private key in PEM, and password its passphrase")
	}
	return signer, nil
}

// hostKeys reads lines of known_hosts. The library reads files only, so that
// they make a short visit to one; they are no secret.
func (r *remote) hostKeys(lines []byte) (ssh.HostKeyCallback, error) {
	if len(lines) > maxPEM {
		return nil, fault.New(fault.Limit, "known_hosts is larger than %d bytes", maxPEM)
	}
	if err := checkPatterns(lines); err != nil {
		return nil, err
	}
	file, err := os.CreateTemp(r.dir, "known_hosts-")
	if err != nil {
		return nil, err
	}
	defer os.Remove(file.Name())
	_, err = file.Write(lines)
	if err := errors.Join(err, file.Close()); err != nil {
		return nil, err
	}
	check, err := knownhosts.New(file.Name())
	if err != nil {
		return nil, fault.New(fault.Invalid, "known_hosts cannot be read").WithHint("it must hold lines as ssh-keyscan prints them")
	}
	return check, nil
}

// algorithmsFor asks for the kinds of host key that are known: a server has
// several, and would otherwise show one that is not.
func algorithmsFor(check ssh.HostKeyCallback, address string) []string {
	var known *knownhosts.KeyError
	if !errors.As(check(address, &net.TCPAddr{}, noKey{}), &known) {
		return nil
	}
	var out []string
	for _, k := range known.Want {
		algorithms := []string{k.Key.Type()}
		if algorithms[0] == ssh.KeyAlgoRSA { // of which SHA-1 is the old way to sign
			algorithms = []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
		}
		for _, a := range algorithms {
			if !slices.Contains(out, a) && slices.Contains(ssh.SupportedAlgorithms().HostKeys, a) {
				out = append(out, a)
			}
		}
	}
	return out
}

// noKey is a host key that nobody has.
type noKey struct{}

func (noKey) Type() string                        { return "none" }
func (noKey) Marshal() []byte                     { return nil }
func (noKey) Verify([]byte, *ssh.Signature) error { return errors.ErrUnsupported }

// sshError says what went wrong before the server let us in.
func sshError(err error, address string) error {
	var wrong *knownhosts.KeyError
	var revoked *knownhosts.RevokedError
	var kinds *ssh.AlgorithmNegotiationError
	switch {
	case errors.As(err, &wrong):
		return fault.New(fault.Unreachable, "the host key of %s is not the one in known_hosts", address).
			WithHint("somebody may listen in; if the server has a new key, put it into known_hosts").Because(err)
	case errors.As(err, &revoked):
		return fault.New(fault.Unreachable, "the host key of %s is revoked by known_hosts", address).Because(err)
	case errors.As(err, &kinds):
		return fault.New(fault.Unreachable, "the Git server at %s offers no host key and ciphers of the kinds that known_hosts and security allow", address).Because(err)
	case strings.Contains(err.Error(), "unable to authenticate"): // the library has no type for it
		return fault.New(fault.Unauthorized, "the Git server refused the SSH key").
			WithHint("check that the key is registered with the server, and what it may read")
	}
	return err
}

// start runs the command once and reads the refs, with which it begins.
func (c *sshConnection) start() (*packp.AdvRefs, error) {
	session, err := c.client.NewSession()
	if err != nil {
		return nil, err
	}
	if c.session != nil {
		_ = c.session.Close()
	}
	stderr := &capped{}
	session.Stderr = stderr
	in, err := session.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := session.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := session.Start(c.command); err != nil {
		return nil, err
	}
	c.session, c.in, c.out, c.asked = session, in, out, false
	refs := packp.NewAdvRefs()
	err = refs.Decode(&bounded{ReadCloser: readCloser{out, c.client}, left: c.opts.MaxRefs, list: c.list})
	if failed := c.list.failed(); failed != nil {
		return nil, failed // the decoder has hidden it
	}
	if errors.Is(err, packp.ErrEmptyInput) {
		_ = session.Wait() // until all of stderr is here
		return nil, refusal(stderr.String())
	}
	return refs, c.judge(refs, err)
}

func (c *sshConnection) judge(refs *packp.AdvRefs, err error) error {
	var line *pktline.ErrorLine
	switch {
	case errors.As(err, &line):
		return refusal(line.Text)
	case errors.Is(err, packp.ErrEmptyAdvRefs), err == nil && refs.IsEmpty():
		return transport.ErrEmptyRemoteRepository
	case err != nil:
		return err
	}
	transport.FilterUnsupportedCapabilities(refs.Capabilities)
	return nil
}

// refusal judges what a server says instead of an answer. Its words are not
// repeated: they are a stranger's.
func refusal(words string) error {
	words = strings.ToLower(words)
	for _, sign := range []string{"not found", "not exist", "does not appear to be a git repository", "could not be found", "no such", "not a git repository"} {
		if strings.Contains(words, sign) {
			return fault.New(fault.NotFound, "there is no such repository").
				WithHint("some servers answer so when the key may not read it")
		}
	}
	for _, sign := range []string{"denied", "not allowed", "unauthorized", "permission", "forbidden"} {
		if strings.Contains(words, sign) {
			return fault.New(fault.Unauthorized, "the Git server does not let this key read the repository")
		}
	}
	return fault.New(fault.Unreachable, "the Git server ended the conversation without an answer")
}

// UploadPack asks for a pack.
func (c *sshConnection) UploadPack(ctx context.Context, req *packp.UploadPackRequest) (*packp.UploadPackResponse, error) {
	if req.IsEmpty() {
		return nil, transport.ErrEmptyUploadPackRequest
	}
	if err := req.Validate(); err != nil {
		return nil, err
	}
	if c.asked {
		_, err := c.start() // what it shows now is of no interest
		c.list.leave()
		if err != nil {
			return nil, cmp.Or(ctx.Err(), err)
		}
	}
	c.asked = true
	question, err := encode(req)
	if err != nil {
		return nil, err
	}
	if _, err := c.in.Write(question); err != nil {
		return nil, cmp.Or(ctx.Err(), err)
	}
	limit := c.opts.MaxPack + c.opts.MaxPack/64 + 1<<20 // the pack in its envelopes
	res := packp.NewUploadPackResponse(req)
	if err := res.Decode(&bounded{ReadCloser: io.NopCloser(c.out), left: limit}); err != nil {
		return nil, cmp.Or(ctx.Err(), err)
	}
	return res, nil
}

// Close ends the connection.
func (c *sshConnection) Close() error { return c.client.Close() }

// encode writes a question as over HTTP: all at once, since it says what is here
// and expects no haggling.
func encode(req *packp.UploadPackRequest) ([]byte, error) {
	var b bytes.Buffer
	if err := req.UploadRequest.Encode(&b); err != nil {
		return nil, err
	}
	if err := req.UploadHaves.Encode(&b, false); err != nil {
		return nil, err
	}
	err := pktline.NewEncoder(&b).EncodeString("done\n")
	return b.Bytes(), err
}

// readCloser reads from one and closes another.
type readCloser struct {
	io.Reader
	io.Closer
}

// quoted is the path for the shell at the other end: in single quotes, in which
// only they and, for some shells, the exclamation mark mean anything.
func quoted(path string) string {
	return "'" + strings.NewReplacer("'", `'\''`, "!", `'\!'`).Replace(path) + "'"
}

// capped keeps the beginning of what is written to it.
type capped struct {
	mu sync.Mutex
	b  []byte
}

func (c *capped) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.b = append(c.b, p[:min(len(p), maxStderr-len(c.b))]...)
	return len(p), nil
}

func (c *capped) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(c.b)
}
