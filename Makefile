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
GO_TEST = CGO_ENABLED=$(if $(RACE),1,0) go test $(RACE) -timeout 20m $(TESTFLAGS)
# What must also build where there is no Linux kernel to watch.
PORTABLE := ./packet ./capture ./nat ./ruletrace ./report ./internal/path ./internal/diagnose ./internal/doctor

# make: the static program, build/pathtrace
.PHONY: build
build:
	CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '-s -w -X github.com/pathtrace/pathtrace/internal/cli.version=$(VERSION)' -o build/pathtrace ./cmd/pathtrace

# make demo: a network of its own, one packet through it, explained; no root needed
.PHONY: demo
demo: build tools
	build/pathtrace demo ipv6-masquerade

# make test: all checks and tests, as root (when it is root who asks) and as an
# ordinary user in user namespaces; changes nothing on the machine
.PHONY: test
test: tools lint
	@$(if $(RACE),:,echo 'test: no C compiler, so no race detector' >&2)
	@[ "$$(id -u)" != 0 ] || { set -x; $(GO_TEST) ./...; }
	$(GO_TEST) -exec '$(CURDIR)/scripts/as-user.sh' ./...

# make lint: go vet (also for systems other than Linux), golangci-lint, and whether
# the tests that docs/kernel-facts.md names exist
.PHONY: lint
lint: build/bin/golangci-lint-$(GOLANGCI_VERSION)
	go vet ./...
	for os in darwin windows; do GOOS=$$os CGO_ENABLED=0 go vet $(PORTABLE); done
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

# make fuzz: each fuzz target for FUZZTIME
FUZZTIME ?= 20s
.PHONY: fuzz
fuzz: tools
	grep -roP --include='*_test.go' --exclude-dir=build '(?<=^func )Fuzz\w+' . | \
		while IFS=: read -r file target; do go test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) "$${file%/*}"; done

# make tools: nft, iptables, conntrack and tcpdump into build/tools, where they are missing
.PHONY: tools
tools:
	scripts/tools.sh build/tools

# make test-deps: the same tools installed by apt-get instead, no service started; needs root
.PHONY: test-deps
test-deps:
	scripts/test-deps.sh

build/bin/golangci-lint-$(GOLANGCI_VERSION):
	GOBIN='$(CURDIR)/build/bin' go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)
	mv build/bin/golangci-lint '$@'
