# Two targets: `--target serving` for an NVIDIA GPU (CUDA and cuDNN come from pip) and `--target serving-cpu`.
# Neither contains torch or other packages for training.
FROM python:3.11-slim AS wheel
WORKDIR /source
COPY pyproject.toml setup.py requirements.lock requirements-cuda.lock README.md LICENSE ./
COPY offramp ./offramp
COPY serving ./serving
COPY training ./training
# Use only the versions of the locks: their platform markers choose an onnxruntime, and here the target does.
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels . \
    && sed "s/;.*//" requirements.lock requirements-cuda.lock > /wheels/constraints.txt

FROM python:3.11-slim AS base
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN useradd --create-home --uid 10001 offramp
WORKDIR /srv/offramp
RUN mkdir models && chown offramp models
EXPOSE 8001 8002
VOLUME /srv/offramp/models
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
    CMD ["offramp", "health", "--address", "127.0.0.1:8001"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["offramp", "serve", "--host", "0.0.0.0", "--model-repository", "models"]

FROM base AS serving-cpu
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --constraint /wheels/constraints.txt "$(echo /wheels/offramp-*.whl)[serving-cpu]"
USER offramp

FROM base AS serving
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --constraint /wheels/constraints.txt "$(echo /wheels/offramp-*.whl)[serving-gpu]"
USER offramp
