# shellcheck shell=bash
# shellcheck disable=SC2034 # the scripts use the variables that are set here
# Functions that the scripts share: terminal output, installation of what a build and a broker need, a Kafka for
# one script run, and the build of the programs. Sourced, never run. Compatible with bash 3.2, the version of macOS.

project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/outbox-pipeline

# ---- terminal output: on stderr, so that stdout has results only ----

say() { printf '%s\n' "$*" >&2; }

fail() {
    say "error: $*"
    exit 1
}

# step NAME COMMAND...: runs the command under a heading, and prints its duration. If it fails, the script fails with
# the step's name.
step() {
    local name=$1 started=$SECONDS
    shift
    say "== $name"
    "$@" || fail "$name failed after $((SECONDS - started)) s."
    say "== $name: $((SECONDS - started)) s"
}

# ---- set-up ----

# Installs what a build needs, except Rust: for librdkafka a C and a C++ compiler and make, and OpenSSL for TLS to the
# brokers.
setup_build() {
    need_rust
    need_c_toolchain
    need_openssl
}

# Installs what a build without TLS needs, except Rust.
setup_demo_build() {
    need_rust
    need_c_toolchain
}

need_c_toolchain() {
    have_c_toolchain && return
    install_packages "a C and a C++ compiler and make (librdkafka is built from source)" \
        "build-essential" "gcc gcc-c++ make" "gcc make"
    have_c_toolchain || fail "cc, c++ and make are not all on the PATH after their installation."
}

have_c_toolchain() { have cc && have c++ && have make; }

need_openssl() {
    have_openssl && return
    install_packages "OpenSSL's headers (TLS to the brokers)" \
        "libssl-dev pkg-config" "openssl-devel pkgconf-pkg-config" "openssl@3 pkgconf"
    have_openssl || fail "pkg-config does not find OpenSSL after its installation."
}

# Homebrew keeps OpenSSL where the build finds it and pkg-config does not.
have_openssl() {
    { have pkg-config && pkg-config --exists "openssl >= 1.1.1"; } || [ -n "${OPENSSL_DIR:-}" ] ||
        [ -d /opt/homebrew/opt/openssl@3 ] || [ -d /usr/local/opt/openssl@3 ]
}

