# make builds, make help lists. Only `make deps` (and so `make test`) installs
# anything, and only as root; nothing else needs root.

SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := build
MAKEFLAGS += --no-print-directory

OUT     ?= bin
PREFIX  ?= /usr/local
DESTDIR ?=
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
FUZZTIME ?= 30s

# Whether to install an AppArmor profile: where it is understood, unless said.
APPARMOR ?= $(if $(wildcard $(DESTDIR)/etc/apparmor.d/abi/4.0),yes,no)
FUZZ    ?=
SOAKTIME ?= 10m
STARTS  ?= 1000
BENCH   ?=

# A build is the same on every machine: static, no paths, and the version from
# git only, given here.
GO      ?= go
LDFLAGS := -s -w -X main.version=$(VERSION)
GOBUILD := CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)'

TOOLS   := out/tools
SUMMARY := $(TOOLS)/summary
QUIC    := $(TOOLS)/quic

# What needs namespaces of its own, and what only measures.
E2E  := ./test/e2e/... ./test/callers/... ./test/lab/...
UNIT  = $$($(GO) list ./... | grep -v -e /test/e2e -e /test/callers -e /test/lab -e /test/bench -e /test/rules)

.PHONY: build
build: ## build bin/taproot (the default; OUT=DIR for elsewhere)
	@mkdir -p $(OUT)
	$(GOBUILD) -o $(OUT)/taproot ./cmd/taproot

.PHONY: demo
demo: build ## show it: git clones over HTTP out of a new namespace
	@$(GO) run ./test/demo bin/taproot

.PHONY: test
test: deps ## run everything that CI runs; as root it installs what it needs
	@$(MAKE) -k check e2e

.PHONY: deps
deps:
	@internal/tools/deps.sh

.PHONY: check
check: lint unit cross ## lint, unit tests and the build for arm64

.PHONY: unit
unit: $(SUMMARY) ## unit tests with the race detector
	@echo '== unit tests'
	@CGO_ENABLED=1 $(GO) test -json -race -shuffle=on -timeout=10m $(UNIT) | $(SUMMARY) -o out/counts.unit
	@echo '== tests of allocations, which the race detector would spoil'
	@$(GO) test -json -run 'Allocations$$$$' ./stack/... ./tap/... | $(SUMMARY) -o out/counts.allocations

.PHONY: e2e
e2e: $(SUMMARY) build ## tests in real namespaces, as an ordinary user
	@echo '== end-to-end tests'
	@$(GO) test -json -count=1 -timeout=15m $(E2E) | $(SUMMARY) -o out/counts.e2e

.PHONY: soak
soak: build ## use and disturb an instance for SOAKTIME (10m), start and stop 1,000 times
	@SOAKTIME='$(SOAKTIME)' TAPROOT_STARTS='$(STARTS)' TAPROOT_SLOW=1 \
	    $(GO) test -count=1 -v -timeout=60m -run '^Test(Soak|Starts|Attachments|Suspended|PublishHalfOpen)$$' ./test/e2e

.PHONY: cross
cross:
	@echo '== build for arm64'
	@GOARCH=arm64 $(GOBUILD) -o out/taproot-arm64 ./cmd/taproot

.PHONY: lint
lint: static rules ## gofmt, vet, staticcheck, checklocks, test/rules

.PHONY: static
static: tools
	@echo '== gofmt, vet, staticcheck, checklocks'
	@unformatted=$$(gofmt -l .); [ -z "$$unformatted" ] || { echo "gofmt -w $$unformatted" >&2; exit 1; }
	@$(GO) vet ./...
	@$(TOOLS)/staticcheck ./...
	@$(GO) vet -vettool=$(CURDIR)/$(TOOLS)/checklocks ./...

.PHONY: rules
rules: $(SUMMARY)
	@echo '== rules of the repository'
	@$(GO) test -json -count=1 ./test/rules | $(SUMMARY) -o out/counts.rules

.PHONY: tools
tools:
	@mkdir -p $(TOOLS)
	@$(GO) build -C internal/tools -o $(CURDIR)/$(TOOLS)/ tool

.PHONY: $(SUMMARY)
$(SUMMARY):
	@mkdir -p $(TOOLS)
	@$(GO) build -o $@ ./test/summary

.PHONY: fuzz
fuzz: ## each fuzz target for FUZZTIME (30s), as many at once as processors
	@GO='$(GO)' internal/tools/fuzz.sh '$(FUZZTIME)' '$(FUZZ)'

.PHONY: fuzz-long
fuzz-long: ## each fuzz target for an hour (FUZZ='PACKAGE TARGET' for some)
	@GO='$(GO)' internal/tools/fuzz.sh '$(if $(filter command line environment,$(origin FUZZTIME)),$(FUZZTIME),1h)' '$(FUZZ)'

