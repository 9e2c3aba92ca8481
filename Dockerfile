# The image holds one static binary. Its bases are pinned, and Dependabot moves the pins, which it finds in lines that
# begin with FROM alone. Others instead: --build-context NAME=…, with the NAME that stands there.

# The compiler runs on the builder's own platform and cross-compiles. It is the Go of go.mod's toolchain line, as for the
# binaries of a release, and as make scan judges it: the variable is the base's, which would have its own Go taken.
FROM --platform=$BUILDPLATFORM golang:1.26.9-bookworm@sha256:d9c68c2c51161e12fd77e4c6320687c9cd86e1af1e3ad6e6cd63ff970641453c AS build
ENV GOTOOLCHAIN=
WORKDIR /src
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod \
    go mod download
COPY . .
ARG TARGETOS
ARG TARGETARCH
ARG VERSION=dev
ARG REVISION=
# /out/data becomes the data directory: the base image has no mkdir and no chown.
RUN --mount=type=cache,target=/go/pkg/mod \
    --mount=type=cache,target=/root/.cache/go-build \
    mkdir -p /out/data && \
    CGO_ENABLED=0 GOOS=${TARGETOS} GOARCH=${TARGETARCH} \
    go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=${VERSION} -X main.revision=${REVISION}" \
    -o /out/fnbridge ./cmd/fnbridge && \
    mkdir /out/licenses && cp LICENSE /out/licenses/ && .ci/notices >/out/licenses/THIRD_PARTY_NOTICES

FROM gcr.io/distroless/static-debian12:nonroot@sha256:afa5c872c891853ca7fcf1f12c3edb23f7eeef36189728842dd51042ff57f7ab
ARG VERSION=dev
ARG REVISION=
LABEL org.opencontainers.image.title="fnbridge"
LABEL org.opencontainers.image.description="Forwards Tensorlake webhooks as CloudEvents to NATS JetStream and Apache Kafka, at least once"
LABEL org.opencontainers.image.source="https://github.com/fnbridge/fnbridge"
LABEL org.opencontainers.image.licenses="Apache-2.0"
LABEL org.opencontainers.image.version="${VERSION}"
LABEL org.opencontainers.image.revision="${REVISION}"
COPY --from=build /out/fnbridge /fnbridge
COPY --from=build /out/licenses /licenses
COPY --from=build --chown=65532:65532 /out/data /data
# Probes and Prometheus come from outside the container, so the operations listener is not on its loopback alone.
ENV FNBRIDGE_DATA_DIR=/data
ENV FNBRIDGE_OPS_LISTEN=:8081
# 8080: webhooks. 8081: /livez, /readyz, /metrics. The NATS server inside stays on the container's loopback, port 4222,
# unless FNBRIDGE_EMBEDDED_NATS_LISTEN says otherwise.
EXPOSE 8080
EXPOSE 8081
VOLUME /data
USER 65532:65532
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["/fnbridge", "check", "--live"]
ENTRYPOINT ["/fnbridge"]
CMD ["serve"]
