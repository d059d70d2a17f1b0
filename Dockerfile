# syntax=docker/dockerfile:1
# Kiara in a container:
#   docker build --tag kiara:cpu --target cpu .      a CPU; arm64 too
#   docker build --tag kiara:cuda --target cuda .    NVIDIA's GPUs, with the container toolkit on the host
# compose.yaml runs it; docs and numbers do not need it: `pip install .` is the same program.
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS wheel
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

# Where torch comes from decides between the CPU build (0.2 GB) and the CUDA build (several). EXTRAS: such as data,lab,json.
FROM python:${PYTHON}-slim AS packages-cpu
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=json
COPY --from=wheel /wheels /wheels
RUN python -m venv /opt/kiara \
    && /opt/kiara/bin/pip install --no-cache-dir --index-url "${TORCH_INDEX}" "torch>=2.13,<2.14" \
    && /opt/kiara/bin/pip install --no-cache-dir "$(echo /wheels/kiara_slm-*.whl)[${EXTRAS}]"

FROM python:${PYTHON}-slim AS packages-cuda
ARG TORCH_INDEX=https://download.pytorch.org/whl/cu128
ARG EXTRAS=json
COPY --from=wheel /wheels /wheels
RUN python -m venv /opt/kiara \
    && /opt/kiara/bin/pip install --no-cache-dir --index-url "${TORCH_INDEX}" "torch>=2.13,<2.14" \
    && /opt/kiara/bin/pip install --no-cache-dir "$(echo /wheels/kiara_slm-*.whl)[${EXTRAS}]"

# The compiler makes Kiara's C loops for this processor when they are first used; PACKAGES="" leaves it to PyTorch alone,
# which is slower, and the image 0.1 GB smaller.
FROM python:${PYTHON}-slim AS base
ARG PACKAGES="gcc libc6-dev"
# hadolint ignore=DL3008
RUN if [ -n "${PACKAGES}" ]; then \
      apt-get update && apt-get install --yes --no-install-recommends ${PACKAGES} && rm -rf /var/lib/apt/lists/*; \
    fi
RUN useradd --uid 1000 --user-group --create-home kiara \
    && mkdir -p /kiara/data /kiara/checkpoints /kiara/cache \
    && chown -R kiara:kiara /kiara && chmod 700 /kiara/cache
ENV PATH=/opt/kiara/bin:$PATH PYTHONUNBUFFERED=1 USER=kiara KIARA_CACHE=/kiara/cache KIARA__LOGGING__FORMAT=json
USER 1000:1000
WORKDIR /kiara
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request as web; web.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["kiara"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000"]

FROM base AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=packages-cuda /opt/kiara /opt/kiara

FROM base AS cpu
COPY --from=packages-cpu /opt/kiara /opt/kiara
