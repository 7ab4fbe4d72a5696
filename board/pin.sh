# shellcheck shell=bash
# shellcheck disable=SC2154  # cache_dir comes from lib.sh
# Looks packages for the image up in the Debian archive. Sourced by pins and fetch,
# after lib.sh.

# The image's suite and architecture, not the building machine's. The tests' roots
# have lists of other suites.
pin_suite=${pin_suite:-bookworm}
pin_arch=arm64
pin_apt=$cache_dir/apt-$pin_suite-$pin_arch

# Fetch the package lists into the cache; the machine's own lists are not touched.
pin_refresh() {
    apt_own_setup "$pin_apt" "$pin_suite" "$pin_arch"
    apt_own "$pin_apt" "$pin_arch" apt-get update >"$cache_dir/apt-update.log" 2>&1 ||
        die "the package lists of $pin_suite/$pin_arch cannot be fetched: see $cache_dir/apt-update.log"
}

# pin_show PACKAGE: what the archive says about the newest version.
pin_show() {
    apt_own "$pin_apt" "$pin_arch" apt-cache show --no-all-versions "$1" 2>/dev/null | sed '/^$/q'
}

# pin_current WANTED: the lock's line for it, as the archive has it now.
pin_current() {
    local package=$1 shown path archive
    field() { sed -n "s/^$1: //p" <<<"$shown"; }
    if [[ $package == *@ ]]; then
        shown=$(pin_show "${package%@}")
        package=$(field Depends | sed 's/[[:space:],|].*//')
    fi
    shown=$(pin_show "$package")
    path=$(field Filename)
    [ -n "$path" ] || die "$pin_suite/$pin_arch has no package '$package' (wanted: $1)"
    # The security archive is another one than the main archive, with its own pool.
    archive=Debian
    [[ $path != pool/updates/* ]] || archive=Debian-Security
    printf '%s %s %s %s %s %s %s' "$1" "$package" "$(field Version)" "$(field Architecture)" "$archive" "$path" \
        "$(field SHA256)"
}
