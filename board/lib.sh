# shellcheck shell=bash
# shellcheck disable=SC2034  # set here, used by the scripts that source this
# What the scripts of board/ share: messages, the cache, and apt sources derived
# from the machine's own. Sourced, never run.
#
# No mirror is named anywhere in this project. Whatever mirror this machine's own
# Debian source uses is asked for the other suites, components and architectures
# as well, so a mirror that a person or a company chose stays chosen.

board_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top_dir=$(dirname "$board_dir")
cache_dir=${ROOTSTOCK_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/rootstock}
debian_keyring=/usr/share/keyrings/debian-archive-keyring.gpg

say() { printf '%s\n' "$*"; }
warn() { printf '%s: warning: %s\n' "${0##*/}" "$*" >&2; }
die() { printf '%s: error: %s\n' "${0##*/}" "$*" >&2; exit 1; }

# need TOOL GROUP: fail with the command that mends it.
need() {
    PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null ||
        die "'$1' is not installed; run: board/deps $2"
}

# The lines of a data file without comments, blank lines and trailing blanks.
data_lines() { sed -e 's/[[:space:]]*#.*$//' -e '/^[[:space:]]*$/d' "$1"; }

# as_root COMMAND...: sudo only where it is needed.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    else
        command -v sudo >/dev/null || die "must be root for: $* (sudo is not installed)"
        sudo "$@"
    fi
}

# debian_repo LABEL: the URI that this machine uses for the archive with that label,
# 'Debian' (main archive) or 'Debian-Security'. apt reads both source formats for us,
# and the signed Release file says whose archive it is: third-party sources, however
# they are named, never match.
debian_repo() {
    # shellcheck disable=SC2016  # $(…) is apt's own notation
    apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
        awk -F'|' -v label="$1" '$1 == "Debian" && $2 == label { print $3; exit }'
}

# apt_stanza LABEL SUITES COMPONENTS ARCHITECTURES: one deb822 source on this
# machine's mirror; nothing and status 1 where the machine has no such archive.
apt_stanza() {
    local uri
    uri=$(debian_repo "$1")
    [ -n "$uri" ] || return 1
    printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: %s\nArchitectures: %s\n' "$uri" "$2" "$3" "$4"
    [ ! -e "$debian_keyring" ] || printf 'Signed-By: %s\n' "$debian_keyring"
    printf '\n'
}

# apt_own DIR ARCH COMMAND...: apt with a state of its own in DIR. The machine's
# package lists, foreign architectures and installed packages play no part, and no
# root rights are needed; its proxy and credentials (apt.conf.d, auth.conf.d) do.
apt_own() {
    local dir=$1 arch=$2 tool=$3
    shift 3
    # The sandbox user _apt could not write into a cache below somebody's home.
    "$tool" -q \
        -o "Dir::State=$dir/state" -o "Dir::State::status=$dir/status" -o "Dir::Cache=$dir/cache" \
        -o "Dir::Etc::sourcelist=/dev/null" -o "Dir::Etc::sourceparts=$dir/sources" \
        -o "Dir::Etc::preferencesparts=/dev/null" -o "Dir::Etc::preferences=/dev/null" \
        -o "APT::Architecture=$arch" -o "APT::Architectures::=$arch" \
        -o Acquire::Languages=none -o APT::Sandbox::User= \
        -o APT::Update::Post-Invoke-Success::= \
        "$@"
}

no_debian() { die "this machine has no package source with origin 'Debian', or its lists were never fetched; run: apt-get update"; }

# apt_own_setup DIR SUITE ARCH: sources for SUITE and its updates in DIR, for apt_own.
apt_own_setup() {
    local dir=$1 suite=$2 arch=$3
    mkdir -p "$dir/state/lists/partial" "$dir/cache/archives/partial" "$dir/sources"
    : >"$dir/status"
    {
        # Backports are a suite beside another, whose updates and security are not theirs.
        if [[ $suite == *-backports ]]; then
            apt_stanza Debian "$suite" "main non-free-firmware" "$arch" || no_debian
            return
        fi
        apt_stanza Debian "$suite $suite-updates" "main non-free-firmware" "$arch" || no_debian
        apt_stanza Debian-Security "$suite-security" "main non-free-firmware" "$arch" ||
            warn "this machine has no Debian security source, so $suite is used without it"
    } >"$dir/sources/rootstock.sources"
}
