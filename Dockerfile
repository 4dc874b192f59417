# Two stages: wheels are built in the first, the second only installs them.
#   docker build -t intarsia .                                        PyPI's torch: CUDA, runs on CPU too
#   docker build -t intarsia:cpu --build-arg TORCH_INDEX=<index of CPU wheels> .      about 4 GB smaller
#   docker run -p 8000:8000 -v intarsia:/data [--gpus all] intarsia
FROM python:3.11-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE CHANGELOG.md ./
COPY server server
COPY adapters_store adapters_store
COPY offline offline
COPY merge_search merge_search
COPY client client
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11-slim
ARG TORCH_INDEX=""
COPY constraints.txt /tmp/constraints.txt
# torch first, in a layer of its own: it is by far the largest and changes least.
RUN torch="$(grep '^torch==' /tmp/constraints.txt)" \
    && pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$torch"
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir --constraint /tmp/constraints.txt /wheels/*.whl \
    && rm -r /wheels \
    && useradd --create-home --uid 10001 intarsia \
    && install --directory --owner intarsia /data
COPY examples/adapters /adapters
USER intarsia
WORKDIR /data
ENV INTARSIA_HOST=0.0.0.0 \
    INTARSIA_PORT=8000 \
    INTARSIA_DATA_DIR=/data \
    INTARSIA_PUBLISH_DIR=/adapters \
    NUMBA_CACHE_DIR=/data/compiled \
    PYTHONUNBUFFERED=1
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=10m CMD ["python", "-c", \
    "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"INTARSIA_PORT\"]}/health/ready')"]
# A foreign package called `server` may come first on a console script's path; -m takes ours.
CMD ["python", "-m", "server"]
