"""Strict configuration: frozen dataclasses read from YAML and `--set key=value`, every mistake reported at once.

No code names, no tags, no anchors: a configuration is plain data. Numbers are what they look like (`5e-4` is a float,
`2.7` is not an integer, `true` is not a number), and an unknown key is an error that names the nearest valid one.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import yaml

from w2vbert_asr.errors import ConfigError, summarize

T = TypeVar("T")
MAX_BYTES = 1 << 16
MAX_DEPTH = 50  # levels; the parser takes minutes for thousands of opened brackets
_PLAIN_KINDS = ("str", "int", "float", "bool", "null", "seq", "map", "timestamp")
_PLAIN_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in _PLAIN_KINDS}


class _Problem(Exception):
    """One mistake, at one place; collected, never shown alone."""


@dataclasses.dataclass(frozen=True)
class _Value:
    """A parsed value and where it stands: `value` is a scalar, a list of _Value or a dict of str to _Value."""

    value: Any
    where: str


def load(
    cls: type[T],
    path: Path | str | None = None,
    settings: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
) -> T:
    """An instance of dataclass `cls` from a YAML file, `key=value` settings and options; the later ones win.

    `settings` are dotted keys with values in YAML (`encoder.num_layers=12`), `options` dotted keys with values as they
    are. Raises ConfigError listing every mistake with file, line, full key, value and nearest valid key. A dataclass
    may define `problems(self) -> list[str]` for what depends on several fields.
    """
    tree = _read_file(Path(path)) if path is not None else _Value({}, "defaults")
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(f"--set {setting}: expected key=value, such as encoder.num_layers=12")
        _insert(tree, key.strip().replace("-", "_").split("."), _read_text(text, f"--set {key}"), key)
    for key, value in (options or {}).items():
        _insert(tree, key.split("."), _wrap(value, f"option {key}"), key)
    problems: list[str] = []
    config = _build(cls, tree, "", problems)
    if problems:
        raise ConfigError("configuration:\n" + summarize(problems, limit=40))
    return typing.cast(T, config)


def to_dict(config: Any) -> Any:
    """Plain data (dicts, lists, scalars) that `load` turns back into an equal configuration."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {field.name: to_dict(getattr(config, field.name)) for field in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {str(key): to_dict(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [to_dict(value) for value in config]
    return str(config) if isinstance(config, Path) else config


def from_dict(cls: type[T], tree: Mapping[str, Any], where: str = "configuration") -> T:
    """The inverse of `to_dict`, with the checks of `load`."""
    problems: list[str] = []
    config = _build(cls, _wrap(dict(tree), where), "", problems)
    if problems:
        raise ConfigError(f"{where}:\n" + summarize(problems, limit=40))
    return typing.cast(T, config)


