# Rootstock's recipes. `cargo install --locked just`, then `just` lists them.

# Where downloads and made images are kept between runs.
export ROOTSTOCK_CACHE := env("ROOTSTOCK_CACHE", cache_directory() / "rootstock")

[private]
default:
    @just --list --unsorted

# The main job where no Pi is at hand: image, stick, ENROLL, a client up to its login
demo: (deps "build" "image" "qemu" "os" "net") demo-images
    tests/run demo

# Everything that CI runs, with all its set-up
test: (deps "build" "image" "qemu" "os" "net" "lint") images
    tests/run

# Each case of the NFS judge's tables, not a sample: some three hours in emulation. Of EVERY parts, the one numbered FROM (from 0)
nfs-whole EVERY="1" FROM="0": (deps "build" "image" "qemu" "net")
    ROOTSTOCK_NFS_EVERY={{EVERY}} ROOTSTOCK_NFS_FROM={{FROM}} tests/run nfs

# Git, a compiler and sqlite on a client's root, by a Linux client in QEMU; then power cuts under sqlite: some four minutes
programs: (deps "build" "image" "qemu" "os" "net")
    tests/run programs

# pjdfstest, fsx and stress-ng on a client's root and on a local ext4, by a Linux client in QEMU
posix: (deps "build" "image" "qemu" "os" "net")
    tests/run posix

# Format, clippy, unit tests: the quick look before a commit
check:
    cargo fmt --all --check
    cargo clippy --quiet --workspace --all-targets -- -D warnings
    cargo clippy --quiet --test bench --test demo --test modes --test board --test stick --test shop_qemu --test nfs_linux --test nfs_programs --test nfs_posix --test sd_image --test update_qemu --test trouble --test uboot --test hil_qemu -- -D warnings
    cargo metadata --quiet --locked --format-version 1 --manifest-path tests/fuzz/Cargo.toml >/dev/null
    board/budget
    cargo test --quiet --workspace --lib --bins

# Kill the server and cut the power, under writing clients, sqlite, fsx and each operation on the store, for SEEDS seeds each (about 80 s a seed); large roots timed; then U-Boot, and an update cut 2,120 times, of which 100 are started
soak SEEDS="200": (deps "build" "image" "qemu" "os" "net") image (image "pi5")
    tests/run soak {{SEEDS}}
    tests/run uboot
    ROOTSTOCK_CUTS=100 tests/run updates

# The board's own tests on a Pi with Raspberry Pi OS or Debian, by ssh: just hil pi@192.168.1.20 --expect display,buttons
[positional-arguments]
hil HOST *ARGUMENTS: (deps "build")
    tests/hil/run "$@"

# The same as a card for a Pi without any system: target/hil/rootstock-hil.img. WORDS such as hil.expect=display,buttons,stick
[positional-arguments]
hil-card *WORDS: image
    board/cross --package tests/hil
    tests/hil/card "$@"

# Count the instructions that the panel takes at rest in an emulated Pi 3: some minutes
panel-cost: (deps "build" "image" "qemu") image
    tests/run panel-cost

# Fuzz one target of tests/fuzz/corpus, or all of them, each for SECONDS
fuzz TARGET="all" SECONDS="60":
    tests/fuzz/run {{TARGET}} {{SECONDS}}

# Our NFS and TFTP servers against nfs-ganesha, dnsmasq and atftpd, as root: some six minutes. WORDS choose rows
[positional-arguments]
bench *WORDS: (deps "build" "bench")
    cargo test --quiet --release --test bench -- "$@"

# An import beside the decompressor alone plus writing, in turns; without IMAGE that of the demo
[positional-arguments]
bench-import IMAGE="" FOLDER="": (deps "build" "os")
    BENCH_IMAGE="${1:-$(tests/os-image/build)}" BENCH_FOLDER="${2:-target}" \
        cargo test --quiet --release --test bench_import -- --nocapture

# The flashable image, target/image/rootstock.img.xz; `just image pi5`: target/image-pi5/rootstock-pi5.img.xz
image FAMILY="pi3-4": (deps "build" "image") cross
    board/image {{FAMILY}}

# Build program and image twice, each from nothing, and compare them byte by byte
image-twice: (deps "build" "image")
    board/image-twice

# A signed update file of the image (or of `pi5`): put it on the appliance's stick. Makes your key the first time
update FAMILY="pi3-4": (deps "build" "image" "net") cross
    board/update-key
    board/image {{FAMILY}}
    cargo run --quiet --release -- update make --key "${XDG_CONFIG_HOME:-$HOME/.config}/rootstock/update" --slot {{ if FAMILY == "pi3-4" { "target/image" } else { "target/image-" + FAMILY } }}/slot.img --out {{ if FAMILY == "pi3-4" { "target/image" } else { "target/image-" + FAMILY } }}

# The binary for the Pi: static, arm64
[private]
cross: (deps "build")
    board/cross

# The operating system that the demo's client boots, in Raspberry Pi OS's layout
[private]
os-image: (deps "os")
    tests/os-image/build

# What the demo boots. Beside each other: the client's system is unpacked on one core, and so is the program linked.
[private, parallel]
demo-images: image os-image

# What the tests boot, and the tests themselves: the client's system takes one core for longest
[private, parallel]
images: image (image "pi5") os-image test-programs

[private]
test-programs: (deps "build")
    cargo test --quiet --no-run

# Install Debian packages of the named groups of board/deps.list (all without a name)
deps *GROUPS:
    board/deps {{GROUPS}}

# Take the pictures and texts that tests compare with anew; read them before you commit
bless:
    ROOTSTOCK_BLESS=1 cargo test --quiet --test panel_screens
    ROOTSTOCK_BLESS=1 cargo test --quiet --lib dhcp

# Take the newest Debian packages into the image
pins:
    board/pins
