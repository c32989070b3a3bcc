# One image with the one program: `docker build -t tidings .`, and the command selects what it runs
# (`up`, `up api`, `provision`, ...). Alone it runs all four services on one SQLite file in /data.
#
# There is no `# syntax=` line: nothing but the two base images is fetched, and engines from 20.10 on build it, with
# no network once the images and crates are there. Needs BuildKit (the default; with an old client DOCKER_BUILDKIT=1).

# Where the program comes from: `built` compiles it here; `given` takes target/release/tidings as it lies, for those who
# have compiled it already (it needs a glibc not newer than that of RUNTIME_IMAGE: 2.36).
ARG PROGRAM=built
ARG BUILD_IMAGE=rust:1.95-slim-bookworm
ARG RUNTIME_IMAGE=gcr.io/distroless/cc-debian12:nonroot

FROM ${BUILD_IMAGE} AS built
WORKDIR /source
COPY Cargo.toml Cargo.lock ./
COPY crates crates
COPY migrations migrations
COPY proto proto
COPY services services
COPY tests tests
COPY xtask xtask
# Cargo features beside the default ones.
ARG FEATURES=""
# Crates and what was compiled stay in the builder's caches: after a change only what changed is compiled. Cargo looks at
# times, and a folder that was checked out earlier than the last build has old ones: a file whose text is not the one that
# was seen last is made new, and the others keep their time.
RUN --mount=type=cache,id=tidings-crates,target=/usr/local/cargo/registry \
    --mount=type=cache,id=tidings-target,target=/source/target,sharing=locked \
    find . -path ./target -prune -o -type f -print | while read -r file; do \
        seen="target/seen/$file"; \
        if cmp -s "$file" "$seen"; then touch -r "$seen" "$file"; \
        else touch "$file" && mkdir -p "${seen%/*}" && cp -p "$file" "$seen" || exit 1; fi; \
    done \
 && cargo build --release --locked --package tidings --features "${FEATURES}" \
 && cp target/release/tidings /tidings

FROM scratch AS given
COPY target/release/tidings /tidings

FROM ${PROGRAM} AS program

FROM ${RUNTIME_IMAGE} AS runtime

FROM runtime
# Version and revision are the builder's to tell: `--build-arg REVISION=$(git rev-parse HEAD)`.
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="tidings" \
      org.opencontainers.image.description="Accept now, notify later: a message is taken at once, stored, and mailed to those who asked to hear of it" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="gcr.io/distroless/cc-debian12:nonroot"
# The image has no shell to make a folder with: the user's empty home is copied.
COPY --from=runtime --chown=65532:65532 /home/nonroot/ /data/
COPY --from=program /tidings /usr/local/bin/tidings
# A container is reached from outside itself. What then lets callers in is TIDINGS_AUTH or TIDINGS_ADMIN_KEY: without
# either the api does not start.
ENV TIDINGS_HTTP_ADDR=0.0.0.0:8080 TIDINGS_ADMIN_ADDR=0.0.0.0:9080 TIDINGS_DATA_DIR=/data
# The numbers of `nonroot`: Kubernetes cannot tell from a name that it is not root.
USER 65532:65532
WORKDIR /data
EXPOSE 8080 9080
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s --retries=5 CMD ["/usr/local/bin/tidings", "health"]
ENTRYPOINT ["/usr/local/bin/tidings"]
CMD ["up"]
