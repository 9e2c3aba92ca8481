# fnbridge's tasks. The line behind ## is a target's help: `make` alone lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory

GO ?= go
VERSION ?= $(shell git describe --tags --match 'v*' --dirty 2>/dev/null || echo dev)
REVISION ?= $(shell git rev-parse HEAD 2>/dev/null)
LDFLAGS := -s -w -X main.version=$(VERSION) -X main.revision=$(REVISION)

# What a run of the tests covers, and how long one package may take. Unless it says otherwise, the module in test/ is covered too.
PKG ?= ./...
TEST_TIMEOUT ?= 30m
RACE_TIMEOUT ?= 60m
# Most tests wait most of the time, for brokers, elections and timeouts: more run at once than there are processors.
SIDE_BY_SIDE := -p 3 -parallel 4
FUZZTIME ?= 30s
# Which parts of make bench to run, separated by commas; empty: all. Which Go benchmarks, and against which commit to compare them.
PARTS ?=
BENCH ?= .
BASE ?= HEAD
BENCH_COUNT ?= 6
PHASE ?= 30s
SCALING ?= 15s
# How often make recovery tries each fault, and which: parts of their names, separated by commas; empty: all.
TRIES ?= 20
FAULTS ?=
# A schedule of make torture to repeat.
SEED ?= 0

# The linter, in the one version that counts. It is kept outside the clone, since building it takes minutes.
GOLANGCI_LINT_VERSION := v2.15.0
TOOLS := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/fnbridge/tools
GOLANGCI_LINT := $(TOOLS)/golangci-lint-$(GOLANGCI_LINT_VERSION)/golangci-lint
# So is the scanner for known vulnerabilities.
GOVULNCHECK_VERSION := v1.9.0
GOVULNCHECK := $(TOOLS)/govulncheck-$(GOVULNCHECK_VERSION)/govulncheck

# The oldest servers that the README promises. The newest are those of go.mod and of sinks/sinktest/apachekafka.
OLDEST_NATS := v2.9.25
OLDEST_KAFKA := 3.9.1
NATS_SERVER := $(TOOLS)/nats-server-$(OLDEST_NATS)/nats-server

# What checks the chart and the workflows, kept in the same place. The build tag leaves the service discovery of all clouds out of promtool.
HELM_VERSION := v4.3.1
HELM_DOCS_VERSION := v1.14.2
PROMTOOL_VERSION := v0.316.0
ACTIONLINT_VERSION := v1.7.12
HELM := $(TOOLS)/helm-$(HELM_VERSION)/helm
HELM_DOCS := $(TOOLS)/helm-docs-$(HELM_DOCS_VERSION)/helm-docs
PROMTOOL := $(TOOLS)/promtool-$(PROMTOOL_VERSION)/promtool
ACTIONLINT := $(TOOLS)/actionlint-$(ACTIONLINT_VERSION)/actionlint
CHART := charts/fnbridge

# The version that make release is for.
RELEASE ?=
# Which of its platforms, as os/arch; empty: all.
PLATFORMS ?=
# Where make helm-push puts the chart.
REGISTRY ?= oci://ghcr.io/fnbridge/charts

IMAGE ?= ghcr.io/fnbridge/fnbridge
TAG ?= dev

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: build ## build the bridge and start it, with NATS inside and its data in ./data
	bin/fnbridge serve

.PHONY: build
build: ## build bin/fnbridge: static, stripped, version stamped
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/fnbridge ./cmd/fnbridge

# go test shows why a test was skipped only with -v; a whole missing broker deserves a line.
define say_kafka
	if ! command -v java >/dev/null || ! command -v mvn >/dev/null; then \
		echo "Java 17 or Maven is not installed: the tests against a real Apache Kafka $(1) skipped (kfake speaks its protocol in the others)."; \
	fi
endef

# Both modules side by side, with $(1) as flags of go test; the root alone when PKG names packages of it.
go_tests = $(MAKE) --jobs=2 --keep-going GO_TEST='$(GO) test $(SIDE_BY_SIDE) $(1)' test-root $(if $(filter ./...,$(PKG)),test-module)

