"""Plugins: what a task or a hook of a job names, and what is run for it.

Two shapes of `optimus-plugin-*.yaml` are read into one `Plugin`: the older one (`plugintype`, `image`, `hooktype`,
`dependson`, lists of `name` and `value`) and the newer one (`plugin_versions`, `default_config`). The newer one does
not say whether a plugin is a task or a hook; such a plugin may be used as both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from agent.spec.document import MappingNode, Problems, Scalar, compose, nearest
from agent.spec.errors import PluginError, Problem
from agent.spec.instance import INSTANCE_EXPECTED, INSTANCE_NAME, read_executor
from agent.spec.jobspec import HookType
from agent.spec.limits import argument_problem, asset_problems
from agent.spec.reader import Reader, Reading

DEFAULT: Final = "default"
"""The version that is meant where a job names none, and that lends other versions what they leave open."""

_PROMPTS = "has no effect; prime asks no questions"
_NOTES: Final = {
    "apiversion": "has no effect; every plugin is read the same way",
    "asset_parsers": "has no effect; upstreams are not inferred from assets, name them in the job's dependencies",
    "pluginmods": "has no effect; a plugin is its image and its defaults",
    "questions": _PROMPTS,
    "secretpath": "has no effect; a secret is reached through .secret.NAME in a config value",
}
_HOOK_TYPES = "pre, post or fail"


class PluginKind(StrEnum):
    """What a plugin may be used as."""

    TASK = "task"
    HOOK = "hook"
    ANY = "any"


class _DeclaredKind(StrEnum):
    TASK = "task"
    HOOK = "hook"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrypoint:
    """A script and the shell that runs it, with `-c`."""

    shell: str = "/bin/sh"
    script: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginVersion:
    """What one version of a plugin runs; an empty script leaves the image's own entrypoint in place."""

    image: str = ""
    tag: str = ""
    entrypoint: Entrypoint = field(default_factory=Entrypoint)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """A plugin of either shape.

    `hook_type` matters where it is used as a hook; `depends_on` names hooks that run before it. `command` is what the
    process executor runs instead of an image. `image_key` and `script_key` name the config values that a built-in
    plugin takes its image and its script from; empty for all others.
    """

    name: str
    description: str = ""
    kind: PluginKind = PluginKind.ANY
    hook_type: HookType = HookType.POST
    versions: dict[str, PluginVersion] = field(default_factory=dict)
    default_version: str = DEFAULT
    depends_on: tuple[str, ...] = ()
    default_config: dict[str, str] = field(default_factory=dict)
    default_assets: dict[str, str] = field(default_factory=dict)
    executor: str = ""
    command: tuple[str, ...] = ()
    destination_urn_template: str = ""
    image_key: str = ""
    script_key: str = ""

    def version(self, name: str = "") -> PluginVersion:
        """Return a version; the default one for an empty name or `default`. Raises PluginError for an unknown one."""
        wanted = self.default_version if name in ("", DEFAULT) else name
        if wanted not in self.versions:
            raise PluginError(f"plugin {self.name} has no version {wanted!r}{nearest(wanted, self.versions)}")
        return self.versions[wanted]

    def image(self, version: str = "", config: Mapping[str, str] | None = None) -> str:
        """Return the image to run, with its tag.

        Arguments: `version`, empty for the default; `config`, the instance's compiled one, for plugins with an
        `image_key`. Raises PluginError where the version is unknown or no image is named.
        """
        found = self.version(version)
        if self.image_key:
            image = (config or {}).get(self.image_key, "").strip()
            if not image:
                raise PluginError(f"plugin {self.name} runs the image that the config {self.image_key} names: set it")
            return image
        if not found.image:
            raise PluginError(f"plugin {self.name} names no image; add one, or run it with the executor process")
        return f"{found.image}:{found.tag}" if found.tag else found.image

    def entrypoint(self, version: str = "", config: Mapping[str, str] | None = None) -> Entrypoint | None:
        """Return the script to run, or None where the image's own entrypoint is meant.

        Arguments and errors as for `image`. A plugin with an image of the job's choice runs its script only where the
        config has one.
        """
        found = self.version(version).entrypoint
        if self.image_key and self.script_key and not (config or {}).get(self.script_key, "").strip():
            return None
        return found if found.script else None


