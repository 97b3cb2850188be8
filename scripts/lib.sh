# shellcheck shell=bash
# shellcheck disable=SC2034 # what is set here is used by the scripts
# What the scripts share: where the project lies, words on the terminal, and the set-up of what a build
# and a broker need. Sourced, never run. Kept to what bash 3.2 can do, which is what macOS has.

project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/outbox-pipeline

# ---- words on the terminal: all on stderr, so that stdout is left to results ----

say() { printf '%s\n' "$*" >&2; }

fail() {
    say "error: $*"
    exit 1
}

# step NAME COMMAND...: runs the command under a heading, and prints how long it took. The first step
# that fails ends the script with the step's name.
step() {
    local name=$1 started=$SECONDS
    shift
    say "== $name"
    "$@" || fail "$name failed after $((SECONDS - started)) s."
    say "== $name: $((SECONDS - started)) s"
}

# ---- set-up ----

# What a build needs: Rust, and for librdkafka a C and a C++ compiler and make.
setup_build() {
    need_rust
    have_c_toolchain && return
    install_packages "a C and a C++ compiler and make (librdkafka is built from source)" \
        "build-essential" "gcc gcc-c++ make" "gcc make"
    have_c_toolchain || fail "cc, c++ and make are still not all on the PATH."
}

have_c_toolchain() { have cc && have c++ && have make; }

