# syntax=docker/dockerfile:1
# Three stages: one makes wheels, one is a device's runtime, the last installs.
#
#   docker build -t intarsia .                                       CUDA; runs on a CPU too
#   docker build -t intarsia:cpu --build-arg DEVICE=cpu --build-arg TORCH_INDEX=<index of CPU wheels> .
#   docker run --init --read-only --tmpfs /tmp -p 127.0.0.1:8000:8000 -v intarsia:/data intarsia
#
# For builds that are to be the same again, name the base by digest:
#   --build-arg BASE_IMAGE=python:3.11-slim-bookworm@sha256:<digest>
ARG BASE_IMAGE=python:3.11-slim-bookworm
ARG DEVICE=cuda

# hadolint ignore=DL3006
FROM ${BASE_IMAGE} AS build
ARG EXTRAS="postgres s3"
WORKDIR /src
COPY pyproject.toml ./
# What is needed, in a file that is the same bytes as long as that stays the same.
RUN python -c 'import sys, tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
    print(*p["dependencies"], *(n for e in sys.argv[1:] for n in p["optional-dependencies"][e]), sep="\n")' \
    ${EXTRAS} > /requirements.txt
COPY README.md LICENSE CHANGELOG.md ./
COPY server server
COPY adapters_store adapters_store
COPY offline offline
COPY merge_search merge_search
COPY client client
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

# hadolint ignore=DL3006
FROM ${BASE_IMAGE} AS runtime-cpu
# Numba's threads are OpenMP's.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/*
ENV INTARSIA_DEVICE=cpu

# hadolint ignore=DL3006
FROM ${BASE_IMAGE} AS runtime-cuda
# Triton compiles what starts its kernels with the system's compiler.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev libgomp1 \
    && rm -rf /var/lib/apt/lists/*
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

# hadolint ignore=DL3006
FROM runtime-${DEVICE}
ARG TORCH_INDEX=""
COPY constraints.txt /tmp/constraints.txt
# By size and by how seldom they change: torch, what else is needed, and our own few files.
RUN grep '^torch==' /tmp/constraints.txt > /tmp/torch.txt \
    && pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} --requirement /tmp/torch.txt
COPY --from=build /requirements.txt /tmp/requirements.txt
RUN pip install --no-cache-dir --constraint /tmp/constraints.txt --requirement /tmp/requirements.txt \
    && useradd --no-create-home --home-dir /data --uid 10001 intarsia \
    && install --directory --owner intarsia --group intarsia /data
COPY examples/adapters /adapters
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-deps /wheels/*.whl
# By number, so that Kubernetes sees that it is not root. All that is written goes to /data and /tmp.
USER 10001:10001
WORKDIR /data
ENV INTARSIA_HOST=0.0.0.0 \
    INTARSIA_PORT=8000 \
    INTARSIA_DATA_DIR=/data \
    INTARSIA_PUBLISH_DIR=/adapters \
    HF_HOME=/data/huggingface \
    NUMBA_CACHE_DIR=/data/compiled/numba \
    TRITON_CACHE_DIR=/data/compiled/triton \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=10m CMD ["python", "-c", \
    "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"INTARSIA_PORT\"]}/health/ready')"]
# On SIGTERM running requests get 30 s to end. -m, since a foreign package called `server` may come
# first on a console script's path.
CMD ["python", "-m", "server"]