def dump(config: Any) -> str:
    """The configuration as YAML text, fields in their order; `load` reads it back to an equal one."""
    return yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True, width=120)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping as plain data, under the same restrictions as a configuration."""
    return typing.cast(dict[str, Any], _unwrap(_read_file(path)))


def difference(old: Any, new: Any, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Dotted key -> (old value, new value), for every leaf in which two configurations as plain data differ."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found: dict[str, tuple[Any, Any]] = {}
        for key in dict.fromkeys([*old, *new]):
            found.update(difference(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else str(key)))
        return found
    return {} if old == new else {prefix: (old, new)}


# --- text -> tree ---


def _read_file(path: Path) -> _Value:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)  # a device or a pipe has no size to ask for
        if len(content) > MAX_BYTES:
            raise ConfigError(f"{path}: larger than {MAX_BYTES} bytes; a configuration is a few lines of YAML")
        text = content.decode("utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give an existing YAML file") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    tree = _read_text(text, str(path), lines=True)
    if tree.value is None:
        return _Value({}, tree.where)
    if not isinstance(tree.value, dict):
        raise ConfigError(f"{tree.where}: expected `key: value` lines, found {tree.value!r}")
    return tree


def _read_text(text: str, where: str, lines: bool = False) -> _Value:
    try:
        loader, depth = yaml.SafeLoader(text), 0
        for event in yaml.parse(text, yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise ConfigError(f"{where}: nested more than {MAX_DEPTH} deep; a configuration is a few plain keys")
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                at = f":{event.start_mark.line + 1}" if lines and event.start_mark else ""
                raise ConfigError(f"{where}{at}: anchors and aliases are not allowed; write the value out")
        node = loader.get_single_node()
        if node is None:
            return _Value(None, where)
        return _from_node(node, loader, where, lines)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f":{mark.line + 1}" if lines and mark is not None else ""
        raise ConfigError(f"{where}{at}: not valid YAML: {getattr(error, 'problem', None) or error}") from error


def _from_node(node: yaml.Node, loader: yaml.SafeLoader, where: str, lines: bool) -> _Value:
    here = f"{where}:{node.start_mark.line + 1}" if lines else where
    if node.tag not in _PLAIN_TAGS:
        raise ConfigError(f"{here}: tag {node.tag!r} is not allowed; configurations are plain data")
    if isinstance(node, yaml.MappingNode):
        entries: dict[str, _Value] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            at = f"{where}:{key_node.start_mark.line + 1}" if lines else where
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag not in _PLAIN_TAGS:
                raise ConfigError(f"{at}: a key must be a plain word")
            if key in entries:
                raise ConfigError(f"{at}: duplicate key {key!r}, first at {entries[key].where}; keep one")
            entries[key] = _from_node(value_node, loader, where, lines)
        return _Value(entries, here)
    if isinstance(node, yaml.SequenceNode):
        return _Value([_from_node(child, loader, where, lines) for child in node.value], here)
    if node.tag.endswith(":timestamp"):
        return _Value(str(node.value), here)
    try:
        return _Value(loader.construct_object(node), here)
    except ValueError as error:
        raise ConfigError(f"{here}: {node.value!r} is not a valid value") from error


def _wrap(value: Any, where: str) -> _Value:
    if isinstance(value, Mapping):
        return _Value({str(key): _wrap(child, where) for key, child in value.items()}, where)
    if isinstance(value, list | tuple):
        return _Value([_wrap(child, where) for child in value], where)
    return _Value(value, where)


def _unwrap(tree: _Value) -> Any:
    if isinstance(tree.value, dict):
        return {key: _unwrap(child) for key, child in tree.value.items()}
    if isinstance(tree.value, list):
        return [_unwrap(child) for child in tree.value]
    return tree.value


def _insert(tree: _Value, keys: list[str], value: _Value, full_key: str) -> None:
    for depth, key in enumerate(keys[:-1]):
        child = tree.value.get(key)
        if child is None or child.value is None:
            child = tree.value[key] = _Value({}, value.where)
        if not isinstance(child.value, dict):
            raise ConfigError(f"option {full_key}: {'.'.join(keys[: depth + 1])} is a value, it has no keys")
        tree = child
    tree.value[keys[-1]] = value


# --- tree -> dataclass ---


def is_required(field: dataclasses.Field[Any]) -> bool:
    """Whether the field has no default."""
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _build(cls: Any, tree: _Value, prefix: str, problems: list[str]) -> Any:
    if not isinstance(tree.value, dict):
        name = prefix.rstrip(".") or "the file"
        problems.append(f"{tree.where}: {name}: expected keys and values, found {_shown(tree)}")
        return None
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    values: dict[str, Any] = {}
    before = len(problems)
    for key, child in tree.value.items():
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1, cutoff=0.5)
            hint = f"did you mean {prefix}{near[0]!s}?" if near else f"valid keys: {', '.join(fields)}"
            problems.append(f"{child.where}: unknown key {prefix}{key}; {hint}")
            continue
        values[key] = _convert(hints[key], child, f"{prefix}{key}", problems)
    for name, field in fields.items():
        if name not in tree.value and is_required(field):
            if dataclasses.is_dataclass(hints[name]):
                values[name] = _build(hints[name], _Value({}, tree.where), f"{prefix}{name}.", problems)
            else:
                problems.append(f"{tree.where}: {prefix}{name} is required")
    if len(problems) > before:
        return None
    config = cls(**values)
    for problem in getattr(config, "problems", list)():
        problems.append(f"{tree.where}: {prefix}{problem}" if prefix else f"{tree.where}: {problem}")
    return config


def _convert(hint: Any, tree: _Value, key: str, problems: list[str]) -> Any:
    if dataclasses.is_dataclass(hint):
        if dataclasses.is_dataclass(tree.value) and isinstance(tree.value, typing.cast(type, hint)):
            return tree.value
        return _build(hint, _Value({}, tree.where) if tree.value is None else tree, f"{key}.", problems)
    try:
        return _convert_value(hint, tree, key, problems)
    except _Problem as problem:
        problems.append(f"{tree.where}: {key}: {problem}")
        return None


def _convert_value(hint: Any, tree: _Value, key: str, problems: list[str]) -> Any:
    origin, args, value = get_origin(hint), get_args(hint), tree.value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        rest = [arg for arg in args if arg is not type(None)]
        if len(rest) == 1:
            return _convert(rest[0], tree, key, problems)
        for arg in rest:
            try:
                return _convert_value(arg, tree, key, problems)
            except _Problem:
                continue
        raise _Problem(f"expected one of {', '.join(_name(arg) for arg in args)}, found {_shown(tree)}")
    if origin is Literal:
        if value in args and type(value) in {type(arg) for arg in args}:
            return value
        near = difflib.get_close_matches(str(value), [str(arg) for arg in args], n=1, cutoff=0.5)
        hint_text = f"; did you mean {near[0]}?" if near else ""
        raise _Problem(f"expected one of {', '.join(str(arg) for arg in args)}, found {_shown(tree)}{hint_text}")
    if origin in (tuple, list):
        if not isinstance(value, list):
            raise _Problem(f"expected a list, found {_shown(tree)}")
        if origin is tuple and not (len(args) == 2 and args[1] is Ellipsis):
            if len(value) != len(args):
                raise _Problem(f"expected {len(args)} values, found {len(value)}")
            kinds: Sequence[Any] = args
        else:
            kinds = [args[0]] * len(value)
        pairs = enumerate(zip(kinds, value, strict=True))
        return origin(_convert(kind, item, f"{key}[{i}]", problems) for i, (kind, item) in pairs)
    if origin is dict:
        if not isinstance(value, dict):
            raise _Problem(f"expected keys and values, found {_shown(tree)}")
        return {name: _convert(args[1], child, f"{key}.{name}", problems) for name, child in value.items()}
    return _scalar(hint, tree)


def _scalar(hint: Any, tree: _Value) -> Any:
    value = tree.value
    if hint is bool and isinstance(value, bool):
        return value
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if hint is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            number = float(value)  # YAML 1.1 reads 5e-4 as a string
        except ValueError:
            number = math.nan
        if math.isfinite(number):
            return number
    if hint is str and isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)
    if hint is Path and isinstance(value, str | Path) and str(value):
        return Path(value)
    if hint is type(None) and value is None:
        return None
    raise _Problem(f"expected {_name(hint)}, found {_shown(tree)}")


def _name(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}
    names[type(None)] = "null"
    return names.get(hint, getattr(hint, "__name__", str(hint)))


def _shown(tree: _Value) -> str:
    text = repr(_unwrap(tree))
    return text if len(text) <= 80 else text[:77] + "..."