.PHONY: bench
bench: build $(QUIC) ## measure against slirp4netns, pasta and the kernel (BENCH=-quick)
	@internal/tools/deps.sh bench
	@$(GO) run ./test/bench -taproot bin/taproot -quic $(QUIC) $(BENCH)

.PHONY: bench-publish
bench-publish: build $(QUIC) ## keep a run as RUN.json, RUN.md and RUN.svg (RUN=docs/benchmarks/NAME)
	@[ -n '$(RUN)' ] || { echo 'make bench-publish RUN=docs/benchmarks/NAME' >&2; exit 2; }
	@internal/tools/deps.sh bench
	@$(GO) run ./test/bench -taproot bin/taproot -quic $(QUIC) -format json $(BENCH) >'$(RUN).json'
	@$(GO) run ./test/bench -render '$(RUN).json' -format markdown >'$(RUN).md'
	@$(GO) run ./test/bench -render '$(RUN).json'
	@$(MAKE) bench-plot RUN='$(RUN)'

.PHONY: bench-compare
bench-compare: $(QUIC) ## measure OLD against NEW, binaries or commits, in turns (BENCH='-rows tcp')
	@test/bench/compare.sh '$(OLD)' '$(NEW)' -quic $(QUIC) $(BENCH)

.PHONY: bench-plot
bench-plot: ## draw RUN.json as RUN.svg (RUN=docs/benchmarks/NAME, default the last)
	@run='$(or $(RUN),$(basename $(lastword $(sort $(wildcard docs/benchmarks/*.json)))))' && \
	    $(GO) run -C test/bench/plot . "$$(realpath "$$run.json")" "$$(realpath "$$run.svg")" && echo "$$run.svg"

.PHONY: bench-check
bench-check: ## vet and test the modules that only the benchmark uses
	@for module in quic plot; do $(GO) vet -C test/bench/$$module ./... && $(GO) test -C test/bench/$$module ./...; done

# Without its module the benchmark goes on, and says that it has no QUIC.
.PHONY: $(QUIC)
$(QUIC):
	@CGO_ENABLED=0 $(GO) build -C test/bench/quic -o $(CURDIR)/$@ . || echo 'the QUIC load generator is not built' >&2

.PHONY: man
man: ## compress the man pages into bin/ (OUT)
	@mkdir -p $(OUT)
	@for page in docs/man/*.1; do gzip -9 -n -c $$page >$(OUT)/$${page##*/}.gz; done

# Where install puts what.
TO     = $(DESTDIR)$(PREFIX)
PUT   := install -D -m 0644 /dev/stdin
ALIASES := slirp4netns pasta pesto

.PHONY: install
install: build man ## install under PREFIX (/usr/local) of DESTDIR
	install -D -m 0755 $(OUT)/taproot $(TO)/bin/taproot
	install -D -m 0644 -t $(TO)/share/man/man1 $(OUT)/*.1.gz
	install -d $(TO)/libexec/taproot
	for name in $(ALIASES); do ln -sf ../../bin/taproot $(TO)/libexec/taproot/$$name; done
	sed 's|@BINDIR@|$(PREFIX)/bin|' docs/systemd/taproot@.service | $(PUT) $(TO)/lib/systemd/user/taproot@.service
	$(OUT)/taproot completion bash | $(PUT) $(TO)/share/bash-completion/completions/taproot
	$(OUT)/taproot completion zsh | $(PUT) $(TO)/share/zsh/site-functions/_taproot
	$(OUT)/taproot completion fish | $(PUT) $(TO)/share/fish/vendor_completions.d/taproot.fish
ifeq ($(APPARMOR),yes)
	sed 's,@BINDIR@,$(PREFIX)/bin,' contrib/apparmor/taproot | $(PUT) $(DESTDIR)/etc/apparmor.d/taproot
endif

.PHONY: uninstall
uninstall: ## remove what install has put there
	rm -f $(TO)/bin/taproot $(patsubst docs/man/%,$(TO)/share/man/man1/%.gz,$(wildcard docs/man/*.1))
	rm -f $(ALIASES:%=$(TO)/libexec/taproot/%) $(TO)/lib/systemd/user/taproot@.service
	rm -f $(TO)/share/bash-completion/completions/taproot $(TO)/share/zsh/site-functions/_taproot
	rm -f $(TO)/share/fish/vendor_completions.d/taproot.fish $(DESTDIR)/etc/apparmor.d/taproot
	if [ -d $(TO)/libexec/taproot ]; then rmdir --ignore-fail-on-non-empty $(TO)/libexec/taproot; fi

.PHONY: release
release: ## check that this commit can be a release, and build it into out/release
	@internal/tools/release.sh '$(VERSION)'

.PHONY: clean
clean: ## remove what make built
	rm -rf bin out

.PHONY: help
help: ## print this list
	@awk -F ': .*## |: ## ' '/^[a-z0-9-]+:.* ## / { printf "  %-13s  %s\n", $$1, $$2 }' Makefile