.PHONY: test
test: ## run every test, against a real Apache Kafka too where Java and Maven are
	@$(call say_kafka,will be)
	@$(call go_tests,-timeout $(TEST_TIMEOUT))
	@$(call say_kafka,were)

# With the race detector, each process would sleep for a second at its end, and some tests start a hundred.
.PHONY: race
race: ## run every test under the race detector (needs a C compiler)
	@$(call say_kafka,will be)
	@CGO_ENABLED=1 GORACE=atexit_sleep_ms=0 $(call go_tests,-race -timeout $(RACE_TIMEOUT))

.PHONY: test-root test-module
test-root:
	$(GO_TEST) $(PKG)
test-module:
	cd test && $(GO_TEST) ./...

# All parts together write the page of documentation; some of them, or with profiles, only dist/bench.
BENCH_OUT = $(CURDIR)/$(if $(PARTS),dist/bench,docs)

.PHONY: versions oldest-nats
versions: oldest-nats ## run the conformance suite on the oldest and the newest NATS server and Kafka that are supported
	@$(call say_kafka,will be)
	@for version in $(OLDEST_KAFKA) ''; do \
		FNBRIDGE_TEST_KAFKA_VERSION=$$version $(GO) test -count=1 -timeout $(TEST_TIMEOUT) -run '^TestApacheKafka$$/^conformance$$' ./sinks/kafka; \
	done
	$(GO) test -count=1 -timeout $(TEST_TIMEOUT) -run '^TestSingleServer$$' ./sinks/nats
oldest-nats: $(NATS_SERVER)
	FNBRIDGE_TEST_NATS_SERVER='$(NATS_SERVER)' $(GO) test -count=1 -timeout $(TEST_TIMEOUT) -run '^TestServerOfAnotherVersion$$' ./sinks/nats

$(NATS_SERVER):
	GOBIN='$(@D)' $(GO) install github.com/nats-io/nats-server/v2@$(OLDEST_NATS)

.PHONY: bench
bench: ## measure the bridge as a process beside real brokers, in about ten minutes, and write docs/performance.md (PARTS=limit,drain: dist/bench)
	@$(call say_kafka,will be)
	cd test && $(GO) test -count=1 -v -run '^TestBench$$' -timeout 60m ./bench \
		-bench.full -bench.parts='$(PARTS)' -bench.out='$(BENCH_OUT)'

.PHONY: bench-profiles
bench-profiles: ## the same with CPU and heap profiles of the bridge, into dist/bench (PARTS=limit,drain)
	@$(call say_kafka,will be)
	cd test && $(GO) test -count=1 -v -run '^TestBench$$' -timeout 60m ./bench \
		-bench.full -bench.parts='$(PARTS)' -bench.out='$(CURDIR)/dist/bench' -bench.profiles='$(CURDIR)/dist/bench/profiles'

.PHONY: bench-go
bench-go: ## run the Go benchmarks (BENCH=name, PKG=./bridge/...)
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem -timeout $(TEST_TIMEOUT) $(PKG)

# The two commits take turns, so that what else the machine does touches both.
BENCHSTAT_VERSION := v0.0.0-20260908200009-22c9c6c9d4da

.PHONY: bench-compare
bench-compare: ## compare the Go benchmarks of this tree with those of another commit, all of them in about ten minutes (BASE=rev, BENCH=name, PKG=./bridge/...)
	@mkdir -p dist/bench-compare
	@git worktree remove --force dist/bench-compare/base 2>/dev/null || true
	git worktree add --quiet --detach dist/bench-compare/base '$(BASE)'
	@trap 'git worktree remove --force dist/bench-compare/base' EXIT; \
	: >dist/bench-compare/base.txt; : >dist/bench-compare/head.txt; \
	for i in $$(seq $(BENCH_COUNT)); do \
		(cd dist/bench-compare/base && $(GO) test -run '^$$' -bench '$(BENCH)' -benchmem -timeout $(TEST_TIMEOUT) $(PKG)) >>dist/bench-compare/base.txt; \
		$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem -timeout $(TEST_TIMEOUT) $(PKG) >>dist/bench-compare/head.txt; \
	done; \
	$(GO) run golang.org/x/perf/cmd/benchstat@$(BENCHSTAT_VERSION) dist/bench-compare/base.txt dist/bench-compare/head.txt