# Rust is never installed from here: which toolchain, and where, is its owner's choice.
need_rust() {
    local wanted found
    wanted=$(sed -n 's/^rust-version *= *"\(.*\)"/\1/p' "$project/Cargo.toml")
    have cargo || fail "cargo was not found; Rust $wanted or later is needed: https://rustup.rs"
    found=$(cd "$project" && cargo --version) || fail "cargo does not run: $found"
    found=${found#cargo }
    version_at_least "${found%% *}" "$wanted" ||
        fail "cargo is ${found%% *}, and Rust $wanted or later is needed: rustup update stable"
}

# Tools of the checks alone: shellcheck for the scripts, cargo-deny for licences and advisories. Sets `cargo_deny`.
setup_checks() {
    need_shellcheck
    need_cargo_deny
}

need_shellcheck() {
    have shellcheck && return
    install_packages "shellcheck (it checks the scripts)" "shellcheck" "ShellCheck" "shellcheck"
    have shellcheck || fail "shellcheck is still not on the PATH."
}

# The version that is installed where none is on the PATH; `.deny.toml` is written for it.
cargo_deny_version=0.20.2

# Built from source, once per machine. Optimising it would take longer than all its runs.
need_cargo_deny() {
    cargo_deny=$(command -v cargo-deny) && return
    cargo_deny=$cache/tools/bin/cargo-deny
    [ "$("$cargo_deny" --version 2>/dev/null)" != "cargo-deny $cargo_deny_version" ] || return 0
    say "installing cargo-deny $cargo_deny_version (it checks licences and advisories), about a minute"
    env -u CARGO_TARGET_DIR CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_LTO=off \
        CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_DEBUG=0 \
        cargo install --quiet --locked --root "$cache/tools" --version "$cargo_deny_version" cargo-deny ||
        fail "cargo-deny could not be installed: cargo install --locked --version $cargo_deny_version cargo-deny"
}

# Java 17 or later, which Kafka 4 demands of a broker. Sets `java`.
need_java() {
    find_java && return
    # Distributions carry different releases; any of these runs Kafka.
    local release package="openjdk-17-jre-headless"
    if can_install; then
        apt_update
        for release in 21 17 25; do
            if [ -n "$(apt-cache search --names-only "^openjdk-$release-jre-headless\$")" ]; then
                package="openjdk-$release-jre-headless"
                break
            fi
        done
    fi
    install_packages "Java 17 or later (it runs Kafka)" "$package" "java-21-openjdk-headless" "openjdk@21"
    find_java || fail "no Java 17 or later was found after its installation; set JAVA_HOME."
}

need_maven() {
    have mvn && return
    install_packages "Maven (it fetches Kafka's jars)" "maven" "maven" "maven"
    have mvn || fail "mvn is still not on the PATH."
}

# Sets `java` to the first Java of release 17 or later; false when there is none.
find_java() {
    local candidate
    for candidate in "${JAVA_HOME:-/nonexistent}/bin/java" "$(command -v java || true)" \
        /usr/lib/jvm/*/bin/java /opt/homebrew/opt/openjdk*/bin/java /usr/local/opt/openjdk*/bin/java; do
        if [ -x "$candidate" ] && [ "$(java_release "$candidate")" -ge 17 ]; then
            java=$candidate
            return 0
        fi
    done
    return 1
}

# The major release of a Java, or 0. Its `release` file is read first: starting a JVM takes far longer.
java_release() {
    local version="" home
    home=$(dirname "$(dirname "$(readlink -f "$1" 2>/dev/null || echo "$1")")")
    [ -f "$home/release" ] && version=$(sed -n 's/^JAVA_VERSION="\(.*\)"/\1/p' "$home/release")
    [ -n "$version" ] || version=$("$1" -version 2>&1 | sed -n 's/.* version "\([^"]*\)".*/\1/p')
    version=${version%%[!0-9]*}
    echo "${version:-0}"
}

have() { command -v "$1" >/dev/null 2>&1; }

# version_at_least FOUND WANTED: compares the first two numbers.
version_at_least() {
    local found_minor=${1#*.} wanted_minor=${2#*.}
    [ "${1%%.*}" -gt "${2%%.*}" ] ||
        { [ "${1%%.*}" -eq "${2%%.*}" ] && [ "${found_minor%%[!0-9]*}" -ge "${wanted_minor%%[!0-9]*}" ]; }
}

# install_packages WHAT APT DNF BREW: installs on Debian and Ubuntu where that takes no password;
# elsewhere it ends the script and names the command. Several packages are separated by spaces.
install_packages() {
    local what=$1
    if can_install; then
        say "installing $what: apt-get install $2"
        apt_update
        # shellcheck disable=SC2086 # several packages
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $2 >&2 ||
            fail "apt-get could not install $what."
    elif have apt-get; then
        fail "missing: $what. Install it with: sudo apt-get install -y $2"
    elif have dnf; then
        fail "missing: $what. Install it with: sudo dnf install -y $3"
    elif have brew; then
        fail "missing: $what. Install it with: brew install $4"
    else
        fail "missing: $what. On Debian it is: apt-get install $2; on Fedora: dnf install $3; with Homebrew: brew install $4"
    fi
}

can_install() { have apt-get && { [ "$(id -u)" -eq 0 ] || { have sudo && sudo -n true 2>/dev/null; }; }; }

as_root() { if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -n "$@"; fi; }

apt_updated=""
apt_update() {
    [ -n "$apt_updated" ] || as_root apt-get update -q >&2 || fail "apt-get update failed."
    apt_updated=yes
}

# ---- a Kafka of one's own ----

# Starts a Kafka for this script alone, on free ports and in a directory of its own, and ends it with the
# script; after a failure its directory stays, because its log may tell why. A Kafka that
# KAFKA_BOOTSTRAP_SERVERS names is used instead. Exports KAFKA_BOOTSTRAP_SERVERS.
private_kafka() {
    if [ -n "${KAFKA_BOOTSTRAP_SERVERS:-}" ]; then
        "$project/scripts/kafka" start >/dev/null
        return
    fi
    private_kafka_dir=$(mktemp -d "${TMPDIR:-/tmp}/outbox-kafka.XXXXXX") || fail "no temporary directory could be made."
    trap 'stop_private_kafka $?' EXIT
    KAFKA_BOOTSTRAP_SERVERS=$("$project/scripts/kafka" start --dir "$private_kafka_dir" --port auto) || exit 1
    export KAFKA_BOOTSTRAP_SERVERS
}

# 130 and 143: ended by Ctrl-C or SIGTERM, which is no failure to look into.
stop_private_kafka() {
    unset KAFKA_BOOTSTRAP_SERVERS
    case $1 in
    0 | 130 | 143) "$project/scripts/kafka" clean --dir "$private_kafka_dir" 2>/dev/null ;;
    *)
        "$project/scripts/kafka" stop --dir "$private_kafka_dir"
        rm -rf "$private_kafka_dir/data"
        say "its log is kept: $private_kafka_dir/kafka.log"
        ;;
    esac
}

# Where cargo puts what it builds.
target_dir() { echo "${CARGO_TARGET_DIR:-$project/target}"; }

# build_release: the programs, and the binaries of integration-tests that run them. Exports OUTBOX_BIN_DIR.
build_release() {
    step "set-up" setup_build
    step "build (some minutes the first time)" \
        cargo build --manifest-path "$project/Cargo.toml" --release --workspace --bins
    OUTBOX_BIN_DIR=$(target_dir)/release
    export OUTBOX_BIN_DIR
}

# run_on_private_kafka BINARY ARGUMENT...: builds the programs for release, then runs a binary of
# integration-tests that starts them on a Kafka of its own. Ends the script with that binary's status.
run_on_private_kafka() {
    local binary=$1 argument
    shift
    build_release
    for argument in "$@"; do
        # Help needs no Kafka.
        case $argument in -h | --help) exec "$OUTBOX_BIN_DIR/$binary" "$@" ;; esac
    done
    step "Kafka" private_kafka
    "$OUTBOX_BIN_DIR/$binary" "$@"
}
