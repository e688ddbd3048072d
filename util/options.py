"""Settings as fields of pydantic models, and what is made of them: a command line, and the check of a CONFIG file.

A field's `setting` gives its default, what it is, its limits and, where make takes it, the name of its knob.
"""

import argparse
import difflib
import json
from pathlib import Path

import pydantic
from typing_extensions import TypedDict

from util.cli import InputError


class Part(pydantic.BaseModel):
    """Settings that belong together. Unknown ones are refused, and so are numbers that are not finite."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def setting(default, text, *, knob=None, **limits):
    """A field of a Part: its default, what it is, and pydantic's limits such as `gt=0`."""
    return pydantic.Field(default, description=text, json_schema_extra={"knob": knob}, **limits)


def knob_of(field):
    return (field.json_schema_extra or {}).get("knob")


# --- The command line -------------------------------------------------------------------------------------------------


FLAG = {"nargs": "?", "const": "1"}  # --noaug means --noaug 1


class Parser(argparse.ArgumentParser):
    def error(self, message):
        raise InputError(f"{message}; {self.prog} --help lists the options")


def parse(description, kind, argv=None, settings=None):
    """An instance of the Part `kind`, each of whose fields is an option, of a command line. Raises InputError.

    With an instance `settings`, whose values are the defaults that --help shows, every field of it that has a knob is
    an option as well; then returns (the instance of `kind`, {setting: value} of those that were typed).
    """
    parser = Parser(description=description, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter)
    fields = {name: (field, field.default) for name, field in kind.model_fields.items()}
    if settings:
        mine = type(settings).model_fields.items()
        fields |= {name: (field, getattr(settings, name)) for name, field in mine if knob_of(field)}
    for name, (field, default) in fields.items():
        text = field.description
        if field.is_required():
            text += " (required)"
        elif default not in (None, "") and default is not False:
            text += f" (default: {as_typed(default)})"
        value = {"metavar": name.upper()}
        if field.annotation is bool:
            value = {"metavar": "0|1", **FLAG}
        text = text.replace("%", "%%")
        parser.add_argument(option_of(name), dest=name, default=argparse.SUPPRESS, help=text, **value)
    typed, unknown = parser.parse_known_args(argv)
    if unknown:
        word = unknown[0].partition("=")[0]
        near = difflib.get_close_matches(f"--{word.lstrip('-').lower()}", map(option_of, fields), n=1)
        known = f"did you mean {near[0]}?" if near else f"{parser.prog} --help lists them"
        raise InputError(f"there is no option {word}; {known}")
    typed = vars(typed)
    try:
        options = kind.model_validate({name: value for name, value in typed.items() if name in kind.model_fields})
        of_settings = {name: value for name, value in typed.items() if name not in kind.model_fields}
        found = type(settings).model_validate(of_settings) if settings else None
    except pydantic.ValidationError as error:
        fault = error.errors()[0]
        name = fault["loc"][0]
        value = f" {typed[name]!r}" if name in typed and fault["type"] != "value_error" else ""
        knob = knob_of(fields[name][0])
        parser.error(f"{option_of(name)}{f' ({knob} of make)' if knob else ''}{value}: {message_of(fault)}")
    return (options, {name: getattr(found, name) for name in of_settings}) if settings else options


def option_of(name):
    return f"--{name.rstrip('_').replace('_', '-')}"  # `from_` is --from


def typed_option(name, argv=None, **more):
    """What is typed for one option, before all others are known; None without it."""
    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument(f"--{name}", **more)
    return getattr(parser.parse_known_args(argv)[0], name)


def message_of(fault):
    """What pydantic says of a value; of our own validators, their text alone."""
    return str(fault["ctx"]["error"]) if fault["type"] == "value_error" else fault["msg"]


def as_typed(value):
    """A default as it is typed."""
    if isinstance(value, list):
        return ",".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if value is True else str(value)


# --- CONFIG -----------------------------------------------------------------------------------------------------------


def read_config(path):
    """The settings in a file: a record, or its settings alone, as JSON. Raises InputError."""
    try:  # Notepad begins a file with a mark, which utf-8-sig skips
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"), object_pairs_hook=without_repeats)
    except FileNotFoundError:
        raise InputError(f"CONFIG {path!r}: there is no such file") from None
    except (OSError, ValueError) as error:
        raise InputError(f"CONFIG {path!r} cannot be read: {error}") from None
    content = content.get("settings", content) if isinstance(content, dict) else content
    if not isinstance(content, dict):
        raise InputError(f"CONFIG {path!r} holds no settings; give a record, or its settings alone")
    return content


def without_repeats(pairs):
    """The dictionary of a JSON object, whose last value of a key would win in silence."""
    keys = [key for key, _ in pairs]
    if repeated := {key for key in keys if keys.count(key) > 1}:
        raise ValueError(f"{', '.join(sorted(repeated))} is in it twice")
    return dict(pairs)


def merged(settings, changes):
    """The values of the Part `settings` with `changes`; of a Part in it, such as 'network', what they lack stays."""
    values, fields = settings.model_dump(), type(settings).model_fields
    inner = {
        key: {**values[key], **change}
        for key, change in changes.items()
        if isinstance(change, dict) and key in fields and isinstance(fields[key].default, Part)
    }
    return {**values, **changes, **inner}


def with_config(settings, path, changes):
    """The Part `settings` with the JSON `changes` of the file `path` in place of its own values. Raises InputError."""
    try:
        return type(settings).model_validate_json(json.dumps(merged(settings, changes)), strict=True)
    except pydantic.ValidationError as error:
        fault, keys = max(((fault, keys_of(fault, changes)) for fault in error.errors()), key=lambda pair: len(pair[1]))
    message = message_of(fault)
    if fault["type"] == "extra_forbidden":
        values = settings.model_dump()
        for key in keys[:-1]:
            values = values.get(key, {}) if isinstance(values, dict) else {}
        known = difflib.get_close_matches(keys[-1], values, n=1) or list(values)
        message = f"there is no such setting; there is {', '.join(known) or 'none'}"
    raise InputError(f"CONFIG {path!r}: {'.'.join(keys)}{': ' if keys else ''}{message}")


def keys_of(fault, content):
    """The keys that lead to a fault in `content`; pydantic's own names for one of several types are left out."""
    keys = []
    for key in fault["loc"]:
        if isinstance(content, dict) and key in content:
            keys.append(key)
            content = content[key]
    return keys


# --- Records ----------------------------------------------------------------------------------------------------------


def form(**keys):
    """The form of a JSON object that has at least these keys: {key: type}."""
    return TypedDict("form", keys)


def require_form(value, form):
    """Raise ValueError where JSON, as json.loads gives it, has another form."""
    try:
        pydantic.TypeAdapter(form).validate_python(value, strict=True)
    except pydantic.ValidationError as error:
        fault = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}") from None
