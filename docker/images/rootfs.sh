#!/usr/bin/env bash
# Makes the root file system of a runtime image in TARGET, without the programs: the libraries that they are linked
# with, the certificate authorities, a user, and the packages that these files are from, for scanners of vulnerabilities.
# Used by docker/Dockerfile, in a Debian with the packages that the programs were linked with.
#
#   rootfs.sh TARGET PROGRAM...
set -euo pipefail
target=$1
shift

packages=(ca-certificates)

# The package that a file is from. dpkg knows it by the path at the time of its installation, with or without /usr.
package_of() {
    local path
    for path in "$1" "$(readlink -f "$1")" "/usr$1" "${1#/usr}"; do
        if dpkg-query --search "$path" 2>/dev/null | sed 's/:.*//' | head -n 1 | grep .; then return; fi
    done
    echo "error: $1, which a program is linked with, is from no package." >&2
    return 1
}

main() {
    local library package
    mkdir -p "$target"/{etc/ssl/certs,usr/lib/ssl,usr/local/bin,tmp,var/lib/dpkg/status.d}
    chmod 1777 "$target/tmp"
    for library in $(libraries "$@"); do
        mkdir -p "$target$(dirname "$library")"
        cp --dereference "$library" "$target$library"
        package=$(package_of "$library")
        packages+=("$package")
    done

    # Those of the package alone: the build may trust others, such as a proxy's.
    find /usr/share/ca-certificates/mozilla -name '*.crt' -print0 | sort -z | xargs -0 cat >"$target/etc/ssl/certs/ca-certificates.crt"
    grep -q 'BEGIN CERTIFICATE' "$target/etc/ssl/certs/ca-certificates.crt"
    # Where OpenSSL, and so librdkafka, looks for them.
    ln -s /etc/ssl/certs/ca-certificates.crt "$target/usr/lib/ssl/cert.pem"
    ln -s /etc/ssl/openssl.cnf "$target/usr/lib/ssl/openssl.cnf"
    cp /etc/ssl/openssl.cnf "$target/etc/ssl/openssl.cnf"

    echo 'outbox:x:10001:10001::/nonexistent:/nonexistent' >"$target/etc/passwd"
    echo 'outbox:x:10001:' >"$target/etc/group"
    echo 'hosts: files dns' >"$target/etc/nsswitch.conf"

    # As in other images without a package manager.
    cp --dereference /etc/os-release "$target/etc/os-release"
    for package in "${packages[@]}"; do
        dpkg-query --status "$package" >"$target/var/lib/dpkg/status.d/$package"
    done
}

# Prints the paths of the libraries, and fails if one is missing.
libraries() {
    local program listed
    for program in "$@"; do
        listed=$(ldd "$program")
        if grep -q 'not found' <<<"$listed"; then
            printf 'error: libraries of %s are missing:\n%s\n' "$program" "$listed" >&2
            return 1
        fi
        # "NAME => PATH (ADDRESS)", and "PATH (ADDRESS)" for the loader.
        grep -o '/[^ ]*' <<<"$listed"
    done | sort -u
}

main "$@"
