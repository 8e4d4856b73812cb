# Pilotfish, a static binary, in an image that has nothing else: docker build -t pilotfish .
# docs/containers.md tells the rest.

# It runs on the machine that builds, whatever the image is for: a link by an emulated compiler takes hours.
FROM --platform=$BUILDPLATFORM rust:1.95-bookworm AS build
ARG TARGETARCH
# The C that comes with crates is for the image's processor too.
ENV CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc \
    CC_x86_64_unknown_linux_gnu=x86_64-linux-gnu-gcc \
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
    CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_LINKER=x86_64-linux-gnu-gcc
# hadolint ignore=DL3008
RUN case "$TARGETARCH" in \
      amd64) target=x86_64-unknown-linux-gnu cc=x86_64-linux-gnu-gcc; set -- gcc-x86-64-linux-gnu libc6-dev-amd64-cross ;; \
      arm64) target=aarch64-unknown-linux-gnu cc=aarch64-linux-gnu-gcc; set -- gcc-aarch64-linux-gnu libc6-dev-arm64-cross ;; \
      *) echo "there is no build for $TARGETARCH" >&2; exit 1 ;; \
    esac && \
    if ! command -v "$cc"; then apt-get update && apt-get install -y --no-install-recommends "$@"; fi && \
    rustup target add "$target" && echo "$target" >/target && \
    mkdir -p /image/etc/ssl/certs /writable/pilotfish && \
    cp /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/

WORKDIR /src
COPY . .
ARG PROFILE=release
# With `--target` the flags are for the program alone, not for what runs while it is built.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    target=$(cat /target) && \
    RUSTFLAGS="-C target-feature=+crt-static -C strip=symbols -C link-arg=-Wl,-z,pack-relative-relocs" \
      cargo build --locked --profile "$PROFILE" -p pilotfish --target "$target" && \
    cp "target/$target/$PROFILE/pilotfish" /image/pilotfish

FROM scratch
LABEL org.opencontainers.image.title="Pilotfish" \
      org.opencontainers.image.description="A small, fast sidecar proxy that governs any service without a change to it" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /image/ /
# The registry that is used when none is named: a folder, which sidecars may share as a volume.
COPY --from=build --chown=1447:1447 /writable/ /run/
ENV XDG_RUNTIME_DIR=/run
# By number, so that Kubernetes can tell that it is not root.
USER 1447:1447
# Inbound, and metrics with /live and /ready.
EXPOSE 15006 15020
ENTRYPOINT ["/pilotfish"]
CMD ["run", "-c", "/etc/pilotfish/pilotfish.yaml"]
