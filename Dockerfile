# syntax=docker/dockerfile:1
# ldm in a container, as a user without rights.
#
#   docker build -t ldm .
#   docker run --rm --stop-timeout 120 -v "$PWD":/work --user "$(id -u):$(id -g)" ldm train-vqvae --data photos/ --name mine
#
# With CUDA (the machine needs the NVIDIA container toolkit; torch brings the CUDA libraries):
#
#   docker build -t ldm:cuda --build-arg BASE=nvidia/cuda:12.6.3-base-ubuntu24.04 \
#     --build-arg TORCH_INDEX=https://pypi.org/simple .
#   docker run --rm --gpus all --stop-timeout 120 -v "$PWD":/work --user "$(id -u):$(id -g)" ldm:cuda train-dit --name mine
#
# `docker stop` leaves a checkpoint if it has the time (hence --stop-timeout), and the same command goes on from it.
ARG BASE=python:3.12-slim-bookworm
# hadolint ignore=DL3006
FROM ${BASE}

ARG TORCH=torch==2.13.0
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# For instance [fid] or [fid,tensorboard]; see pyproject.toml.
ARG EXTRAS=

ENV PATH=/opt/ldm/bin:$PATH \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    MPLCONFIGDIR=/tmp/matplotlib

# A compiler for --compile; Python where the base has none. What changes least comes first.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && { command -v python3 || apt-get install --yes --no-install-recommends python3 python3-dev python3-venv; } \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/ldm \
    && useradd --uid 10001 --user-group --create-home ldm \
    && install --directory --owner ldm --group ldm /work

# hadolint ignore=DL3013
RUN pip install --index-url "${TORCH_INDEX}" "${TORCH}"

WORKDIR /src
COPY pyproject.toml ./
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
        > /tmp/requirements.txt \
    && pip install -r /tmp/requirements.txt \
    && rm /tmp/requirements.txt

COPY README.md LICENSE ./
COPY ldm ldm
COPY recipes recipes
COPY core core
COPY stages stages
COPY cli cli
# hadolint ignore=DL3013
RUN pip install ".${EXTRAS}" && ldm --version

USER 10001:10001
WORKDIR /work
ENTRYPOINT ["ldm"]
CMD ["--help"]
