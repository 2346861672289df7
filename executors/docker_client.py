"""The engine's API in our own words: blocking calls, each of which returns values or raises an `ExecutorError`.

The one module that knows the `docker` SDK. It takes a while to import, so `executors.docker` does so when it opens.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import docker.auth
import docker.errors
import docker.types
import docker.utils
import requests
import urllib3.exceptions

from executors import docker_socket
from executors.base import AttemptSpec
from executors.docker_wire import (
    DATA_DIRECTORY,
    DIGEST_LABEL,
    NAME_LABEL,
    XCOM_DIRECTORY,
    Container,
    Image,
    command_paths,
    format_time,
    gateway_of,
    in_data_directory,
    parse_container,
    parse_image,
    parse_time_ns,
)
from executors.errors import EngineUnreachable, ExecutorError, ImageError, StartRefused, Unsettled

CONNECT_TIMEOUT_S = 5.0
UNIX_PREFIX = "unix://"
LOOPBACK = "127.0.0.1"
DEFAULT_URL = f"{UNIX_PREFIX}/var/run/docker.sock"
PULL_SILENCE_S = 300.0  # a pull that says nothing for so long hangs
LOG_FILES = 5  # the engine keeps so many files of a log, together a little more than the attempt's limit
LOG_FILE_BYTES_MIN = 1024 * 1024
READ_BYTES = 64 * 1024
REMOVAL_LOOK_S = 0.1
KNOWN_COMMANDS_MAX = 1024


class NameTaken(ExecutorError):
    """A container of that name came into being since it was looked for."""


class Client:
    """A connection to one engine. Its methods may be called from several threads.

    base_url: such as unix:///var/run/docker.sock; None = as DOCKER_HOST, DOCKER_TLS_VERIFY and DOCKER_CERT_PATH say.
    timeout_s: for one answer. connections: kept open.
    Raises EngineUnreachable.
    """

    def __init__(self, base_url: str | None, *, timeout_s: float, connections: int) -> None:
        keywords: dict[str, Any] = {"base_url": base_url} if base_url else {**docker.utils.kwargs_from_env()}
        self.url = str(keywords.setdefault("base_url", DEFAULT_URL))
        self._timeout = (CONNECT_TIMEOUT_S, timeout_s)
        self._known_commands: set[tuple[str, tuple[str, ...]]] = set()
        try:
            with self._asking("connecting", final=True):
                if self.url.startswith(UNIX_PREFIX):
                    self._api = docker_socket.connect(self.url, timeout_s=int(timeout_s), connections=connections)
                else:
                    self._api = docker.APIClient(timeout=int(timeout_s), max_pool_size=connections, **keywords)
        except docker.errors.DockerException as error:  # the SDK wraps what happens while it asks for the version
            raise EngineUnreachable(f"connecting to {self.url}: {error}") from error
        try:
            with self._asking("asking what the engine is", final=True):
                info = self._api.info()
        except ExecutorError:
            self._api.close()
            raise
        self.opened_ns = parse_time_ns(info["SystemTime"]) or 0
        # The engine runs `docker-init --version` to answer this, and says N/A where it could not.
        self._has_init = (info.get("InitCommit") or {}).get("ID") != "N/A"
        # `local` keeps bytes as they are; `json-file` replaces what is not UTF-8.
        self._log_driver = "local" if "local" in (info.get("Plugins") or {}).get("Log", ()) else "json-file"

    def close(self) -> None:
        """Close all connections."""
        self._api.close()

    @contextmanager
    def _asking(self, doing: str, *, final: bool = False) -> Iterator[None]:
        """Turn what the SDK and its HTTP client raise into our tree, with the engine's own words.

        final: an engine that fails has thereby refused. Without, its failure says nothing about the attempt: Unsettled.
        """
        try:
            yield
        except docker.errors.APIError as error:
            words = str(error.explanation or error)
            if error.status_code == requests.codes.service_unavailable:
                raise EngineUnreachable(f"{doing}: the engine is not ready: {words}") from error
            if error.status_code >= requests.codes.server_error and not final:
                raise Unsettled(f"{doing}: the engine failed: {words}") from error
            raise ExecutorError(f"{doing}: the engine refused: {words}") from error
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise EngineUnreachable(
                f"{doing}: no engine answers at {self.url} ({error}): is dockerd up, is DOCKER_HOST right?"
            ) from error

    # ---- images

    def image(self, name: str) -> Image | None:
        """The image of that name or id on the engine."""
        try:
            with self._asking(f"looking for image {name}", final=True):
                data = self._api.inspect_image(name)  # type: ignore[no-untyped-call]  # the stubs leave it out
        except ExecutorError as error:
            if _status(error) == requests.codes.not_found:
                return None
            raise
        return parse_image(data)

    def pull(self, name: str, given_up: Callable[[], bool]) -> None:
        """Fetch an image from its registry. given_up: asked at each step; True ends the pull. Raises ImageError."""
        repository, tag = docker.utils.parse_repository_tag(name)
        registry, _ = docker.auth.resolve_repository_name(repository)
        credentials = docker.auth.get_config_header(self._api, registry)
        with self._asking(f"pulling image {name}", final=True):
            response = self._api.post(
                self._url("images/create"),
                params={"fromImage": repository, "tag": tag or "latest"},
                headers={"X-Registry-Auth": credentials} if credentials else {},
                stream=True,
                timeout=(CONNECT_TIMEOUT_S, PULL_SILENCE_S),
            )
            with response:
                if not response.ok:
                    raise ImageError(f"image {name} cannot be pulled: {_explanation(response)}")
                for line in response.iter_lines():
                    words = json.loads(line).get("error") if line else None
                    if words:
                        raise ImageError(f"image {name} cannot be pulled: {words}")
                    if given_up():
                        raise ImageError(f"image {name}: the pull was given up because the executor closes")

    # ---- containers

    def find(self, name: str) -> Container | None:
        """The container of exactly that name."""
        try:
            with self._asking(f"looking for container {name}"):
                found = parse_container(self._api.inspect_container(name))
        except ExecutorError as error:
            if _status(error) == requests.codes.not_found:
                return None
            raise
        return found if found.name == name else None  # the engine also takes the beginning of an id

    def create(self, spec: AttemptSpec, image: Image, *, network: str | None, pids_limit: int) -> str:
        """Make the container, not started; its id. Raises NameTaken, ImageError, ExecutorError, EngineUnreachable.

        With an init where the engine has one: a plain command as process 1 would ignore SIGTERM and reap no orphans.
        But an init that is given a command that is not there starts well and ends with 127, so such a command is
        left to the engine, which refuses it and says why (P11).
        """
        config = self._host_config(spec, network, pids_limit)
        config["Init"] = self._has_init
        container_id = self._create(spec, image, config)
        if self._has_init and not self._finds_command(container_id, spec, image):
            self.remove(container_id)
            config["Init"] = False
            container_id = self._create(spec, image, config)
        return container_id

    def _create(self, spec: AttemptSpec, image: Image, host_config: Mapping[str, Any]) -> str:
        labels = {**spec.labels, NAME_LABEL: spec.name}
        if image.digest:
            labels[DIGEST_LABEL] = image.digest
        try:
            with self._asking(f"creating container {spec.name}", final=True):
                answer = self._api.create_container(
                    spec.image,
                    command=list(spec.command) or None,
                    entrypoint=None if spec.entrypoint is None else (list(spec.entrypoint) or [""]),
                    name=spec.name,
                    environment=dict(spec.environment),
                    labels=labels,
                    host_config=host_config,
                    stop_timeout=int(spec.stop_grace_s),
                    use_config_proxy=False,  # the environment is what was compiled, nothing of this host's
                )
        except ExecutorError as error:
            if _status(error) == requests.codes.conflict:
                raise NameTaken(str(error)) from error
            if isinstance(error.__cause__, docker.errors.ImageNotFound):
                raise ImageError(
                    f"image {spec.image} was removed from this engine before its container was made"
                ) from error
            raise
        return str(answer["Id"])

    def _host_config(self, spec: AttemptSpec, network: str | None, pids_limit: int) -> dict[str, Any]:
        memory, cores = spec.resources.memory_bytes, spec.resources.cpu_cores
        limits: dict[str, Any] = {}
        if memory is not None:
            limits |= {"mem_limit": memory, "memswap_limit": memory}  # equal: no swap beside it
        if cores is not None:
            limits["nano_cpus"] = int(cores * 1e9)
        if network is not None:
            limits["network_mode"] = network
        return dict(
            self._api.create_host_config(
                mounts=[
                    docker.types.Mount(DATA_DIRECTORY, str(spec.directory.absolute()), type="bind"),
                    docker.types.Mount(XCOM_DIRECTORY, str(spec.directory.absolute() / "out"), type="bind"),
                ],
                log_config=self._log_config(spec.log_limit_bytes),
                pids_limit=pids_limit,
                **limits,
            )
        )

    def _finds_command(self, container_id: str, spec: AttemptSpec, image: Image) -> bool:
        paths = command_paths(spec, image)
        known = (image.id, paths)
        if known in self._known_commands:
            return True
        if not any(self._has_file(container_id, spec.directory, path) for path in paths):
            return False
        if len(self._known_commands) < KNOWN_COMMANDS_MAX and not any(map(in_data_directory, paths)):
            self._known_commands.add(known)  # an image never changes
        return True

    def _has_file(self, container_id: str, directory: Path, path: str) -> bool:
        if in_data_directory(path):
            return (directory / path.removeprefix(f"{DATA_DIRECTORY}/")).exists()
        url = self._url(f"containers/{container_id}/archive")
        with self._asking(f"looking for {path} in image"):
            return self._api.head(url, params={"path": path}, timeout=self._timeout).ok

    def start(self, container_id: str, not_after_s: float) -> bool:
        """Start a container just made, by its id; False if it was removed meanwhile.

        Raises StartRefused, having removed it, when `not_after_s` (CLOCK_BOOTTIME) is over; ExecutorError, having
        removed it, where the engine cannot start it; EngineUnreachable where it is not known.
        """
        late_s = time.clock_gettime(time.CLOCK_BOOTTIME) - not_after_s
        if late_s > 0:
            self.remove(container_id)
            raise StartRefused(f"the start came {late_s:.3f} s after its not-after: nothing was started")
        try:
            with self._asking("starting the container", final=True):
                self._api.start(container_id)
        except EngineUnreachable:
            raise
        except ExecutorError as error:
            if _status(error) in (requests.codes.not_found, requests.codes.conflict):
                found = self.find_id(container_id)
                if found is None or not found.alive:  # gone, or marked for removal
                    return False
            self.remove(container_id)
            raise
        return True

    def find_id(self, container_id: str) -> Container | None:
        """The container of that id."""
        try:
            with self._asking(f"looking for container {container_id}"):
                return parse_container(self._api.inspect_container(container_id))
        except ExecutorError as error:
            if _status(error) == requests.codes.not_found:
                return None
            raise

    def discard(self, container: Container) -> int | None:
        """Remove a container that has not started, so that it never can (P3).

        Returns when it started after all (nanoseconds since the epoch), else None. The engine takes the container's
        lock for a start and for a removal, so one comes first: after the removal a start finds nothing, and a running
        container is not removed without force. One that started and ended between our look and the removal is
        removed; its start is then among the engine's last events.
        """
        for _ in range(int(self._timeout[1] / REMOVAL_LOOK_S)):
            try:
                with self._asking(f"removing container {container.name}, which never started"):
                    self._api.remove_container(container.id, v=True, force=False)
                break
            except ExecutorError as error:
                if _status(error) not in (requests.codes.not_found, requests.codes.conflict):
                    raise
            now = self.find_id(container.id)
            if now is None:
                break
            if now.started_ns is not None:
                return now.started_ns
            time.sleep(REMOVAL_LOOK_S)  # another removal is under way
        else:
            raise Unsettled(f"container {container.name}: a removal does not end: look at the engine's log")
        return self._start_event_ns(container)

    def _start_event_ns(self, container: Container) -> int | None:
        with self._asking(f"asking for the events of container {container.name}"):
            until_ns = parse_time_ns(self._api.info()["SystemTime"]) or 0
        filters = {"type": ["container"], "container": [container.id], "event": ["start"]}
        with self.events(container.created_ns, filters, self._timeout[1], until_ns=until_ns) as response:
            return next((int(event["timeNano"]) for event in self.each_event(response)), None)

    def kill(self, container_id: str, signal: str) -> None:
        """Send a signal to the container's first process; nothing if it does not run."""
        try:
            with self._asking(f"sending {signal} to container {container_id[:12]}"):
                self._api.kill(container_id, signal)
        except ExecutorError as error:
            if _status(error) not in (requests.codes.not_found, requests.codes.conflict):
                raise

    def remove(self, name: str) -> bool:
        """Remove a container and its anonymous volumes, running or not. False while another removal is under way."""
        try:
            with self._asking(f"removing container {name}"):
                self._api.remove_container(name, v=True, force=True)
        except ExecutorError as error:
            if _status(error) == requests.codes.conflict:
                return False
            if _status(error) != requests.codes.not_found:
                raise
        return True

    def names(self, labels: Mapping[str, str], *, running: bool = False) -> frozenset[str]:
        """Names of the attempts' containers that carry `labels`. running: only those that run."""
        wanted = [NAME_LABEL, *(f"{key}={value}" for key, value in labels.items())]
        with self._asking("listing containers"):
            found = self._api.containers(all=not running, filters={"label": wanted})
        return frozenset(container["Labels"][NAME_LABEL] for container in found)

    def gateway(self, network: str) -> str | None:
        """This host's address on a container network; None where it has none, or the engine is on another host."""
        with self._asking(f"looking for network {network}"):
            found = self._api.inspect_network(network)
        if found["Driver"] == "host":
            return LOOPBACK
        configs = (found["IPAM"] or {}).get("Config") or ()
        return next((address for config in configs if _is_ours(address := gateway_of(config))), None)

    # ---- streams

    def events(
        self, since_ns: int, filters: Mapping[str, list[str]], silence_s: float, *, until_ns: int | None = None
    ) -> requests.Response:
        """Events, one JSON object a line, from `since_ns` on. Reading raises after `silence_s` without any."""
        params = {"since": format_time(since_ns), "filters": json.dumps(filters)}
        if until_ns is not None:
            params["until"] = format_time(until_ns)
        return self._get("events", params, silence_s)

    def each_event(self, response: requests.Response) -> Iterator[dict[str, Any]]:
        """The events of a stream as they come. Raises EngineUnreachable where it breaks or was silent for too long."""
        with self._asking("reading events"):
            for line in response.iter_lines():
                if line:
                    yield json.loads(line)

    def logs(self, name: str, since_ns: int, tail: int | None) -> requests.Response:
        """What the container has written so far, in frames. tail: only the last so many records."""
        params = {"stdout": "1", "stderr": "1", "timestamps": "1", "tail": "all" if tail is None else str(tail)}
        if since_ns:
            params["since"] = format_time(since_ns)
        return self._get(f"containers/{name}/logs", params, self._timeout[1])

    def read_some(self, response: requests.Response) -> bytes:
        """The next bytes of a stream; empty at its end. Raises EngineUnreachable."""
        with self._asking("reading a log"):
            return bytes(response.raw.read(READ_BYTES))

    def _get(self, path: str, params: Mapping[str, str], silence_s: float) -> requests.Response:
        # The SDK's own methods take times as floats, which lose nanoseconds, and do not tell stdout from stderr.
        with self._asking(f"asking for {path}"):
            response = self._api.get(
                self._url(path), params=dict(params), stream=True, timeout=(CONNECT_TIMEOUT_S, silence_s)
            )
            if not response.ok:
                with response:
                    words = _explanation(response)
                failed = response.status_code >= requests.codes.server_error
                raise (Unsettled if failed else ExecutorError)(f"asking for {path}: the engine refused: {words}")
        return response

    def _url(self, path: str) -> str:
        return f"{self._api.base_url}/v{self._api.api_version}/{path}"

    def _log_config(self, limit_bytes: int) -> docker.types.LogConfig:
        size = max(limit_bytes // (LOG_FILES - 1), LOG_FILE_BYTES_MIN)
        config = {"max-size": str(size), "max-file": str(LOG_FILES)}
        if self._log_driver == "local":
            config["compress"] = "false"  # what is copied within a second is not worth packing
        return docker.types.LogConfig(type=self._log_driver, config=config)


def _is_ours(address: str) -> bool:
    """True where a listener of this host can stand at `address`."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def _status(error: ExecutorError) -> int | None:
    cause = error.__cause__
    return cause.status_code if isinstance(cause, docker.errors.APIError) else None


def _explanation(response: requests.Response) -> str:
    try:
        return str(response.json()["message"])
    except (ValueError, KeyError):
        return response.text.strip() or f"HTTP status {response.status_code}"
