#!/usr/bin/env bash
# Copies the workspace of the current directory to TARGET with its manifests and cargo's settings as they are and its
# sources empty, so that a build of the copy compiles the dependencies alone. Used by docker/Dockerfile.
#
#   skeleton.sh TARGET
set -euo pipefail
target=$1

# The roots of crates, which cargo looks for, by their places. Without build scripts, which no empty source needs.
find . -path ./target -prune -o -type f \( -name Cargo.toml -o -name Cargo.lock -o -path ./.cargo/config.toml \
    -o -path '*/src/lib.rs' -o -path '*/src/main.rs' -o -path '*/src/bin/*.rs' \
    -o -path '*/tests/*.rs' -o -path '*/benches/*.rs' -o -path '*/examples/*.rs' \) -print |
    sort |
    while IFS= read -r file; do
        case $file in
        */src/lib.rs | */src/main.rs | */Cargo.toml | */Cargo.lock | ./.cargo/config.toml) ;;
        # Of the folders for further programs, tests and examples: the files in it, and main.rs one folder below.
        */src/bin/* | */tests/* | */benches/* | */examples/*)
            below=${file##*/src/bin/} below=${below##*/tests/} below=${below##*/benches/} below=${below##*/examples/}
            case $below in */main.rs) [[ $below != */*/* ]] || continue ;; */*) continue ;; esac
            ;;
        esac
        mkdir -p "$target/$(dirname "$file")"
        case $file in
        */Cargo.toml | */Cargo.lock | ./.cargo/config.toml) cp "$file" "$target/$file" ;;
        */src/lib.rs) : >"$target/$file" ;;
        *) echo 'fn main() {}' >"$target/$file" ;;
        esac
    done
[ -f "$target/Cargo.lock" ] || { echo "error: $PWD has no Cargo.lock, and is no workspace." >&2; exit 1; }
