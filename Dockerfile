# syntax=docker/dockerfile:1

# Everything is built here as wheels, with a compiler that the image itself does not need.
FROM python:3.11-slim-bookworm AS builder
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY pyproject.toml setup.py MANIFEST.in README.md LICENSE ./
COPY src ./src
RUN pip wheel --no-cache-dir --wheel-dir /wheels .

FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="oxidicom" \
      org.opencontainers.image.description="A DICOM receiver for ChRIS" \
      org.opencontainers.image.source="https://github.com/FNNDSC/oxidicom" \
      org.opencontainers.image.licenses="MIT"
RUN --mount=type=bind,from=builder,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --find-links=/wheels oxidicom
# Any other user will do as well (docker run --user): nothing is written but below the files root.
RUN install -d -o 1001 -g 1001 /data
ENV OXIDICOM_FILES_ROOT=/data \
    PYTHONUNBUFFERED=1
USER 1001:1001
WORKDIR /data
EXPOSE 11111 2762
STOPSIGNAL SIGTERM
ENTRYPOINT ["oxidicom"]
CMD ["serve"]
