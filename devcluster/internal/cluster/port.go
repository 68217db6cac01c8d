package cluster

import (
	"errors"
	"fmt"
	"syscall"
)

// portHold keeps a loopback port for the API server.
//
// Asking the kernel for a free port and letting go of it again leaves a moment in which anybody can get it. So the port stays
// bound here, without listening, for as long as the cluster runs, and the API server binds it a second time: both set
// SO_REUSEPORT, which the kernel allows to one user's processes only. Connections go to the socket that listens. A killed API
// server finds its port again, too.
type portHold struct {
	socket int
	port   int
}

// holdPort takes a free loopback port.
func holdPort() (*portHold, error) {
	syscall.ForkLock.RLock()
	socket, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(socket)
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, fmt.Errorf("take a port: %w", err)
	}
	hold := &portHold{socket: socket}
	if err := hold.bind(); err != nil {
		hold.release()
		return nil, fmt.Errorf("take a loopback port: %w", err)
	}
	return hold, nil
}

// bind binds the socket to a port of the kernel's choice.
func (h *portHold) bind() error {
	if err := syscall.SetsockoptInt(h.socket, syscall.SOL_SOCKET, reusePort, 1); err != nil {
		return err
	}
	if err := syscall.Bind(h.socket, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return err
	}
	address, err := syscall.Getsockname(h.socket)
	if err != nil {
		return err
	}
	inet, ok := address.(*syscall.SockaddrInet4)
	if !ok {
		return errors.New("the kernel gave another kind of address")
	}
	h.port = inet.Port
	return nil
}

// release lets go of the port.
func (h *portHold) release() {
	_ = syscall.Close(h.socket) // it never carried anything
}
