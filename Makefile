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
	CGO_ENABLED=0 $(GO) build -ldflags '$(LDFLAGS)' -o $(BIN)/holdfast ./cmd/holdfast

.PHONY: devcluster
devcluster: ## Build the throw-away Kubernetes control plane (first time: about 6 minutes)
	$(GO) -C devcluster run ./cmd/devcluster build

.PHONY: signer
signer: ## Build the program that signs images for tests (first time: about 2 minutes)
	cd test/signer && CGO_ENABLED=0 $(GO) run -ldflags='-s -w' . </dev/null

.PHONY: kyverno
kyverno: ## Build bin/holdfast-kyverno, which judges by Kyverno's policies (first time: about 6 minutes)
	CGO_ENABLED=0 $(GO) -C kyverno build -ldflags '-s -w' -o $(CURDIR)/$(BIN)/holdfast-kyverno .

.PHONY: demo
demo: build ## Deliver examples/fleet to a throw-away cluster and watch drift being reverted; Ctrl-C ends it
	$(BIN)/holdfast demo

.PHONY: signing-tools
signing-tools: ## Check for what tests sign commits with; where there is apt and the right to use it, install it
	@missing=; for tool in git gpg gpgconf gpgsm openssl ssh-keygen; do command -v $$tool >/dev/null || missing="$$missing $$tool"; done; \
	if test -n "$$missing" && command -v apt-get >/dev/null && test "$$(id -u)" = 0; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends git gnupg gpgsm openssl openssh-client >/dev/null; missing=; \
		for tool in git gpg gpgconf gpgsm openssl ssh-keygen; do command -v $$tool >/dev/null || missing="$$missing $$tool"; done; \
	fi; \
	test -z "$$missing" || { echo "the tests sign commits with real tools, and these are missing:$$missing (on Debian: apt install git gnupg gpgsm openssl openssh-client)"; exit 1; }

.PHONY: audit-tools
audit-tools: ## Check for MariaDB, on which tests put audit logs, and build the servers of buckets (first time: about 3 minutes)
	@has() { PATH="$$PATH:/usr/sbin" command -v mariadbd >/dev/null && command -v mariadb-install-db >/dev/null; }; \
	if ! has && command -v apt-get >/dev/null && test "$$(id -u)" = 0; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends mariadb-server >/dev/null || true; \
	fi; \
	has || { echo "the tests put audit logs on MariaDB, and mariadbd or mariadb-install-db is missing (on Debian: apt install mariadb-server)"; exit 1; }
	@CGO_ENABLED=0 $(GO) test -count 1 -run '^TestBuild$$' ./test/stores

.PHONY: test
test: signing-tools audit-tools lint devcluster signer kyverno ## Lint, then all tests with the race detector; end-to-end ones on a real API server
	CGO_ENABLED=0 $(GO) -C devcluster test ./cmd/devcluster ./internal/...
	CGO_ENABLED=0 $(GO) -C kyverno test ./...
	@# Most tests wait for a cluster or a server most of the time: four packages side by side
	@# keep two processors busy. The linters have vetted already, strictly.
	$(GO) test -race -vet=off -p 4 -timeout 20m $$($(GO) list ./... | grep -vE '/(internal/cli|test/e2e)$$')
	@# The tests of the command line and end-to-end ones watch processes built without the race
	@# detector; races are found by the tests of the packages that do the work. `make race` has all.
	CGO_ENABLED=0 $(GO) test -vet=off -p 2 -timeout 20m ./internal/cli ./test/e2e

.PHONY: race
race: devcluster ## All tests but the end-to-end ones with the race detector
	$(GO) test -race -vet=off -p 4 -timeout 40m $$($(GO) list ./... | grep -v '/test/e2e$$')

.PHONY: unit
unit: signing-tools ## Only the tests that need no cluster
	$(GO) test -short ./...

.PHONY: e2e-kill
e2e-kill: devcluster ## Kill the controller 200 times between its writes; no apply without its entry
	HOLDFAST_KILLS=200 $(GO) test ./test/e2e -run TestKilledUnderLoad -timeout 60m -v

.PHONY: long
long: devcluster ## Sealed values and files with every byte changed in every way, and their cost (minutes)
	HOLDFAST_LONG=1 $(GO) test -count 1 -timeout 60m -run '^(TestEveryByte|TestEveryByteOfAValueIsProtected|TestRSAIsPaidOnce)$$' ./internal/secret/sops ./internal/secret/sealed

.PHONY: many
many: devcluster ## Three hundred Applications, and a controller that restarts (minutes)
	HOLDFAST_MANY=300 CGO_ENABLED=0 $(GO) test -count 1 -timeout 20m -run '^TestApplicationsRestarted$$' ./test/e2e

.PHONY: policy-scale
policy-scale: ## 5,000 objects against 50 policies, in Rego and in CEL, and policies that never end (minutes)
	HOLDFAST_LONG=1 CGO_ENABLED=0 $(GO) test -count 1 -v -timeout 20m -run '^(TestSpeed|TestBar|TestBadInput)$$' ./internal/policy/rego ./internal/policy/cel

