# Rootstock's recipes. `cargo install --locked just`, then `just` lists them.

# Where downloads and made images are kept between runs.
export ROOTSTOCK_CACHE := env("ROOTSTOCK_CACHE", cache_directory() / "rootstock")

[private]
default:
    @just --list --unsorted

# The main job where no Pi is at hand: image, stick, ENROLL, a client up to its login
demo: (deps "build" "image" "qemu" "os" "net") image os-image
    tests/run demo

# Everything that CI runs, with all its set-up
test: (deps "build" "image" "qemu" "os" "net" "lint") image os-image
    tests/run

# Each case of the NFS judge's tables, not a sample: hours in emulation
nfs-whole: (deps "build" "image" "qemu" "net")
    ROOTSTOCK_NFS_EVERY=1 tests/run nfs

# Format, clippy, unit tests: the quick look before a commit
check:
    cargo fmt --check
    cargo clippy --quiet --all-targets -- -D warnings
    cargo clippy --quiet --test bench --test demo --test modes --test board --test stick --test shop_qemu --test nfs_linux -- -D warnings
    cargo metadata --quiet --locked --format-version 1 --manifest-path tests/fuzz/Cargo.toml >/dev/null
    cargo test --quiet --lib --bins

# Kill the server and cut the power under writing clients, for SEEDS seeds each (about 8 s a seed)
soak SEEDS="200":
    tests/run soak {{SEEDS}}

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

# The flashable image: target/image/rootstock.img.xz
image: (deps "build" "image") cross
    board/image

# The binary for the Pi: static, arm64
[private]
cross: (deps "build")
    board/cross

# The operating system that the demo's client boots, in Raspberry Pi OS's layout
[private]
os-image: (deps "os")
    tests/os-image/build

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
