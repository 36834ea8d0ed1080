# syntax=docker/dockerfile:1

# For Debian 12: --build-arg DEBIAN=bookworm --build-arg PYTHON=3.11 --build-arg LIBSSL=libssl3
ARG DEBIAN=trixie
ARG PYTHON=3.13
ARG LIBSSL=libssl3t64

# The package and its dependencies, built with a compiler that the image does not have.
FROM debian:${DEBIAN}-slim AS builder
ARG PYTHON
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        binutils ca-certificates gcc libc6-dev python3-dev python3-pip \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY pyproject.toml setup.py MANIFEST.in README.md LICENSE ./
COPY src ./src
RUN pip wheel --no-cache-dir --wheel-dir /wheels .
# Symbols are a fifth of the size.
RUN "python${PYTHON}" -m venv --without-pip /opt/oxidicom \
    && pip --python /opt/oxidicom/bin/python install --no-cache-dir --no-compile \
        --no-index --find-links /wheels oxidicom \
    && find /opt/oxidicom -name '*.so' -exec strip --strip-unneeded {} +

# The root file system: Python, the libraries that it links to, and Debian's package records for
# scanners. Without shell, package manager and Perl, which would be half of the image.
FROM debian:${DEBIAN}-slim AS root
ARG PYTHON
ARG LIBSSL
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates
WORKDIR /packages
RUN apt-get download \
        base-files libbz2-1.0 libc6 libexpat1 libffi8 libgcc-s1 liblzma5 \
        "libpython${PYTHON}-minimal" "libpython${PYTHON}-stdlib" "${LIBSSL}" libstdc++6 libuuid1 \
        libzstd1 netbase "python${PYTHON}-minimal" zlib1g
RUN mkdir -p /image/var/lib/dpkg/status.d \
    && for package in *.deb; do \
        dpkg-deb --extract "$package" /image \
        && dpkg-deb --field "$package" >"/image/var/lib/dpkg/status.d/${package%%_*}" \
        || exit 1; \
    done \
    && rm -rf /image/usr/lib/*/gconv /image/usr/share/man \
    && cp --parents /etc/nsswitch.conf /etc/ssl/certs/ca-certificates.crt /image \
    && echo 'oxidicom:x:1001:1001::/data:/sbin/nologin' >/image/etc/passwd \
    && echo 'oxidicom:x:1001:' >/image/etc/group
COPY --from=builder /opt/oxidicom /image/opt/oxidicom
# The image is read-only, so modules are compiled now; importing shows that no library is missing.
RUN chroot /image /opt/oxidicom/bin/python -m compileall -q \
        --invalidation-mode unchecked-hash "/usr/lib/python${PYTHON}" /opt/oxidicom \
    && chroot /image /opt/oxidicom/bin/oxidicom version \
    && chroot /image /opt/oxidicom/bin/python -c 'import _uuid, bz2, grpc, lzma, ssl, uvloop' \
    && mkdir /data

FROM scratch
LABEL org.opencontainers.image.title="oxidicom" \
      org.opencontainers.image.description="A DICOM receiver for ChRIS" \
      org.opencontainers.image.source="https://github.com/FNNDSC/oxidicom" \
      org.opencontainers.image.licenses="MIT"
COPY --from=root /image /
# Any other user works, too (docker run --user): the receiver writes only below the files root.
COPY --from=root --chown=1001:1001 /data /data
ENV PATH=/opt/oxidicom/bin:/usr/bin \
    LANG=C.UTF-8 \
    PYTHONUNBUFFERED=1 \
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt \
    OXIDICOM_FILES_ROOT=/data \
    OXIDICOM_ADMIN_PORT=11180
USER 1001:1001
WORKDIR /data
EXPOSE 11111 2762
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s \
    CMD ["oxidicom", "status", "--quiet"]
ENTRYPOINT ["oxidicom"]
CMD ["serve"]