# Fails without a recent Rust. It is never installed from here: the user chooses the toolchain and its location.
need_rust() {
    local wanted found
    wanted=$(sed -n 's/^rust-version *= *"\(.*\)"/\1/p' "$project/Cargo.toml")
    have cargo || fail "missing: Rust $wanted or later. Install it from https://rustup.rs"
    found=$(cd "$project" && cargo --version) || fail "cargo --version failed: $found"
    found=${found#cargo }
    version_at_least "${found%% *}" "$wanted" ||
        fail "cargo is ${found%% *}, but Rust $wanted or later is needed. Update it with: rustup update stable"
}

# Installs the tools of scripts/test check: shellcheck for the scripts, promtool for the alert rules, cargo-deny for
# licences and advisories. Sets `promtool` and `cargo_deny`.
setup_checks() {
    need_shellcheck
    need_promtool
    need_cargo_deny
}

need_shellcheck() {
    have shellcheck && return
    install_packages "shellcheck (checks the scripts)" "shellcheck" "ShellCheck" "shellcheck"
    have shellcheck || fail "shellcheck is not on the PATH after its installation."
}

# Sets `promtool` to the program, and unpacks it from Debian's package if the machine has none.
need_promtool() {
    local folder package
    promtool=$(command -v promtool) && return
    promtool=$cache/tools/bin/promtool
    [ ! -x "$promtool" ] || return 0
    if ! have apt-get || ! have dpkg-deb; then
        install_packages "promtool (tests the alert rules)" "prometheus" "golang-github-prometheus" "prometheus"
        promtool=$(command -v promtool) || fail "promtool is not on the PATH after its installation."
        return
    fi
    ! can_install || apt_update
    # Of its own from Debian 13 on. Not installed: prometheus would start one, and needs many others.
    for package in promtool prometheus; do
        [ -z "$(apt-cache search --names-only "^$package\$")" ] || break
    done
    say "unpacking promtool (tests the alert rules) from Debian's package $package"
    folder=$(mktemp -d "${TMPDIR:-/tmp}/outbox-promtool.XXXXXX") || fail "creating a temporary directory failed."
    (cd "$folder" && apt-get download -q "$package" >&2 && dpkg-deb -x "$package"_*.deb unpacked) ||
        fail "downloading the package $package with apt-get failed; its output is above. Install promtool, or run: sudo apt-get update"
    mkdir -p "$(dirname "$promtool")"
    mv "$folder/unpacked/usr/bin/promtool" "$promtool" || fail "the package $package has no promtool."
    rm -rf "$folder"
}

# Version to install if none is on the PATH; `.deny.toml` is written for it.
cargo_deny_version=0.20.2

# Sets `cargo_deny` to the program, and builds it from source if the machine has none.
need_cargo_deny() {
    cargo_deny=$(command -v cargo-deny) && return
    cargo_deny=$cache/tools/bin/cargo-deny
    [ "$("$cargo_deny" --version 2>/dev/null)" != "cargo-deny $cargo_deny_version" ] || return 0
    say "installing cargo-deny $cargo_deny_version (checks licences and advisories), about a minute"
    # Without optimization, which would take longer than all its runs.
    env -u CARGO_TARGET_DIR CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_LTO=off \
        CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_DEBUG=0 \
        cargo install --quiet --locked --root "$cache/tools" --version "$cargo_deny_version" cargo-deny ||
        fail "installing cargo-deny failed. Install it with: cargo install --locked --version $cargo_deny_version cargo-deny"
}

# Sets `java` to Java 17 or later, which a Kafka 4 broker requires, and installs it if there is none.
need_java() {
    find_java && return
    # Each distribution has other releases; Kafka runs on each of these.
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
    install_packages "Java 17 or later (runs Kafka)" "$package" "java-21-openjdk-headless" "openjdk@21"
    find_java || fail "no Java 17 or later was found after its installation. Set JAVA_HOME."
}

need_maven() {
    have mvn && return
    install_packages "Maven (downloads Kafka's jars)" "maven" "maven" "maven"
    have mvn || fail "mvn is not on the PATH after its installation."
}

# download_jars WHAT POM DIRECTORY [MAVEN-OPTION]...: downloads the jars of a pom with Maven, unless the directory exists.
download_jars() {
    local what=$1 pom=$2 jars=$3 partial
    shift 3
    [ ! -d "$jars" ] || return 0
    need_maven
    say "downloading $what to $jars"
    mkdir -p "$cache"
    # The directory gets its final name when it is complete, so an interrupted download is never used.
    partial=$(mktemp -d "$jars.XXXXXX")
    JAVA_HOME=$(dirname "$(dirname "$java")") mvn -B -q -f "$pom" "$@" \
        org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies \
        -DincludeScope=runtime "-DoutputDirectory=$partial" >"$partial.log" 2>&1 || {
        cat "$partial.log" >&2
        rm -rf "$partial" "$partial.log"
        fail "downloading $what with Maven failed; Maven's output is above."
    }
    rm -f "$partial.log"
    # A concurrent start may have finished first; its jars are the same.
    if [ -d "$jars" ]; then
        rm -rf "$partial"
    else
        # mktemp makes it readable for its owner only.
        chmod 755 "$partial"
        mv "$partial" "$jars"
    fi
}

# Sets `java` to the first Java of release 17 or later; fails if there is none.
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

# java_release JAVA: prints the major release of this Java, or 0 if it is unknown.
java_release() {
    local version="" home
    # The file `release` first: starting a JVM takes far longer.
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

# install_packages WHAT APT DNF BREW: installs the packages on Debian and Ubuntu if that needs no password; elsewhere
# it fails with the command to run. Several packages are separated by spaces.
install_packages() {
    local what=$1
    if can_install; then
        say "installing $what: apt-get install $2"
        apt_update
        # shellcheck disable=SC2086 # several packages
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $2 >&2 ||
            fail "installing $what with apt-get failed; its output is above."
    elif have apt-get; then
        fail "missing: $what. Install it with: sudo apt-get install -y $2"
    elif have dnf; then
        fail "missing: $what. Install it with: sudo dnf install -y $3"
    elif have brew; then
        fail "missing: $what. Install it with: brew install $4"
    else
        fail "missing: $what. Install the packages: $2 (Debian), $3 (Fedora), $4 (Homebrew)"
    fi
}

# Succeeds if apt-get can install packages without a password.
can_install() { have apt-get && { [ "$(id -u)" -eq 0 ] || { have sudo && sudo -n true 2>/dev/null; }; }; }

as_root() { if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -n "$@"; fi; }

apt_updated=""
# Updates apt's package lists once per script run.
apt_update() {
    [ -n "$apt_updated" ] || as_root apt-get update -q >&2 || fail "apt-get update failed."
    apt_updated=yes
}

# ---- a Kafka for one script run ----

# Starts a Kafka for this script, on free ports and in a temporary directory, and stops it when the script exits. If
# KAFKA_BOOTSTRAP_SERVERS is set, that Kafka is used instead. Exports KAFKA_BOOTSTRAP_SERVERS.
private_kafka() {
    if [ -n "${KAFKA_BOOTSTRAP_SERVERS:-}" ]; then
        # Checks that it is reachable.
        "$project/scripts/kafka" start >/dev/null
        return
    fi
    private_kafka_dir=$(mktemp -d "${TMPDIR:-/tmp}/outbox-kafka.XXXXXX") || fail "creating a temporary directory for Kafka failed."
    trap 'stop_private_kafka $?' EXIT
    KAFKA_BOOTSTRAP_SERVERS=$("$project/scripts/kafka" start --dir "$private_kafka_dir" --port auto) || exit 1
    export KAFKA_BOOTSTRAP_SERVERS
}

# stop_private_kafka STATUS: stops Kafka and deletes its data; its log too, unless the script failed.
stop_private_kafka() {
    # While it is set, scripts/kafka treats this Kafka as external and does not stop it.
    unset KAFKA_BOOTSTRAP_SERVERS
    case $1 in
    # 130 and 143 are the statuses after SIGINT (Ctrl-C) and SIGTERM: no failure to analyse.
    0 | 130 | 143) "$project/scripts/kafka" clean --dir "$private_kafka_dir" 2>/dev/null ;;
    *)
        "$project/scripts/kafka" stop --dir "$private_kafka_dir"
        rm -rf "$private_kafka_dir/data"
        say "Kafka's log is kept: $private_kafka_dir/kafka.log"
        ;;
    esac
}

