# Holdfast: every target explains itself; `make` or `make help` lists them.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

BIN := bin
GO ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS := -s -w -X github.com/holdfastcd/holdfast/internal/cli.version=$(VERSION)

# What `make bench` runs; see `bin/bench --help`.
BENCH_APPS ?= 100
BENCH_OBJECTS ?= 5
BENCH_ARGS ?=
# How long each fuzz target runs in `make fuzz`.
FUZZTIME ?= 5m

.PHONY: help
help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z][a-z-]*:.*## / {printf "  \033[1m%-14s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build bin/holdfast
	$(GO) build -ldflags '$(LDFLAGS)' -o $(BIN)/holdfast ./cmd/holdfast

.PHONY: devcluster
devcluster: ## Build the throw-away Kubernetes control plane (first time: about 6 minutes)
	$(GO) -C devcluster run ./cmd/devcluster build

.PHONY: demo
demo: build ## Deliver examples/fleet to a throw-away cluster and watch drift being reverted; Ctrl-C ends it
	$(BIN)/holdfast demo

.PHONY: test
test: lint devcluster ## Lint, then all tests with the race detector; end-to-end ones on a real API server
	CGO_ENABLED=0 $(GO) -C devcluster test ./cmd/devcluster ./internal/...
	$(GO) test -race -timeout 20m ./...

.PHONY: unit
unit: ## Only the tests that need no cluster
	$(GO) test -short ./...

.PHONY: bench
bench: build devcluster ## The table of the design: the floor and Holdfast in one run (BENCH_APPS, BENCH_OBJECTS)
	$(GO) build -o $(BIN)/bench ./test/bench
	$(BIN)/bench --holdfast $(BIN)/holdfast --apps $(BENCH_APPS) --objects $(BENCH_OBJECTS) $(BENCH_ARGS)

.PHONY: fuzz
fuzz: ## Every fuzz target for FUZZTIME each
	@grep -rl --include='*_test.go' '^func Fuzz' internal | xargs -n1 dirname | sort -u | while read -r dir; do \
		for f in $$(grep -ho '^func Fuzz[A-Za-z0-9_]*' $$dir/*_test.go | sed 's/^func //'); do \
			echo "== $$dir $$f"; $(GO) test ./$$dir -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME); \
		done; done

.PHONY: lint
lint: $(BIN)/golangci-lint ## Format, vet and lint, strictly
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { echo "not gofmt'ed:"; gofmt -l $$(git ls-files '*.go'); exit 1; }
	$(BIN)/golangci-lint run ./...

$(BIN)/golangci-lint: tools/lint/go.mod
	$(GO) -C tools/lint build -o $(CURDIR)/$(BIN)/golangci-lint github.com/golangci/golangci-lint/v2/cmd/golangci-lint

.PHONY: generate
generate: ## Regenerate deepcopy functions and CRDs from the API types
	$(GO) generate ./api/... ./deploy/...

.PHONY: clean
clean: ## Remove what the build made here
	rm -rf $(BIN) dist
