# An agent in a container: the process executor inside it, or the host's Docker engine by its mounted socket.
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY agent agent
COPY consensus consensus
COPY transport transport
COPY executors executors
RUN python -m venv /opt/prime && /opt/prime/bin/pip install --no-cache-dir ".[postgresql,archive-s3]"

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --home-dir /var/lib/prime --create-home prime
COPY --from=build /opt/prime /opt/prime
ENV PATH=/opt/prime/bin:$PATH
USER prime
VOLUME /var/lib/prime
# Whether it takes work, which needs no token. PORT: of --http, where that is another.
ENV PORT=9100
HEALTHCHECK --interval=10s --timeout=3s CMD ["sh", "-c", "exec python3 -c \"import urllib.request as r, os; r.urlopen('http://127.0.0.1:' + os.environ['PORT'] + '/readyz', timeout=2)\""]
# Without tokens an agent answers on loopback only: run it in the host's network, or read docs/security.md.
ENTRYPOINT ["prime", "agent", "start", "--data-dir", "/var/lib/prime"]
