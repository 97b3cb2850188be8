# Stands in for the official image of Rust: Debian with the packages that the build needs, and this machine's toolchain.
# Made by scripts/base-images.
FROM outbox-base/debian:bookworm
RUN apt-get update \
    && apt-get install -y --no-install-recommends build-essential ca-certificates libssl-dev pkg-config \
    && rm -rf /var/lib/apt/lists/*
# Authorities that this machine trusts beyond Debian's, such as a proxy's. They do not reach the runtime images.
COPY authorities/ /usr/local/share/ca-certificates/
RUN update-ca-certificates
COPY toolchain/bin /usr/local/bin
COPY toolchain/lib /usr/local/lib