.PHONY: fuzz
fuzz: ## run each fuzz target for FUZZTIME (30s)
	bash .ci/fuzz $(FUZZTIME)

.PHONY: torture
torture: ## break everything at least once under load, and account for every event (SEED=n repeats a run)
	@$(call torture,3m,60m)

.PHONY: torture-long
torture-long: ## the same for an hour each: one bridge with a journal, and replicas without one
	@$(call torture,60m,180m)

# $(1) is how long it goes on breaking things, $(2) when it counts as hanging altogether. The report is in dist/torture.
define torture
	if ! command -v java >/dev/null || ! command -v mvn >/dev/null; then \
		echo "Java 17 or Maven is not installed: without a real Apache Kafka there is no torture run."; \
	fi; \
	cd test && $(GO) test -count=1 -v -run '^TestTorture(Replicas)?$$' -timeout $(2) ./torture \
		-torture=$(1) -torture.seed=$(SEED) -torture.report='$(CURDIR)/dist/torture'
endef

# All faults together write the section of the page, some of them only show their figures.
.PHONY: recovery
recovery: ## measure how soon events are stored again after each fault of a broker, and how many twice, in about an hour, into docs/performance.md (TRIES=20, FAULTS='cable,far away')
	@$(call say_kafka,will be)
	cd test && $(GO) test -count=1 -v -run '^TestRecovery$$' -timeout 6h ./recovery \
		-recovery=$(TRIES) -recovery.only='$(FAULTS)' $(if $(FAULTS),,-recovery.out='$(CURDIR)/docs')

.PHONY: isolation
isolation: ## measure what a sink that hangs costs the senders and the other sink, in about 8 minutes (PHASE=30s)
	@$(call say_kafka,will be)
	$(GO) test -count=1 -v -run '^TestIsolation$$' -timeout 60m ./bridge/app \
		-isolation=$(PHASE) -isolation.report='$(CURDIR)/dist/isolation'

.PHONY: scaling
scaling: ## measure both ways to acknowledge, and one to three bridges, in about 4 minutes (SCALING=15s)
	@$(call say_kafka,will be)
	cd test && $(GO) test -count=1 -v -run '^TestScaling$$' -timeout 60m ./torture \
		-scaling=$(SCALING) -torture.report='$(CURDIR)/dist/scaling'

.PHONY: lint
lint: $(GOLANGCI_LINT) ## run golangci-lint, format included, and look for long lines in documents
	bash .ci/prose
	$(GOLANGCI_LINT) run ./...
	cd test && $(GOLANGCI_LINT) run ./...

# golangci-lint holds gosec, in the version that belongs to its own, and knows the reasons for each exception.
.PHONY: scan
scan: $(GOLANGCI_LINT) $(GOVULNCHECK) ## look for insecure code (gosec) and known vulnerabilities (govulncheck)
	$(GOLANGCI_LINT) run --enable-only gosec ./...
	bash .ci/scan '$(GOVULNCHECK)' '$(TOOLS)'

