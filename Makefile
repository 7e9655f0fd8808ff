# Gateway Engine firmware. "make help" lists the targets.

overlays = base busybox
boards   = $(notdir $(patsubst %/,%,$(dir $(wildcard boards/*/board.yaml))))

# What "make test" has the time for: boards, those of them that nearly all stories
# run on, and the one that all do.
story_boards    = qemu-arm64 rpi3 qemu-mipsel qemu-mips64el
thorough_boards = qemu-arm64 qemu-mipsel
sample_boards   = qemu-arm64

builder = out/builder

.PHONY: help image bundle key flash boot murano sources boards setup test test-all test-unit test-qemu bench clean $(builder)

help: ## list the targets
	@echo "usage: make [VARIABLE=VALUE...] TARGET"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  board=NAME     a board of \"make boards\""
	@echo "  overlays=...   what the root is made of (default: $(overlays)); add dev for a shell on the console"
	@echo "  apps=...       apps to install at the first boot: folders with a gwe-buildfile.json, or tarballs"
	@echo "  version=...    version of the firmware (default: from the git commit)"
	@echo "  release=1      refuse what must not reach a customer"
	@echo "  lock=FILE      the packages of an earlier build, by its out/BOARD.json (default: the newest)"
	@echo "  provision=FILE settings of the gateway, applied at its first boot, in the image or for the machine of boot"
	@echo "  key=FILE       secret key that signs the bundle, FILE.pub is what the image trusts (default: one for development)"
	@echo "  minimum=...    with bundle: oldest version that may update to it (default: any)"
	@echo "  mirror=URL...  Debian archive, and its security archive (default: those of the host's apt)"
	@echo "  dev=DEVICE...  with flash: the cards, such as /dev/sdb"
	@echo "  flags=...      with flash: more, see out/builder flash -h"
	@echo "  until=REGEXP   with boot: end when the console has printed it"

image: $(builder) ## build out/BOARD.img, .img.zst and .json
	@$(builder) setup -board "$(board)"
	@$(builder) image -board "$(board)" -overlays "$(overlays)" -apps "$(apps)" -version "$(version)" -mirror "$(mirror)" -lock "$(lock)" -provision "$(provision)" -key "$(key)" -release=$(if $(release),true,false)

bundle: image ## build it, and out/BOARD.vVERSION.fw, what gateways update to
	@$(builder) bundle -board "$(board)" -key "$(key)" -minimum "$(minimum)" -release=$(if $(release),true,false)

key: $(builder) ## make a key pair that signs firmware, key=FILE and FILE.pub
	@$(builder) key -out "$(key)"

flash: $(builder) ## write the built image to cards, and read it back
	@$(builder) flash -board "$(board)" -provision "$(provision)" $(flags) $(dev)

boot: $(builder) ## boot the built image in QEMU, console on the terminal (Ctrl-A x ends it)
	@$(builder) setup -board "$(board)" -boot
	@$(builder) boot -board "$(board)" -until '$(until)' -provision "$(provision)"

murano: $(builder) ## stand in for Exosite's cloud, with a page on http://127.0.0.1:8080/ (Ctrl-C ends it)
	@exec $(builder) murano

sources: $(builder) ## collect the source packages of the built image in out/BOARD-sources
	@$(builder) setup -board "$(board)"
	@$(builder) sources -board "$(board)" -mirror "$(mirror)"

boards: $(builder) ## list the boards
	@$(builder) boards

setup: $(builder) ## install all Debian packages that building, booting and testing need
	@$(builder) setup -board "$(boards)" -boot -test

test: test-unit test-qemu ## test everything, with real boots in QEMU (some 45 minutes)

test-all: export build_uboot = 1
test-all: story_boards = $(boards)
test-all: thorough_boards = $(boards)
test-all: sample_boards = $(boards)
test-all: export soak = 1m
test-all: export kills = 30
test-all: test ## the same on every board, with U-Boot built twice, programs crashing for a minute, and 30 power cuts in updates

test-unit: setup
	@unformatted=$$(gofmt -l .); test -z "$$unformatted" || { echo "gofmt would change: $$unformatted"; exit 1; }
	go vet -tags qemu ./...
	GOARCH=mipsle go vet ./gweinit/...
	go test ./...

test-qemu: setup
	story_boards="$(story_boards)" thorough_boards="$(thorough_boards)" sample_boards="$(sample_boards)" go test -tags qemu -count=1 -parallel 4 -timeout 3h ./builder/stories

bench: setup ## measure the supervisor against Debian's, flashing against bmaptool, the device API, then builds, sizes, boots and memory of all boards; prints tables
	go test -count=1 -run '^$$' -bench Figures -benchtime 1x ./gweinit/supervisord ./builder/flash
	go test -count=1 -run '^$$' -bench . ./gweinit/exosite ./gweinit/exosite/exositetest ./gweinit/engine ./gweinit/engine/firmware
	fleet=5000 go test -count=1 -v -run TestFleet ./gweinit/engine
	story_boards="$(boards)" go test -tags qemu -count=1 -timeout 80m -run '^$$' -bench Figures ./builder/stories

clean: ## remove what was built (downloads stay in the cache)
	rm -rf out

$(builder):
	@go build -o $@ ./builder
