"""Reads the settings from environment variables and a TOML file. Variables override the file.

The variable of `server.max_message_bytes` is `OFFRAMP_SERVER__MAX_MESSAGE_BYTES`. The value of a section or a
list is JSON. Unknown keys are refused; the message lists the known ones. Variables that Kubernetes sets for
a Service are ignored.
"""

import json
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict, SettingsError

from serving.config import Config, ModelSettings, Settings
from serving.errors import ConfigurationError, first_complaint, shown

PREFIX = "OFFRAMP_"
DELIMITER = "__"
PATHS = ("certificate", "key", "client_ca", "token_file")
"""Keys of `[security]` that are paths."""
KUBERNETES = re.compile(r".*_(SERVICE_HOST|SERVICE_PORT|PORT|PORT_.*)")
"""Variables that Kubernetes sets in each pod for a Service, such as OFFRAMP_PORT_8001_TCP_ADDR."""

Location = tuple[str, ...]
"""A section, a key in it, and so on."""


class _Variables(Config, BaseSettings):
    """The settings, as pydantic-settings names their variables."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter=DELIMITER)


def load_config(path: Path | None) -> Config:
    """Read the variables, and a TOML file if given. Raise ConfigurationError for an invalid setting."""
    _check_variable_names()
    document = {} if path is None else _read_file(path)
    try:
        return Config.model_validate(_merged(document, EnvSettingsSource(_Variables)()))
    except SettingsError as error:
        raise ConfigurationError(_not_json()) from error
    except ValidationError as error:
        location = tuple(str(part) for part in error.errors(include_url=False)[0]["loc"])
        raise ConfigurationError(
            f"{_origin(location, path)}: {first_complaint(error)}{_known_keys(error)}"
        ) from error


def _read_file(path: Path) -> dict[str, Any]:
    try:
        document = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: not TOML: {error}") from error
    security = document.get("security")
    if isinstance(security, dict):
        paths = {key: security[key] for key in PATHS if isinstance(security.get(key), str)}
        security |= {key: str(path.parent / value) for key, value in paths.items()}
    return document


def _merged(document: Mapping[str, Any], variables: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document with the values of the variables, section by section."""
    merged = dict(document)
    for key, value in variables.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def _check_variable_names() -> None:
    """Raise ConfigurationError for a misspelled variable. Ignored, it would leave its setting at the default.

    Names without a section and without two underscores are ignored: they may belong to other programs.
    """
    sections = Config.model_fields
    for name, (section, *_) in sorted(_locations().items()):
        if section in sections or KUBERNETES.fullmatch(name.upper()):
            continue
        known = f"known sections: {', '.join(sections)}"
        if DELIMITER in name:
            raise ConfigurationError(f"{name}: unknown section {shown(repr(section))}, {known}")
        first, underscore, key = section.partition("_")
        if underscore and first in sections:
            variable = f"{PREFIX}{first}{DELIMITER}{key}".upper()
            raise ConfigurationError(
                f"{name}: expected two underscores after the section, {shown(variable)}, {known}"
            )


def _variables() -> dict[str, Location]:
    """Return the variables that are set, with the locations of their settings."""
    return {name: location for name, location in _locations().items() if location[0] in Config.model_fields}


def _locations() -> dict[str, Location]:
    """Return the variables with the prefix, with the parts of their names."""
    names = [name for name in os.environ if name.upper().startswith(PREFIX)]
    return {name: tuple(name[len(PREFIX) :].lower().split(DELIMITER)) for name in names}


def _origin(location: Location, path: Path | None) -> str:
    """Return the variables and the file that may have set a value."""
    variables = _variables()
    for name, variable_location in variables.items():
        if variable_location == location:
            return name
    related = [name for name, other in variables.items() if _is_prefix(other, location)]
    related += [name for name, other in variables.items() if _is_prefix(location, other)]
    return ", ".join([*sorted(related), *([str(path)] if path is not None else [])])


def _is_prefix(start: Location, location: Location) -> bool:
    return location[: len(start)] == start


def _not_json() -> str:
    """Return a message about the first variable whose value must be JSON and is not."""
    for name, location in _variables().items():
        if len(location) == 1 or location[0] == "models":
            try:
                json.loads(os.environ[name])
            except ValueError:
                return f"{name}: {'.'.join(location)}: expected JSON, got {shown(repr(os.environ[name]))}"
    raise AssertionError("the caller found such a variable")


def _known_keys(error: ValidationError) -> str:
    """Return a list of the section's keys if the error is an unknown key, otherwise nothing."""
    first = error.errors(include_url=False)[0]
    if first["type"] != "extra_forbidden":
        return ""
    name, *inner = first["loc"]
    if not inner:
        section: type[Settings] = Config
    elif name == "models":
        section = ModelSettings
    else:
        section = type(Config.model_fields[str(name)].default)
    return f", known keys: {', '.join(section.model_fields)}"
