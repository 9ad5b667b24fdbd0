# boxlite: what to build and how to check it. `make help` lists the targets.
SHELL       := /bin/bash
GOARCH      ?= $(shell go env GOARCH)
ARCH        := $(patsubst arm64,aarch64,$(patsubst amd64,x86_64,$(GOARCH)))
VERSION     ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
ASSETS      := pkg/runtime/internal/assets/files
KERNEL      := build/kernel/vmlinux-$(ARCH)
INITRAMFS   := build/initramfs-$(ARCH).cpio
GOFILES     := $(shell git ls-files -co --exclude-standard '*.go' '*.s' go.mod go.sum 2>/dev/null)
FUZZTIME    ?= 5s
export CGO_ENABLED := 0

.PHONY: all help build kernel initramfs pin images large-images examples run test lint unit fuzz test-kvm test-all bench clean

all: build ## build everything: kernel, initramfs and the boxlite binary

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

build: build/boxlite ## the boxlite binary, with kernel and initramfs inside

build/boxlite: $(ASSETS)/vmlinux.zst $(ASSETS)/initramfs.cpio.zst $(GOFILES)
	go build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o $@ ./cmd/boxlite

$(ASSETS)/vmlinux.zst: $(KERNEL)
	testdata/tools/embed $(KERNEL) $@

$(ASSETS)/initramfs.cpio.zst: $(INITRAMFS)
	testdata/tools/embed $(INITRAMFS) $@

kernel: $(KERNEL) ## the guest kernel (minutes the first time, then cached)

$(KERNEL): $(wildcard kernel/config/* kernel/patches/* kernel/Makefile kernel/*.sh)
	$(MAKE) -C kernel
	@touch $@

initramfs: $(INITRAMFS) ## the guest's init and agent

$(INITRAMFS): $(filter initramfs/% pkg/agentapi/% pkg/ethtool/% go.mod,$(GOFILES))
	go run ./initramfs/pack -o $@

# What the artifact holds: ARCH=KERNEL.zst,INITRAMFS.zst,CONFIG for each architecture. A release lists all.
PIN_BUILDS  ?= $(GOARCH)=$(ASSETS)/vmlinux.zst,$(ASSETS)/initramfs.cpio.zst,kernel/config/$(ARCH).config

pin: $(ASSETS)/vmlinux.zst $(ASSETS)/initramfs.cpio.zst ## the kernel artifact as an OCI layout; REPOSITORY=… RELEASE=… also pin this tree to it
	go run ./pkg/runtime/internal/assets/pin -o build/kernel-artifact $(if $(RELEASE),-version $(RELEASE)) \
	  $(if $(REPOSITORY),-repository $(REPOSITORY) -pin pkg/runtime/internal/assets/pin.go) $(PIN_BUILDS)

images: build/images/.done ## the Debian and busybox images of `make run` and the tests

build/images/.done: $(wildcard testdata/images/* testdata/images/*/*)
	testdata/images/build
	@touch $@

large-images: build ## the images of real programs that a few tests use, as these use them
	testdata/tools/large-images debian-programs

run: build images ## run Debian's python3 in a box, here and now
	testdata/run build/images/debian-python -- python3 -c 'import platform; print(platform.uname())'

test: ## all tests that CI runs
	testdata/tools/test

lint: ## gofmt, vet for every target, staticcheck
	testdata/tools/lint

unit: ## unit tests with the race detector, and the long ones of volumes and networks without
	CGO_ENABLED=1 go test -race -p 2 -timeout 15m ./... ./testdata/rig/...
	BOXLITE_SOAK=1 go test -timeout 15m -run '^(TestRandom|TestHostile46Races|TestPackages|TestChecksums|TestPosix)' ./pkg/virtio/fs
	BOXLITE_SOAK=1 go test -timeout 15m ./pkg/runtime/internal/netstack/...

fuzz: ## every fuzz target for FUZZTIME
	testdata/tools/fuzz $(FUZZTIME)

examples: build/examples/.done ## the programs below examples

build/examples/.done: build/boxlite $(filter examples/%,$(GOFILES))
	mkdir -p $(@D)
	go build -trimpath -ldflags '-s -w' -o $(@D)/ ./examples/...
	@touch $@

test-kvm: build images examples ## tests that need a guest, on this host's KVM or in the rig
	testdata/tools/test-kvm

test-all: test ## the above and what takes longer
	BOXLITE_SOAK=200 RIG_TIMEOUT=7200 testdata/tools/test-kvm -timeout 3h
	testdata/tools/fuzz 60s

bench: build images ## boot and exec figures in virtual milliseconds, for benchstat
	testdata/tools/bench

clean: ## remove what was built here; caches stay
	rm -rf build $(ASSETS)/*.zst $(ASSETS)/*.sha256
