# Everything that is built or fetched goes into build/; nothing is installed.

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build

GOLANGCI_VERSION := v2.15.0
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)

export PATH := $(CURDIR)/build/tools/bin:$(PATH):/usr/sbin:/sbin

# The race detector needs a C compiler.
RACE := $(if $(shell command -v "$$(go env CC)"),-race)
# Extra flags for go test, such as -v or -run.
TESTFLAGS ?=
GO_TEST = go test -timeout 40m $(TESTFLAGS)
GO_TEST_RACE = CGO_ENABLED=$(if $(RACE),1,0) $(GO_TEST) $(RACE)
# All packages, the one whose tests take longest first: the others run beside it.
PACKAGES = ./internal/live ./...
# What must also build where there is no Linux kernel to watch.
PORTABLE := ./packet ./internal/engine ./capture ./nat ./ruletrace ./report ./internal/owner ./internal/path ./internal/memory ./internal/flows ./internal/diagnose ./internal/doctor ./internal/textlog ./internal/container ./internal/offline ./internal/recording ./internal/evidence ./internal/answer ./internal/cli ./cmd/pathtrace

# make: the static program, build/pathtrace
.PHONY: build
build:
	CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '-s -w -X github.com/pathtrace/pathtrace/internal/cli.version=$(VERSION)' -o build/pathtrace ./cmd/pathtrace

# make demo: a network of its own, one packet through it, explained; no root needed
.PHONY: demo
demo: build tools
	build/pathtrace demo ipv6-masquerade

# make test: all checks and tests, as root (when it is root who asks) and as an
# ordinary user in user namespaces; changes nothing on the machine. The race
# detector, which makes them slow, has the first of the two.
.PHONY: test
test: tools peers lint
	@$(if $(RACE),:,echo 'test: no C compiler, so no race detector' >&2)
ifeq ($(shell id -u),0)
	failed=0; \
	$(GO_TEST_RACE) $(PACKAGES) || failed=1; \
	CGO_ENABLED=0 $(GO_TEST) -exec '$(CURDIR)/scripts/as-user.sh' $(PACKAGES) || failed=1; \
	exit $$failed
else
	$(GO_TEST_RACE) -exec '$(CURDIR)/scripts/as-user.sh' $(PACKAGES)
endif

# make lint: go vet (also for systems other than Linux, and the program built for
# them), golangci-lint, and whether the tests that docs/kernel-facts.md names exist
.PHONY: lint
lint: build/bin/golangci-lint-$(GOLANGCI_VERSION)
	go vet ./...
	for os in darwin windows; do \
		GOOS=$$os CGO_ENABLED=0 go vet $(PORTABLE); \
		GOOS=$$os CGO_ENABLED=0 go build -o /dev/null ./cmd/pathtrace; done
	$< run --allow-parallel-runners
	for test in $$(grep -oP '(?<=`)Test\w+' docs/kernel-facts.md | sort -u); do \
		grep -rqE --include='*_test.go' "^func $$test\(" . || { echo "docs/kernel-facts.md: there is no $$test" >&2; exit 1; }; done

# make bench: the size of the program and the benchmarks (docs/performance.md);
# BENCH=regexp chooses some
BENCH ?= .
.PHONY: bench
bench: build tools
	@stat --format '%n has %s bytes' build/pathtrace
	go test -run '^$$' -bench '$(BENCH)' -timeout 1h $(TESTFLAGS) ./...

# make accuracy: how often pathtrace is right, on RUNS random networks for each
# cause, drawn from SEED, into docs/accuracy.md; ONLY=NUMBER repeats one of them
SEED ?= 1
RUNS ?= 20
.PHONY: accuracy
accuracy: tools
ifdef ONLY
	go test ./internal/accuracy -run '^TestAccuracy$$/^runs$$/^$(ONLY)$$' -count=1 -v $(TESTFLAGS) -args -seed '$(SEED)' -runs '$(RUNS)'
else
	go test ./internal/accuracy -run '^TestAccuracy$$' -count=1 -timeout 3h $(TESTFLAGS) \
		-args -seed '$(SEED)' -runs '$(RUNS)' -write '$(CURDIR)/docs/accuracy.md'
	sed -n '/^## Results/,$$p' docs/accuracy.md
endif

# make fuzz: each fuzz target FUZZTIME times. A number of runs, not a time: at
# the end of a time go test may fail with "context deadline exceeded" although
# nothing was found (golang/go#75804).
FUZZTIME ?= 2000x
.PHONY: fuzz
fuzz: tools
	grep -roP --include='*_test.go' --exclude-dir=build '(?<=^func )Fuzz\w+' . | \
		while IFS=: read -r file target; do go test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x "$${file%/*}"; done

# make tools: nft, iptables, conntrack, tcpdump, capinfos and tshark into build/tools, where they are missing
.PHONY: tools
tools:
	scripts/tools.sh build/tools

# make peers: real container engines, firewalld, OpenVPN, FRR and dnf into
# build/peers for the tests of root, 700 MB; elsewhere those tests are skipped
.PHONY: peers
peers:
	@[ "$$(id -u)" != 0 ] || scripts/peers.sh build/peers || echo 'peers: going on without them' >&2

# make test-deps: the same tools installed by apt-get instead, no service started; needs root
.PHONY: test-deps
test-deps:
	scripts/test-deps.sh

build/bin/golangci-lint-$(GOLANGCI_VERSION):
	GOBIN='$(CURDIR)/build/bin' go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)
	mv build/bin/golangci-lint '$@'