SCRIPT_ASSET: Final = "script.sh"


def script_asset(names: Iterable[str]) -> str | None:
    """Return the asset that the plugin `shell` runs: `script.sh`, else the only `*.sh` at the top, else None."""
    scripts = [name for name in names if name.endswith(".sh") and "/" not in name]
    if SCRIPT_ASSET in scripts:
        return SCRIPT_ASSET
    return scripts[0] if len(scripts) == 1 else None


# Where SCRIPT or COMMAND is made with a secret, `compile.launch` runs it otherwise: arguments are no place for secrets.
_SHELL_SCRIPT = f"""\
if [ -n "${{SCRIPT:-}}" ]; then exec /bin/sh -c "$SCRIPT"; fi
if [ -f "$JOB_DIR/in/{SCRIPT_ASSET}" ]; then exec /bin/sh "$JOB_DIR/in/{SCRIPT_ASSET}"; fi
set -- "$JOB_DIR"/in/*.sh
exec /bin/sh "$1"
"""
_COMMAND_SCRIPT = 'exec /bin/sh -c "$COMMAND"'

SHELL: Final = Plugin(
    name="shell",
    description="Runs the config SCRIPT, or the asset script.sh, on the agent's host",
    versions={DEFAULT: PluginVersion(entrypoint=Entrypoint(script=_SHELL_SCRIPT))},
    executor="process",
    command=("/bin/sh", "-c", _SHELL_SCRIPT),
    script_key="SCRIPT",
)
CONTAINER: Final = Plugin(
    name="container",
    description="Runs the config COMMAND, or what the image runs by itself, in the image that the config IMAGE names",
    versions={DEFAULT: PluginVersion(entrypoint=Entrypoint(script=_COMMAND_SCRIPT))},
    executor="docker",
    image_key="IMAGE",
    script_key="COMMAND",
)
BUILTIN: Final[Mapping[str, Plugin]] = {plugin.name: plugin for plugin in (SHELL, CONTAINER)}
"""Plugins that need no file."""


def parse_plugin(text: str, file: str) -> tuple[Plugin | None, tuple[Problem, ...]]:
    """Read a plugin of either shape.

    Arguments: `text` of the YAML; `file`, the name that problems carry. Returns the plugin, None exactly where there is
    an error, and all problems. Raises nothing.
    """
    problems = Problems()
    reader = Reader.of_document(compose(text, file, problems), file, Reading(problems, _NOTES))
    plugin = _plugin(reader)
    return None if problems.refused else plugin, problems.listed()


def _plugin(reader: Reader) -> Plugin:
    name = reader.required("name", INSTANCE_EXPECTED, pattern=INSTANCE_NAME)
    if name in BUILTIN:
        reader.problem("name", f"the plugin {name} is built in; choose another name")
    newer = reader.has("plugin_versions")
    for key in _NOTES:
        reader.find(key)
    executor, command = read_executor(reader), _command(reader)
    versions, default_version = _newer_versions(reader) if newer else _older_version(reader)
    plugin = Plugin(
        name=name,
        description=reader.string("description", ""),
        kind=_kind(reader, newer=newer),
        hook_type=_hook_type(reader),
        versions=versions,
        default_version=default_version,
        depends_on=reader.strings("dependson"),
        default_config=_pairs(reader, "default_config" if newer else "defaultconfig"),
        default_assets=_pairs(reader, "default_assets" if newer else "defaultassets"),
        executor=executor,
        command=command,
        destination_urn_template=reader.string("destination_urn_template", ""),
    )
    _check_runnable(reader, plugin, newer=newer)
    _check_limits(reader, plugin, newer=newer)
    reader.close()
    return plugin


def _kind(reader: Reader, *, newer: bool) -> PluginKind:
    declared = reader.choice("plugintype", _DeclaredKind, None)
    if not newer and not reader.has("plugintype"):
        reader.missing("plugintype", "task or hook is required")
    return PluginKind(declared.value) if declared else PluginKind.ANY


