# Targets: `serving-cpu`, and `serving` for an NVIDIA GPU (CUDA and cuDNN are pip packages).
# Neither contains torch or other packages for training.
# Dependencies have a layer of their own, so a change of the code replaces one layer of about 6 MB.
FROM python:3.11-slim AS requirements
WORKDIR /source
COPY pyproject.toml requirements*.lock deploy/container/requirements.py ./
# The markers of the locks choose an onnxruntime by platform. Here the target chooses it, so they are removed.
RUN mkdir /requirements \
    && sed "s/;.*//" requirements.lock requirements-cuda.lock > /requirements/constraints.txt \
    && python requirements.py serving-cpu > /requirements/serving-cpu.txt \
    && python requirements.py serving-gpu > /requirements/serving.txt

FROM python:3.11-slim AS wheel
WORKDIR /source
COPY pyproject.toml setup.py README.md LICENSE ./
COPY offramp ./offramp
COPY serving ./serving
COPY training ./training
COPY deploy/prometheus ./deploy/prometheus
COPY deploy/grafana/offramp.json ./deploy/grafana/offramp.json
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11-slim AS base
LABEL org.opencontainers.image.title="offramp" \
    org.opencontainers.image.description="gRPC server for classifiers with early exits" \
    org.opencontainers.image.licenses="Apache-2.0"
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /srv/offramp
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /srv/offramp offramp \
    && mkdir models state \
    && chown offramp:offramp models state
# The server writes only to the state folder, so the root file system may be read-only.
VOLUME /srv/offramp/state
EXPOSE 8001 8002
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["offramp", "health", "--address", "127.0.0.1:8001"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["offramp", "serve", "--host", "0.0.0.0", "--model-repository", "models", "--state-dir", "state"]

FROM base AS serving-cpu
RUN --mount=type=bind,from=requirements,source=/requirements,target=/requirements \
    pip install --constraint /requirements/constraints.txt --requirement /requirements/serving-cpu.txt
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --no-deps --no-index /wheels/*.whl && pip check
# A number, since Kubernetes' runAsNonRoot does not accept a name.
USER 10001:10001

FROM base AS serving
RUN --mount=type=bind,from=requirements,source=/requirements,target=/requirements \
    pip install --constraint /requirements/constraints.txt --requirement /requirements/serving.txt
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --no-deps --no-index /wheels/*.whl && pip check
USER 10001:10001
