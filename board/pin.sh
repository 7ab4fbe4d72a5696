# shellcheck shell=bash
# shellcheck disable=SC2154  # cache_dir comes from lib.sh
# Looks packages for the image up in the Debian archive. Sourced by pins and fetch,
# after lib.sh.

# The image's suite and architecture, not the building machine's. The tests' roots have
# lists of other suites, and a line NAME/SUITE of a list asks for one by itself.
pin_suite=${pin_suite:-bookworm}
pin_arch=arm64

pin_apt() { printf '%s' "$cache_dir/apt-$1-$pin_arch"; }

# The suite of a line of a list.
pin_suite_of() { if [[ $1 == */* ]]; then printf '%s' "${1#*/}"; else printf '%s' "$pin_suite"; fi; }

# Fetch the package lists of the suites named into the cache; the machine's own lists are not touched.
pin_refresh() {
    local suite
    for suite in "$@"; do
        apt_own_setup "$(pin_apt "$suite")" "$suite" "$pin_arch"
        apt_own "$(pin_apt "$suite")" "$pin_arch" apt-get update >"$cache_dir/apt-update.log" 2>&1 ||
            die "the package lists of $suite/$pin_arch cannot be fetched: see $cache_dir/apt-update.log"
    done
}

# pin_show SUITE PACKAGE: what the archive says about the newest version.
pin_show() {
    apt_own "$(pin_apt "$1")" "$pin_arch" apt-cache show --no-all-versions "$2" 2>/dev/null | sed '/^$/q'
}

# pin_named SUITE NAME PREFIX: the package PREFIX and a version that NAME depends on, or what it depends on.
pin_named() {
    local below found level
    below=$2
    for level in 1 2; do
        below=$(for package in $below; do pin_show "$1" "$package"; done | sed -n 's/^Depends: //p' | tr ',|' '[\n*]' | awk '{ print $1 }')
        found=$(grep -m 1 "^$3[0-9]" <<<"$below") && break
    done
    # Unknown, it is told by the caller, with the line that asked for it.
    printf '%s' "${found:-$2@$3 (to level $level)}"
}

# pin_current WANTED: the lock's line for it, as the archive has it now.
pin_current() {
    local package=${1%%/*} suite shown path archive
    field() { sed -n "s/^$1: //p" <<<"$shown"; }
    suite=$(pin_suite_of "$1")
    if [[ $package == *@* ]]; then
        package=$(pin_named "$suite" "${package%@*}" "${package#*@}")
    fi
    shown=$(pin_show "$suite" "$package")
    path=$(field Filename)
    [ -n "$path" ] || die "$suite/$pin_arch has no package '$package' (wanted: $1)"
    # The security archive is another one than the main archive, with its own pool.
    archive=Debian
    [[ $path != pool/updates/* ]] || archive=Debian-Security
    printf '%s %s %s %s %s %s %s' "$1" "$package" "$(field Version)" "$(field Architecture)" "$archive" "$path" \
        "$(field SHA256)"
}
