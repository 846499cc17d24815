# syntax=docker/dockerfile:1
# authz-server as a container: builds the wheel with its native core, and keeps of that
# stage nothing but what was installed. Runs as a user without name, shell and home, on a
# root file system that may be read-only:
#
#   docker build --tag authz-server:0.1.0 .
#   docker run --read-only --tmpfs /tmp --cap-drop ALL \
#     --volume ./config:/etc/authz-server/config:ro authz-server:0.1.0
#
# Pin both images by digest where builds must be the same every time.

FROM python:3.11-slim-bookworm AS build
RUN apt-get update \
 && apt-get install --yes --no-install-recommends gcc libc6-dev libnghttp2-dev \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY authz_server authz_server
RUN python -m venv /opt/authz-server \
 && /opt/authz-server/bin/pip install --no-cache-dir ".[kubernetes,s3]" \
 && /opt/authz-server/bin/pip uninstall --yes pip setuptools \
 && /opt/authz-server/bin/python -m compileall -q /opt/authz-server/lib

FROM python:3.11-slim-bookworm
RUN apt-get update \
 && apt-get install --yes --no-install-recommends libnghttp2-14 \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/authz-server /opt/authz-server
ENV PATH=/opt/authz-server/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 65532:65532
WORKDIR /tmp
ENTRYPOINT ["authz-server"]
CMD ["serve", "--config", "/etc/authz-server/config/config.yaml"]
