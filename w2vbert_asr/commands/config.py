"""`w2vbert config VERB`: the defaults of a verb's configuration as YAML, to copy from into a recipe's file."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import pkgutil
import typing
from dataclasses import dataclass
from typing import Any

import yaml

from w2vbert_asr import commands
from w2vbert_asr.config import is_required, to_dict
from w2vbert_asr.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Config:
    verb: str  # whose configuration


def run(config: Config) -> dict[str, object]:
    """Print the defaults; keys without one are listed in a comment. Raises ConfigError for an unknown verb."""
    required, defaults = split_defaults(_config_class(config.verb))
    if required:
        print(f"# without a default: {', '.join(required)}")
    print(yaml.safe_dump(defaults, sort_keys=False, allow_unicode=True, width=120), end="")
    return defaults


def split_defaults(cls: Any, prefix: str = "") -> tuple[list[str], dict[str, object]]:
    """(dotted keys without a default, the defaults of the others as plain data), sections included."""
    hints = typing.get_type_hints(cls)
    required: list[str] = []
    defaults: dict[str, object] = {}
    for field in dataclasses.fields(cls):
        key = f"{prefix}{field.name}"
        if not is_required(field):
            factory = field.default_factory
            defaults[field.name] = to_dict(field.default if factory is dataclasses.MISSING else factory())
        elif dataclasses.is_dataclass(hints[field.name]):
            more, section = split_defaults(hints[field.name], f"{key}.")
            required += more
            defaults[field.name] = section
        else:
            required.append(key)
    return required, defaults


def _config_class(verb: str) -> Any:
    verbs = [module.name for module in pkgutil.iter_modules(commands.__path__)]
    module = importlib.import_module(f"w2vbert_asr.commands.{verb}") if verb in verbs else None
    if not hasattr(module, "Config"):
        near = difflib.get_close_matches(verb, verbs, n=1)
        hint = f"did you mean {near[0]}?" if near else f"verbs: {', '.join(verbs)}"
        raise ConfigError(f"config: unknown verb {verb!r}; {hint}")
    return module.Config  # type: ignore[union-attr]