.PHONY: gatekeeper
gatekeeper: ## Put our cases of Gatekeeper's policies to its own library (first time: about 10 minutes)
	CGO_ENABLED=0 $(GO) -C test/gatekeeper test ./...

.PHONY: kyverno-scale
kyverno-scale: ## 5,000 objects against 50 of Kyverno's policies: time and memory (about a minute)
	HOLDFAST_LONG=1 CGO_ENABLED=0 $(GO) -C kyverno test -count 1 -v -timeout 20m -run '^TestScale$$' .

.PHONY: bench
bench: build devcluster ## The table of the design: the floor and Holdfast in one run (BENCH_APPS, BENCH_OBJECTS)
	$(GO) build -o $(BIN)/bench ./test/bench
	$(BIN)/bench --holdfast $(BIN)/holdfast --apps $(BENCH_APPS) --objects $(BENCH_OBJECTS) $(BENCH_ARGS)

.PHONY: fuzz
fuzz: ## Every fuzz target for FUZZTIME each
	@grep -rl --include='*_test.go' '^func Fuzz' internal | xargs -n1 dirname | sort -u | while read -r dir; do \
		for f in $$(grep -ho '^func Fuzz[A-Za-z0-9_]*' $$dir/*_test.go | sed 's/^func //'); do \
			echo "== $$dir $$f"; $(GO) test ./$$dir -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 20x || exit 1; \
		done; done

.PHONY: audit-kill
audit-kill: ## The audit log, killed 200 times at random moments under load
	HOLDFAST_AUDIT_KILLS=200 $(GO) test -count 1 -v -timeout 30m -run '^TestKilled$$' ./internal/audit

.PHONY: audit-kill-bucket
audit-kill-bucket: audit-tools ## The audit log on S3 and MySQL of this machine, killed 50 times under load
	HOLDFAST_AUDIT_KILLS=50 $(GO) test -count 1 -v -timeout 30m -run '^Test$$/^Killed$$' ./internal/audit/bucket/s3

.PHONY: audit-scale
audit-scale: ## The audit log with a million entries: throughput, room, opening, proofs (about 10 minutes)
	HOLDFAST_AUDIT_ENTRIES=1000000 $(GO) test -count 1 -v -timeout 60m -run '^TestScale$$' ./internal/audit

.PHONY: audit-latency
audit-latency: audit-tools ## How long an entry waits on S3 and MySQL of this machine
	HOLDFAST_AUDIT_ENTRIES=1000 $(GO) test -count 1 -v -run '^Test$$/^Latency$$' ./internal/audit/bucket/s3

.PHONY: audit-cost
audit-cost: devcluster ## What the audit log adds to a sync on a real API server
	HOLDFAST_AUDIT_SYNCS=200 $(GO) test -count 1 -v -run '^TestAuditCost$$' ./internal/delivery

.PHONY: lint
lint: $(BIN)/golangci-lint ## Format, vet and lint, strictly
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { echo "not gofmt'ed:"; gofmt -l $$(git ls-files '*.go'); exit 1; }
	@# Without cgo the linters share what the binary and the end-to-end tests are built of.
	CGO_ENABLED=0 $(BIN)/golangci-lint run ./...

$(BIN)/golangci-lint: tools/lint/go.mod
	CGO_ENABLED=0 $(GO) -C tools/lint build -o $(CURDIR)/$(BIN)/golangci-lint github.com/golangci/golangci-lint/v2/cmd/golangci-lint

.PHONY: generate
generate: ## Regenerate deepcopy functions and CRDs from the API types
	$(GO) generate ./api/... ./deploy/...

# The releases of which `holdfast check` knows the schemas: the last of each of the last four minors, oldest first.
KUBERNETES ?= v1.34.4 v1.35.4 v1.36.3 v1.37.2

.PHONY: schemas
schemas: ## Regenerate the table of defaults and the schemas of Kubernetes' kinds, and compare with its own functions (minutes)
	@mkdir -p $(BIN)
	cd devcluster && CGO_ENABLED=0 $(GO) build -o ../$(BIN)/defaults ./cmd/defaults
	cd devcluster && ../$(BIN)/defaults table > ../$(BIN)/table.txt && mv ../$(BIN)/table.txt ../internal/schema/defaults/table.txt
	cd devcluster && ../$(BIN)/defaults samples --seed 2 --count 20 > ../$(BIN)/samples.jsonl
	HOLDFAST_DEFAULTS_SAMPLES=$(CURDIR)/$(BIN)/samples.jsonl $(GO) test -count 1 -run '^Test(Rules|Samples)$$' ./internal/schema/defaults
	rm $(BIN)/samples.jsonl
	$(GO) -C tools run ./schemas ../internal/schema/openapi/openapi.txt.gz ../internal/schema/defaults/table.txt $(KUBERNETES)
	$(GO) test -count 1 -short ./internal/schema/...

.PHONY: clean
clean: ## Remove what the build made here
	rm -rf $(BIN) dist
