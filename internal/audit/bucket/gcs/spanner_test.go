package gcs

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"cloud.google.com/go/spanner/admin/database/apiv1/databasepb"
	"cloud.google.com/go/spanner/spannertest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
)

// startSpanner starts Google's in-memory Spanner, and before it what it lacks: it does
// not know IF NOT EXISTS, with which tessera and we make tables at each start.
func startSpanner(tb testing.TB) (address string) {
	tb.Helper()
	server, err := spannertest.NewServer("127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(server.Close)
	server.SetLogger(func(string, ...any) {})
	behind, err := grpc.NewClient(server.Addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodec(raw{})))
	if err != nil {
		tb.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	front := grpc.NewServer(grpc.ForceServerCodec(raw{}), grpc.UnknownServiceHandler((&schemas{behind: behind, made: map[string]bool{}}).pass))
	go func() { _ = front.Serve(l) }() // until it is stopped
	tb.Cleanup(func() { front.Stop(); _ = behind.Close() })
	return l.Addr().String()
}

// schemas passes calls on, but for statements whose table was made before.
type schemas struct {
	behind *grpc.ClientConn

	mu   sync.Mutex
	made map[string]bool
}

func (s *schemas) pass(_ any, in grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(in)
	ctx, cancel := context.WithCancel(in.Context())
	defer cancel()
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		ctx = metadata.NewOutgoingContext(ctx, md)
	}
	out, err := s.behind.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
	if err != nil {
		return err
	}
	for {
		var m []byte
		if err := in.RecvMsg(&m); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		if strings.HasSuffix(method, "/UpdateDatabaseDdl") {
			m = s.anew(m)
		}
		if err := out.SendMsg(&m); err != nil {
			break // what was wrong is received
		}
	}
	if err := out.CloseSend(); err != nil {
		return err
	}
	for {
		var m []byte
		if err := out.RecvMsg(&m); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if err := in.SendMsg(&m); err != nil {
			return err
		}
	}
}

// anew leaves out statements that were made before.
func (s *schemas) anew(m []byte) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	var r databasepb.UpdateDatabaseDdlRequest
	if proto.Unmarshal(m, &r) != nil {
		return m
	}
	var left []string
	for _, statement := range r.GetStatements() {
		if !s.made[statement] {
			s.made[statement] = true
			left = append(left, statement)
		}
	}
	r.Statements = left
	text, err := proto.Marshal(&r)
	if err != nil {
		return m
	}
	return text
}

// raw leaves messages as they are.
type raw struct{}

// Marshal implements encoding.Codec.
func (raw) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }

// Unmarshal implements encoding.Codec.
func (raw) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = append([]byte(nil), data...)
	return nil
}

// Name implements encoding.Codec.
func (raw) Name() string { return "proto" }