# ---- programs ----

# Prints cargo's target directory.
target_dir() { echo "${CARGO_TARGET_DIR:-$project/target}"; }

# build_programs PROFILE BINARY: builds the programs with this profile of Cargo.toml, and the binary of
# integration-tests that runs them. Exports OUTBOX_BIN_DIR.
build_programs() {
    local expected="ten minutes or more" features="" setup=setup_build
    if [ "$1" = demo ]; then
        expected="about four minutes"
        # Without jemalloc, which takes a quarter of the time and pays off under load only; and without TLS, which a
        # broker on this machine does not need.
        features=--no-default-features setup=setup_demo_build
    fi
    step "set-up" "$setup"
    # These packages only: the other binaries and their tests take as long again.
    step "build ($expected on two cores the first time; seconds later)" cargo_build \
        --manifest-path "$project/Cargo.toml" --profile "$1" ${features:+"$features"} \
        -p validator -p caller -p outbox -p legacy-api -p integration-tests \
        --bin validator --bin caller --bin outbox --bin legacy-api --bin "$2"
    OUTBOX_BIN_DIR=$(target_dir)/$1
    export OUTBOX_BIN_DIR
}

# cargo_build ARGUMENT...: `cargo build`. Cargo draws a progress bar on a terminal; elsewhere there is a line about
# every 15 seconds instead of one for each of its crates.
cargo_build() {
    if [ -t 2 ]; then
        cargo build "$@"
    else
        cargo build "$@" 2>&1 | compiled_crates >&2
    fi
}

# Filters cargo's messages: counts the crates, and prints everything else, such as warnings and errors.
compiled_crates() {
    local line crate="" compiled=0 started=$SECONDS due=$((SECONDS + 15)) waiting
    while true; do
        waiting=$SECONDS
        # In bash 3.2 a timeout and the end of the input have the same status.
        if ! IFS= read -r -t 15 line; then
            [ $((SECONDS - waiting)) -ge 14 ] || break
            line=""
        fi
        case $line in
        *" Compiling "*)
            compiled=$((compiled + 1))
            line=${line#*Compiling }
            crate=${line%% *}
            ;;
        "" | *" Downloading "* | *" Downloaded "*) ;;
        *) say "$line" ;;
        esac
        if [ "$SECONDS" -ge "$due" ]; then
            due=$((SECONDS + 15))
            say "   $((SECONDS - started)) s: $compiled crates begun, the latest is $crate"
        fi
    done
    [ "$compiled" -eq 0 ] || say "   $((SECONDS - started)) s: $compiled crates compiled"
}

# run_on_private_kafka PROFILE BINARY ARGUMENT...: builds the programs, starts a Kafka, and runs this binary of
# integration-tests on it. Returns the status of the binary.
run_on_private_kafka() {
    local profile=$1 binary=$2 argument
    shift 2
    build_programs "$profile" "$binary"
    for argument in "$@"; do
        # Help needs no Kafka.
        case $argument in -h | --help) exec "$OUTBOX_BIN_DIR/$binary" "$@" ;; esac
    done
    step "Kafka (downloads about 100 MB the first time)" private_kafka
    say "== $binary"
    "$OUTBOX_BIN_DIR/$binary" "$@"
}

# Compiles the Kafka Streams application that the validator is compared with. Exports OUTBOX_STREAMS_JAVA and
# OUTBOX_STREAMS_CLASSPATH.
build_kafka_streams() {
    local source=$project/integration-tests/kafka-streams jars compiled
    find_java || need_java
    # A runtime alone does not compile.
    [ -x "$(dirname "$java")/javac" ] ||
        fail "missing: a JDK of $java (compiles the Kafka Streams application). Install one, and set JAVA_HOME."
    jars=$cache/kafka-streams-$(cksum <"$source/pom.xml" | cut -d ' ' -f 1)
    download_jars "Kafka Streams (96 MB, once)" "$source/pom.xml" "$jars"
    compiled=$(target_dir)/kafka-streams
    mkdir -p "$compiled"
    "$(dirname "$java")/javac" -Xlint:all -Werror -cp "$jars/*" -d "$compiled" "$source/OrderValidator.java" ||
        fail "compiling the Kafka Streams application failed; the compiler's output is above."
    export OUTBOX_STREAMS_JAVA=$java OUTBOX_STREAMS_CLASSPATH="$compiled:$jars/*"
}
