# Two servers: `--target serving` for an NVIDIA GPU (CUDA and cuDNN come from pip), `--target serving-cpu`.
# Neither holds torch or the training side's packages.
FROM python:3.11-slim AS base
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN useradd --create-home --uid 10001 offramp
WORKDIR /srv/offramp
COPY pyproject.toml requirements.lock README.md LICENSE ./
COPY serving ./serving
COPY training ./training
RUN mkdir models && chown offramp models
# The lock's versions for either onnxruntime: its platform markers choose for .venv, here the target does.
RUN sed "s/;.*//" requirements.lock > constraints.txt
EXPOSE 8001 8002
VOLUME /srv/offramp/models
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
    CMD ["python", "-m", "serving.client", "health", "--address", "127.0.0.1:8001"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "-m", "serving", "--host", "0.0.0.0", "--model-repository", "models"]

FROM base AS serving-cpu
RUN pip install --constraint constraints.txt ".[serving-cpu]"
USER offramp

FROM base AS serving
RUN pip install --constraint constraints.txt ".[serving]" "onnxruntime-gpu[cuda,cudnn]"
USER offramp
