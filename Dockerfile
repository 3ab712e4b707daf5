# The published build: fat link-time optimisation, everything that `dist` has. A C compiler is all it needs beside Rust.
FROM rust:1-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --profile dist --locked -p tidegate

# The C library and the certificates of authorities.
FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/* \
  && useradd --system --home-dir /var/lib/tidegate --create-home tidegate
USER tidegate
COPY --from=build /src/target/dist/tidegate /usr/bin/tidegate
# What lives while it runs (sockets, a lock) goes here: the configuration's folder is not writable.
ENV STATE_DIRECTORY=/var/lib/tidegate
WORKDIR /var/lib/tidegate
EXPOSE 8080
# Readiness is on the admin port (/readyz); SIGTERM drains, SIGHUP reloads.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/bin/tidegate"]
CMD ["up", "/etc/tidegate"]