def _hook_type(reader: Reader) -> HookType:
    hook_type = reader.choice("hooktype", HookType, HookType.POST)
    if hook_type in (HookType.SETUP, HookType.TEARDOWN):
        reader.problem("hooktype", f"a plugin's hooktype is {_HOOK_TYPES}; setup and teardown are set by a job's hook")
    return hook_type


def _older_version(reader: Reader) -> tuple[dict[str, PluginVersion], str]:
    name = reader.string("pluginversion", DEFAULT)
    reader.find("version")  # of the format; said by the newer shape, harmless here
    entrypoint = _entrypoint(reader, Entrypoint())
    version = PluginVersion(image=reader.string("image", ""), tag=reader.string("tag", ""), entrypoint=entrypoint)
    return {name: version}, name


def _newer_versions(reader: Reader) -> tuple[dict[str, PluginVersion], str]:
    reader.integer("version", 1)
    readers = dict(reader.named("plugin_versions"))
    # The default comes first: it lends the others what they leave open.
    base = _version(readers[DEFAULT], PluginVersion()) if DEFAULT in readers else PluginVersion()
    versions = {name: base if name == DEFAULT else _version(item, base) for name, item in readers.items()}
    if DEFAULT not in versions and len(versions) != 1:
        reader.problem("plugin_versions", f"a version named {DEFAULT!r} is required{nearest(DEFAULT, versions)}")
    return versions, DEFAULT if DEFAULT in versions else next(iter(versions), DEFAULT)


def _version(reader: Reader, base: PluginVersion) -> PluginVersion:
    version = PluginVersion(
        image=reader.string("image", base.image),
        tag=reader.string("tag", base.tag),
        entrypoint=_entrypoint(reader, base.entrypoint),
    )
    reader.close()
    return version


def _entrypoint(owner: Reader, base: Entrypoint) -> Entrypoint:
    node = owner.find("entrypoint")
    if isinstance(node, Scalar):
        return Entrypoint(shell=base.shell, script=node.text)
    reader = owner.child("entrypoint")
    entrypoint = Entrypoint(shell=reader.string("shell", base.shell), script=reader.string("script", base.script))
    reader.close()
    return entrypoint


def _command(reader: Reader) -> tuple[str, ...]:
    """Return the command of the process executor: a list of arguments, or one line for the shell."""
    node = reader.find("command")
    if isinstance(node, Scalar):
        return ("/bin/sh", "-c", node.text)
    return reader.strings("command")


def _pairs(reader: Reader, key: str) -> dict[str, str]:
    """Return names and values, written as a mapping or as a list of `name` and `value`."""
    if isinstance(reader.find(key), MappingNode):
        return reader.string_map(key)
    pairs: dict[str, str] = {}
    for item in reader.children(key):
        name = item.required("name", "the name of the value")
        if name in pairs:
            item.problem("name", f"{name} is given twice")
        pairs[name] = item.string("value", "")
        item.close()
    return pairs


def _check_runnable(reader: Reader, plugin: Plugin, *, newer: bool) -> None:
    if plugin.executor == "process":
        runnable = plugin.command or all(version.entrypoint.script for version in plugin.versions.values())
        if not runnable:
            reader.missing("command", "the process executor runs a command or an entrypoint's script")
    elif plugin.executor in ("", "docker", "kubernetes"):
        for name, version in plugin.versions.items():
            if not version.image:
                reader.missing(f"plugin_versions.{name}.image" if newer else "image", "the image to run is required")


def _check_limits(reader: Reader, plugin: Plugin, *, newer: bool) -> None:
    """What no attempt could be started with, or no attempt's folder hold."""
    config, versions = ("default_config", "plugin_versions") if newer else ("defaultconfig", "entrypoint")
    for wrong in asset_problems(plugin.default_assets):
        reader.problem("default_assets" if newer else "defaultassets", wrong)
    for name, text in plugin.default_config.items():
        if "{{" not in text and (message := argument_problem(text.strip(), name)) is not None:
            reader.problem(config, f"{name}: {message}")
    scripts = [text for one in plugin.versions.values() for text in (one.entrypoint.shell, one.entrypoint.script)]
    for key, texts in (("command", plugin.command), (versions, scripts)):
        for text in texts:
            if (message := argument_problem(text)) is not None:
                reader.problem(key, message)
