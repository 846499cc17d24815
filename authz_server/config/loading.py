"""The configuration: one frozen value, from file, environment and flags.

Later sources win: default, file, ``AUTHZ_SERVER_…``, flag. The names of the variables
and flags follow from the fields (``listen.socket_mode`` is
``AUTHZ_SERVER_LISTEN_SOCKET_MODE`` and ``--listen-socket-mode``). Nothing else of the
server reads the environment. Every problem is reported, not just the first.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from authz_server.config.contradictions import find_contradictions
from authz_server.config.sections import Config
from authz_server.errors import ConfigError

ENVIRONMENT_PREFIX: Final = "AUTHZ_SERVER_"
SPIFFE_ENDPOINT_SOCKET: Final = "SPIFFE_ENDPOINT_SOCKET"
"""The standard variable (SPIFFE Workload Endpoint §4) of one setting."""
WORKLOAD_API: Final = "identity.workload_api"


Setting = tuple[str, Any]
"""(dotted name, type) of one setting."""


def settings() -> Iterator[Setting]:
    """Yield every single setting."""
    yield from _settings_of(Config, "")


def _settings_of(section: type[Any], prefix: str) -> Iterator[Setting]:
    hints = typing.get_type_hints(section)
    for item in dataclasses.fields(section):
        name, hint = prefix + item.name, hints[item.name]
        if dataclasses.is_dataclass(hint):
            yield from _settings_of(typing.cast("type[Any]", hint), name + ".")
        else:
            yield name, hint


def environment_name(setting: str) -> str:
    """Return the variable for a dotted setting name."""
    return ENVIRONMENT_PREFIX + setting.replace(".", "_").upper()


def load_config(
    path: Path | None, environment: Mapping[str, str], flags: Mapping[str, str]
) -> Config:
    """Return the effective configuration.

    Args:
        path: YAML file, or None for none.
        environment: usually `os.environ`; only ``AUTHZ_SERVER_…`` is looked at.
        flags: dotted setting name to text.

    Raises:
        ConfigError: with every problem found.
    """
    problems: list[str] = []
    values: dict[str, object] = {}
    kinds = dict(settings())
    if path is not None:
        _flatten(_read(path), "", kinds, values, problems, source=str(path))
    for name in kinds:
        variable = environment_name(name)
        if variable in environment:
            values[name] = _Text(environment[variable], variable)
    if WORKLOAD_API not in values and SPIFFE_ENDPOINT_SOCKET in environment:
        values[WORKLOAD_API] = environment[SPIFFE_ENDPOINT_SOCKET]
    for name, text in flags.items():
        values[name] = _Text(text, "--" + name.replace(".", "-").replace("_", "-"))
    config: Config = _build(Config, "", values, problems)
    problems += find_contradictions(config) if not problems else []
    if problems:
        raise ConfigError(problems)
    return config


@dataclass(frozen=True, slots=True)
class _Text:
    """A value that came as text, from where."""

    text: str
    source: str


class _StrictLoader(yaml.SafeLoader):
    """Refuses a key that comes twice, of which YAML would silently take the last."""

    def construct_mapping(
        self,
        node: yaml.MappingNode,
        deep: bool = False,  # noqa: FBT001, FBT002 - theirs
    ) -> dict[Hashable, Any]:
        mapping = super().construct_mapping(node, deep)
        if len(mapping) != len(node.value):
            raise yaml.constructor.ConstructorError(
                None, None, "a key comes twice in this mapping", node.start_mark
            )
        return mapping


def _read(path: Path) -> object:
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), _StrictLoader)  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: not YAML: {error}"]) from error
    return {} if document is None else document


def _flatten(
    node: object,
    prefix: str,
    kinds: Mapping[str, object],
    values: dict[str, object],
    problems: list[str],
    *,
    source: str,
) -> None:
    if not isinstance(node, dict):
        problems.append(f"{source}: {prefix.rstrip('.') or 'file'}: expected a mapping")
        return
    for key, value in node.items():
        name = f"{prefix}{key}"
        if name in kinds:
            values[name] = value
        elif any(known.startswith(name + ".") for known in kinds):
            _flatten(value, name + ".", kinds, values, problems, source=source)
        else:
            known = ", ".join(
                sorted(
                    {
                        other.removeprefix(prefix).split(".")[0]
                        for other in kinds
                        if other.startswith(prefix)
                    }
                )
            )
            problems.append(f"{source}: {name}: unknown setting; known here: {known}")


def _build(
    section: type[Any], prefix: str, values: Mapping[str, object], problems: list[str]
) -> Any:  # noqa: ANN401 - an instance of `section`
    hints = typing.get_type_hints(section)
    arguments: dict[str, object] = {}
    for item in dataclasses.fields(section):
        name, hint = prefix + item.name, hints[item.name]
        if dataclasses.is_dataclass(hint):
            arguments[item.name] = _build(
                typing.cast("type[Any]", hint), name + ".", values, problems
            )
        elif name in values:
            try:
                arguments[item.name] = _convert(values[name], hint)
            except ValueError as error:
                problems.append(f"{name}: {error}")
    return section(**arguments)


def _convert(value: object, kind: object) -> object:
    """Return `value` as `kind`.

    Raises:
        ValueError: if it cannot be one.
    """
    source = ""
    if isinstance(value, _Text):
        source = f" (from {value.source})"
        value = value.text if kind is str else yaml.safe_load(value.text)
    if kind is float and type(value) is int:
        value = float(value)
    if kind == dict[str, str]:
        if isinstance(value, dict) and all(
            isinstance(item, str) for pair in value.items() for item in pair
        ):
            return dict(value)
        raise ValueError(f"expected a mapping of strings, got {value!r}{source}")
    if isinstance(kind, types.GenericAlias):
        item_kind = typing.get_args(kind)[0]
        if type(value) is item_kind:
            value = [value]
        if isinstance(value, list) and all(type(item) is item_kind for item in value):
            return tuple(value)
        items = "strings" if item_kind is str else "whole numbers"
        raise ValueError(f"expected a list of {items}, got {value!r}{source}")
    if type(value) is kind:
        return value
    expected = {str: "a string", bool: "true or false", int: "a whole number"}.get(
        typing.cast("type", kind), "a number"
    )
    mend = "; put it in quotes" if kind is str and value is not None else ""
    raise ValueError(f"expected {expected}, got {value!r}{source}{mend}")