.PHONY: chart
chart: $(HELM) $(PROMTOOL) $(GOLANGCI_LINT) ## lint the Helm chart, and test it as a cluster would take it
	@for values in $(CHART)/ci/*-values.yaml $(CHART)/examples/*-values.yaml; do \
		echo "helm lint --strict $$values"; $(HELM) lint --strict --quiet $(CHART) --values "$$values"; \
	done
	cd $(CHART)/tests && $(GOLANGCI_LINT) run ./...
	cd $(CHART)/tests && PROMTOOL=$(PROMTOOL) $(GO) test -timeout $(TEST_TIMEOUT) ./...

.PHONY: chart-generate
chart-generate: $(HELM_DOCS) ## write the chart's generated files anew: schema of the values, README, golden files
	cd $(CHART)/tests && $(GO) test -count=1 -run 'IsCurrent$$' . -update # what the golden files are rendered with
	cd $(CHART)/tests && $(GO) test -count=1 -run 'Stays$$' . -update
	$(HELM_DOCS) --chart-search-root $(CHART) --template-files README.md.gotmpl --template-files variables.gotmpl --log-level warning

.PHONY: deploy-examples
deploy-examples: $(GOLANGCI_LINT) ## test the compose file and the systemd unit of docs/deploy.md
	cd docs/examples/tests && $(GOLANGCI_LINT) run ./...
	cd docs/examples/tests && $(GO) test -timeout $(TEST_TIMEOUT) ./...

.PHONY: workflows
workflows: $(ACTIONLINT) ## lint the workflows of GitHub, and look for actions that are not pinned
	$(ACTIONLINT)
	@if grep -n 'uses: [^.]' .github/workflows/*.yml | grep -v '@[0-9a-f]\{40\} # v'; then \
		echo "A tag can be moved: pin these by the commit of their tag, as in uses: NAME@COMMIT # TAG." >&2; exit 1; \
	fi

.PHONY: fmt
fmt: $(GOLANGCI_LINT) ## format the code
	$(GOLANGCI_LINT) fmt

.PHONY: generate
generate: ## write the generated files anew: golden files, event and metric pages, schemas and AsyncAPI document, tables of variables
	$(GO) generate ./...
	cd test && $(GO) generate ./...

.PHONY: image
image: ## build the container image IMAGE:TAG with docker, podman or buildah, whichever works
	@if docker info >/dev/null 2>&1; then set -- docker build; \
	elif command -v podman >/dev/null; then set -- podman build --format docker; \
	elif command -v buildah >/dev/null; then set -- buildah build --format docker; \
	else echo "make image needs docker (with its daemon running), podman or buildah, and finds none of them." >&2; exit 1; \
	fi; set -x; \
	"$$@" --build-arg VERSION='$(VERSION)' --build-arg REVISION='$(REVISION)' --tag '$(IMAGE):$(TAG)' .

.PHONY: release
release: $(HELM) ## make the files of a release in dist/release: archives, chart, checksums (RELEASE=v1.2.3)
	HELM='$(HELM)' PLATFORMS='$(PLATFORMS)' bash .ci/release '$(RELEASE)'

.PHONY: helm-push
helm-push: $(HELM) ## push the chart of a release that make release has made (RELEASE=v1.2.3, REGISTRY=oci://…)
	$(HELM) push 'dist/release/fnbridge-$(RELEASE:v%=%).tgz' '$(REGISTRY)'

.PHONY: ci
ci: ## run what CI runs: all of the above, in a clean clone too
	CI=true bash .ci/run

.PHONY: clean
clean: ## remove what the build made; ./data stays, it holds events
	rm -rf bin dist

# Each of these takes seconds to minutes to build, this once.
$(HELM):
	GOBIN='$(@D)' $(GO) install helm.sh/helm/v4/cmd/helm@$(HELM_VERSION)

$(HELM_DOCS):
	GOBIN='$(@D)' $(GO) install github.com/norwoodj/helm-docs/cmd/helm-docs@$(HELM_DOCS_VERSION)

$(PROMTOOL):
	GOBIN='$(@D)' $(GO) install -tags remove_all_sd github.com/prometheus/prometheus/cmd/promtool@$(PROMTOOL_VERSION)

$(ACTIONLINT):
	GOBIN='$(@D)' $(GO) install github.com/rhysd/actionlint/cmd/actionlint@$(ACTIONLINT_VERSION)

# An installed golangci-lint of the right version is copied; otherwise it is built once.
$(GOLANGCI_LINT):
	@mkdir -p $(@D)
	@for found in "$$(command -v golangci-lint || true)" "$$($(GO) env GOPATH)/bin/golangci-lint"; do \
		if [ -x "$$found" ] && "$$found" version 2>/dev/null | grep -qwF 'version $(GOLANGCI_LINT_VERSION:v%=%)'; then \
			cp "$$found" $@.partial && mv $@.partial $@; exit 0; \
		fi; \
	done; \
	echo "Building golangci-lint $(GOLANGCI_LINT_VERSION), which takes a few minutes this once."; \
	GOBIN='$(@D)' $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT_VERSION)

$(GOVULNCHECK):
	GOBIN='$(@D)' $(GO) install golang.org/x/vuln/cmd/govulncheck@$(GOVULNCHECK_VERSION)
