package cluster

import (
	"context"
	"fmt"
	"net"
	"syscall"
	"testing"
)

func TestHeldPortIsForThoseWhoShareItOnly(t *testing.T) {
	hold, err := holdPort()
	if err != nil {
		t.Fatal(err)
	}
	defer hold.release()
	address := fmt.Sprintf("127.0.0.1:%d", hold.port)

	if listener, err := net.Listen("tcp", address); err == nil {
		listener.Close()
		t.Error("somebody else got the held port")
	}
	sharing := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var failure error
		err := raw.Control(func(fd uintptr) {
			failure = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, reusePort, 1)
		})
		if failure != nil {
			return failure
		}
		return err
	}}
	listener, err := sharing.Listen(context.Background(), "tcp", address)
	if err != nil {
		t.Fatalf("the API server would not get the port: %v", err)
	}
	defer listener.Close()
	connection, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatalf("nobody reaches the listener behind the held port: %v", err)
	}
	connection.Close()
}

func TestHeldPortsDiffer(t *testing.T) {
	seen := map[int]bool{}
	for range 50 {
		hold, err := holdPort()
		if err != nil {
			t.Fatal(err)
		}
		defer hold.release()
		if seen[hold.port] {
			t.Fatalf("port %d was given twice", hold.port)
		}
		seen[hold.port] = true
	}
}
