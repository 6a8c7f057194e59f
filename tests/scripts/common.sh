# Shared by ./test and ./try. Source it from the repository's top.
# shellcheck shell=bash

say() { printf '%s\n' "$*"; }
fail() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; exit 1; }

# Runs a command as root.
as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

can_be_root() {
    [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null || { [ -t 0 ] && command -v sudo >/dev/null && sudo true; }
}

# Installs what is missing of the Debian packages named.
install_packages() {
    local missing=()
    local package
    for package in "$@"; do
        dpkg-query -W -f '${Status}\n' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return 0
    if ! command -v apt-get >/dev/null; then
        say "not installed: ${missing[*]} (no apt here: install them by hand; what needs them is skipped)"
        return 0
    fi
    if ! can_be_root; then
        say "not installed: ${missing[*]} (neither root nor sudo: apt-get install them; what needs them is skipped)"
        return 0
    fi
    say "installing ${missing[*]}"
    local options=(-y -q --no-install-recommends -o DPkg::Lock::Timeout=600)
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install "${options[@]}" "${missing[@]}" >target/apt.log 2>&1 && return 0
    # Perhaps the lists are old, or there are none yet.
    as_root apt-get update -q >>target/apt.log 2>&1
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install "${options[@]}" "${missing[@]}" >>target/apt.log 2>&1 && return 0
    # One that this release does not have must not keep the others out.
    for package in "${missing[@]}"; do
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install "${options[@]}" "$package" >>target/apt.log 2>&1 ||
            say "could not install $package (see target/apt.log); what needs it is skipped"
    done
}

need_cargo() {
    command -v cargo >/dev/null || { [ -f "$HOME/.cargo/env" ] && . "$HOME/.cargo/env"; }
    command -v cargo >/dev/null || fail "no cargo: install Rust 1.88 or later (https://rustup.rs, or apt-get install cargo on a new enough Debian)"
    command -v cc >/dev/null || install_packages gcc libc6-dev
}
