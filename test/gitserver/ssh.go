package gitserver

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// sshServer runs git for those who hold an authorised key.
type sshServer struct {
	git      *Server
	config   *ssh.ServerConfig
	host     ssh.PublicKey
	listener net.Listener
	running  sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]bool // nil once the server is closed
}

// NewSSHKey returns a new ed25519 key in PEM, encrypted if there is a passphrase,
// and the line that authorises it.
func NewSSHKey(passphrase string) (private []byte, authorized string, err error) {
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, "", err
	}
	var block *pem.Block
	if passphrase == "" {
		block, err = ssh.MarshalPrivateKey(key, "")
	} else {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(key, "", []byte(passphrase))
	}
	if err != nil {
		return nil, "", err
	}
	line, err := ssh.NewPublicKey(public)
	if err != nil {
		return nil, "", err
	}
	return pem.EncodeToMemory(block), string(ssh.MarshalAuthorizedKey(line)), nil
}

// SSHURL returns the address of a repository over SSH, "" if that is not served.
func (s *Server) SSHURL(repo string) string {
	if s.ssh == nil {
		return ""
	}
	return "ssh://git@" + s.ssh.listener.Addr().String() + "/" + repo + ".git"
}

// SSHAddr returns host:port of the SSH server, "" if there is none.
func (s *Server) SSHAddr() string {
	if s.ssh == nil {
		return ""
	}
	return s.ssh.listener.Addr().String()
}

// KnownHosts returns a line of known_hosts with the server's key, also under
// other addresses by which it is reached (host or host:port).
func (s *Server) KnownHosts(others ...string) []byte {
	if s.ssh == nil {
		return nil
	}
	return []byte(knownhosts.Line(append([]string{s.SSHAddr()}, others...), s.ssh.host) + "\n")
}

func (s *Server) serveSSH(authorized []string) (*sshServer, error) {
	allowed := map[string]bool{}
	for _, line := range authorized {
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
		if err != nil {
			return nil, err
		}
		allowed[string(key.Marshal())] = true
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	host, err := ssh.NewSignerFromKey(private)
	if err != nil {
		return nil, err
	}
	listener, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	d := &sshServer{git: s, host: host.PublicKey(), listener: listener, conns: map[net.Conn]bool{}, config: &ssh.ServerConfig{
		PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			if !allowed[string(key.Marshal())] {
				return nil, errors.New("the key is not authorised")
			}
			return &ssh.Permissions{}, nil
		},
	}}
	d.config.AddHostKey(host)
	d.running.Go(d.accept)
	return d, nil
}

func (d *sshServer) close() error {
	err := d.listener.Close()
	d.mu.Lock()
	for c := range d.conns {
		_ = c.Close() // it is over either way
	}
	d.conns = nil
	d.mu.Unlock()
	d.running.Wait()
	return err
}

func (d *sshServer) accept() {
	for {
		conn, err := d.listener.Accept()
		if err != nil {
			return
		}
		d.mu.Lock()
		open := d.conns != nil
		if open {
			d.conns[conn] = true
		}
		d.mu.Unlock()
		if !open {
			_ = conn.Close()
			return
		}
		d.running.Go(func() {
			defer d.drop(conn)
			d.serve(conn)
		})
	}
}

func (d *sshServer) drop(conn net.Conn) {
	_ = conn.Close()
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.conns, conn)
}

func (d *sshServer) serve(conn net.Conn) {
	server, channels, requests, err := ssh.NewServerConn(conn, d.config)
	if err != nil {
		return
	}
	defer server.Close()
	go ssh.DiscardRequests(requests)
	var running sync.WaitGroup
	defer running.Wait()
	for c := range channels {
		if c.ChannelType() != "session" {
			_ = c.Reject(ssh.UnknownChannelType, "only sessions are served")
			continue
		}
		channel, requests, err := c.Accept()
		if err != nil {
			return
		}
		running.Go(func() { d.session(channel, requests) })
	}
}

func (d *sshServer) session(channel ssh.Channel, requests <-chan *ssh.Request) {
	defer channel.Close()
	for r := range requests {
		if r.Type != "exec" {
			_ = r.Reply(r.Type == "env", nil)
			continue
		}
		var exec struct{ Command string }
		if err := ssh.Unmarshal(r.Payload, &exec); err != nil {
			_ = r.Reply(false, nil)
			return
		}
		_ = r.Reply(true, nil)
		go ssh.DiscardRequests(requests)
		status := d.run(channel, exec.Command)
		_, _ = channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{status}))
		return
	}
}

// run serves one command: git-upload-pack or git-receive-pack, and a path in
// single quotes.
func (d *sshServer) run(channel ssh.Channel, command string) uint32 {
	service, quoted, _ := strings.Cut(command, " ")
	name, ok := strings.CutPrefix(service, "git-")
	if !ok || (name != "upload-pack" && name != "receive-pack") {
		fmt.Fprintf(channel.Stderr(), "%q is not served\n", command)
		return 128
	}
	repo := path.Clean("/" + strings.Trim(quoted, "'"))
	cmd := exec.Command("git", name, filepath.Join(d.git.dir, filepath.FromSlash(repo)))
	cmd.Dir, cmd.Env = d.git.dir, d.git.environment()
	cmd.Stdout, cmd.Stderr = channel, channel.Stderr()
	stdin, err := cmd.StdinPipe()
	if err != nil || cmd.Start() != nil {
		return 128
	}
	go func() {
		_, _ = io.Copy(stdin, channel) // ends with the channel
		_ = stdin.Close()
	}()
	if err := cmd.Wait(); err != nil {
		return 128
	}
	return 0
}

// HashedKnownHosts is KnownHosts with the address hashed, as ssh-keygen -H does.
func (s *Server) HashedKnownHosts() []byte {
	line := s.KnownHosts()
	host, rest, _ := bytes.Cut(line, []byte(" "))
	return append([]byte(knownhosts.HashHostname(string(host))+" "), rest...)
}
