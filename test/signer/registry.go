package main

import (
	"context"
	"io"
	"net"
	"net/http"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/inmemory"
	"github.com/sirupsen/logrus"
)

// startRegistry starts the CNCF distribution registry in memory, and returns its
// address. It ends with the process.
func startRegistry(ctx context.Context) (string, error) {
	logrus.SetOutput(io.Discard)
	config := &configuration.Configuration{
		Version: "0.1",
		Storage: configuration.Storage{"inmemory": configuration.Parameters{}, "delete": configuration.Parameters{"enabled": true}},
	}
	config.HTTP.Secret = "of a test"
	config.Catalog.MaxEntries = 1000
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	server := &http.Server{Handler: handlers.NewApp(ctx, config)}
	go func() { _ = server.Serve(listener) }() // until the process ends
	return listener.Addr().String(), nil
}
