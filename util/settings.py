"""Settings as fields of pydantic models: declared once, read from the command line, from make and from JSON.

A field's `setting` gives its default, what it is, its limits, make's knob and the script's option.
"""

import argparse
import json
import os
import re
from pathlib import Path

import pydantic
from typing_extensions import TypedDict

from util.cli import InputError


class Part(pydantic.BaseModel):
    """Settings that belong together; none that is not declared, no numbers that are not finite."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def setting(default, text, *, knob=None, option=None, shared=False, **limits):
    """A field of a Part.

    `option` is the script's where it is not the field's name; `shared` marks what all steps of a chain (autoencoder,
    classifier, evaluation) take alike.
    """
    more = {"knob": knob, "option": option, "shared": shared}
    return pydantic.Field(default, description=text, json_schema_extra=more, **limits)


def knob_of(field):
    return (field.json_schema_extra or {}).get("knob")


def is_shared(field):
    return (field.json_schema_extra or {}).get("shared", False)


def option_of(name, field):
    return field.json_schema_extra["option"] or name.replace("_", "-")


# --- In words ---------------------------------------------------------------------------------------------------------


def allowed(model, name):
    """What a field may be, in words, by its JSON schema."""
    schema = model.model_json_schema()
    return in_words(schema["properties"][name], schema.get("$defs", {}))


def in_words(schema, parts):
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return " or ".join(in_words(one, parts) for one in schema[several])
    if "enum" in schema or "const" in schema:
        return " or ".join(map(json.dumps, schema.get("enum", [schema.get("const")])))
    if "$ref" in schema:
        return in_words(parts[schema["$ref"].rpartition("/")[2]], parts)
    kind = schema.get("type")
    if kind in ("integer", "number"):
        ends = {
            "exclusiveMinimum": "more than",
            "minimum": "at least",
            "exclusiveMaximum": "less than",
            "maximum": "at most",
        }
        limits = " and ".join(f"{word} {schema[end]:.15g}" for end, word in ends.items() if end in schema)
        return f"a {'whole ' if kind == 'integer' else ''}number{', ' if limits else ''}{limits}"
    if kind == "array":
        return f"a list of {in_words(schema['items'], parts)}"
    if kind == "object":
        return f"a dictionary{' of ' if 'properties' in schema else ''}{', '.join(schema.get('properties', ()))}"
    return {"boolean": "true or false", "null": "null", "string": "a text"}[kind]


def shown(value):
    """A value as JSON, in ASCII, cut after 80 letters."""
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def first_fault(error, model):
    """(Names that lead to the first field at fault, its model, what a validator said or None) of a ValidationError."""
    fault = error.errors(include_url=False)[0]
    names = []
    for name in fault["loc"]:
        names.append(str(name))
        if name not in model.model_fields:
            break
        kind = model.model_fields[name].annotation
        if not (isinstance(kind, type) and issubclass(kind, pydantic.BaseModel)):
            break
        if len(names) < len(fault["loc"]):
            model = kind
    return names, model, str(fault["ctx"]["error"]) if fault["type"] == "value_error" else None


# --- The command line -------------------------------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    def error(self, message):
        raise InputError(f"{message}; {self.prog} --help lists the options")


def parse(description, chosen, settings=None, argv=None):
    """(An instance of the Part `chosen`, {field of the Part `settings`: value that was typed}) of a command line.

    A field is an option, `--batch-size 64`, and, where it has a knob, a word as make hands it on, `BATCH=64`. Raises
    InputError.
    """
    models = [chosen, settings] if settings else [chosen]
    fields = {name: (model, field) for model in reversed(models) for name, field in model.model_fields.items()}
    fields = {name: (model, field) for name, (model, field) in fields.items() if model is chosen or knob_of(field)}
    parser = Parser(description=description, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, (_, field) in fields.items():
        unset = field.is_required() or field.default in (None, "") or field.default is False
        text = (field.description + ("" if unset else f" (default: {as_typed(field.default)})")).replace("%", "%%")
        more = {"action": "store_true"} if field.annotation is bool else {"metavar": knob_of(field) or name.upper()}
        parser.add_argument(f"--{option_of(name, field)}", dest=name, default=argparse.SUPPRESS, help=text, **more)
    parser.add_argument("--shared", action="store_true", help="of KNOB=value take what all steps of a chain share")
    parser.add_argument("knobs", nargs="*", metavar="KNOB=value", help="options in make's words, such as EPOCHS=5")
    typed = vars(parser.parse_intermixed_args(argv))

    by_knob = {knob_of(field): (name, field) for name, (_, field) in fields.items() if knob_of(field)}
    only_shared, words = typed.pop("shared"), typed.pop("knobs")
    called = {name: f"argument --{option_of(name, field)}: " for name, (_, field) in fields.items()}
    for word in words:
        knob, given, value = word.partition("=")
        name, field = by_knob.get(knob, (None, None))
        if not given:
            parser.error(f"unrecognized arguments: {word}")
        if only_shared and not (field and is_shared(field)):
            continue
        if not field:
            raise InputError(f"it does not take {knob}; it takes {', '.join(by_knob)}")
        if field.annotation is bool:
            if value not in ("0", "1"):
                raise InputError(f"{knob}={value} is neither 1 nor 0")
            value = value == "1"
        typed[name], called[name] = value, f"{knob}: "

    found = []
    for model in models:
        mine = {name: value for name, value in typed.items() if fields[name][0] is model}
        try:
            found.append(model.model_validate(mine))
        except pydantic.ValidationError as error:
            (name, *_), _, said = first_fault(error, model)
            if name not in mine:
                parser.error(f"the following arguments are required: --{option_of(name, model.model_fields[name])}")
            words = allowed(model, name).removesuffix(" or null").replace('"', "")
            words = words.partition(" or a list of")[0]  # which only a CONFIG can give
            parser.error(f"{called[name]}{said or f'{mine[name]!r} is not {words}'}")
    if not settings:
        return found[0]
    return found[0], {name: getattr(found[1], name) for name in typed if fields[name][0] is settings}


def as_typed(value):
    """A default as it is typed."""
    return ",".join(map(str, value)) if isinstance(value, list) else f"{value:g}" if isinstance(value, float) else value


# --- JSON -------------------------------------------------------------------------------------------------------------


def without_repeats(pairs):
    """The dictionary of a JSON object, for json.loads, which would let the last of a key's values win."""
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"{max(keys, key=keys.count)!r} is in it twice")
    return content


def read_config(path):
    """The settings in a file: a record, or its settings alone, as JSON. Raises InputError."""
    if not os.path.isfile(path):
        raise InputError(f"CONFIG: there is no file {path!r}; give a record, or settings like a record's")
    try:
        text = Path(path).read_text(encoding="utf-8-sig")  # Notepad begins a file with a mark
        content = json.loads(text, object_pairs_hook=without_repeats)
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        raise InputError(f"CONFIG {path!r} cannot be read as JSON ({error}); mend it") from None
    if isinstance(content, dict) and isinstance(content.get("settings"), dict):
        content = content["settings"]
    if not isinstance(content, dict):
        raise InputError(f"CONFIG {path!r} holds no settings; give a record, or its settings alone")
    return content


def form(**keys):
    """The form of a JSON object that has at least these keys: {key: type}."""
    return TypedDict("form", keys)


def require_form(value, form):
    """Raise ValueError where JSON, as json.loads gives it, has another form."""
    fault = None
    try:
        pydantic.TypeAdapter(form).validate_python(value, strict=True)
    except pydantic.ValidationError as error:
        keys = [str(key) for key in error.errors(include_url=False)[0]["loc"] if key != "form"]  # one of several forms
        fault = f"it lacks {'.'.join(keys)!r}, or has something else there" if keys else "it is no dictionary"
    if fault:  # outside, so that nothing stands behind it
        raise ValueError(fault)


def validated(path, settings, changes):
    """The Part `settings` with the JSON `changes` of the file `path` in place of its own values. Raises InputError."""
    model = type(settings)
    try:
        return model.model_validate_json(json.dumps(merged(settings.model_dump(), changes)), strict=True)
    except pydantic.ValidationError as error:
        names, part, said = first_fault(error, model)
        name, value = ".".join(names), changes
        for key in names:
            value = value[key] if isinstance(value, dict) else value
        if names[-1] not in part.model_fields:
            known = (
                f"the settings there are {', '.join(part.model_fields)}"
                if part.model_fields
                else "there are none there"
            )
            raise InputError(
                f"CONFIG {path!r} holds {shown(name)}, which is no setting of this model; {known}"
            ) from None
        words = said or f"it may be {allowed(part, names[-1])}"
        raise InputError(f"CONFIG {path!r} holds {name} = {shown(value)}; {words}") from None


def merged(values, changes):
    """`values` with `changes`; of a part, such as 'augmentation', what is not mentioned stays."""
    parts = {
        key: {**values[key], **change}
        for key, change in changes.items()
        if isinstance(change, dict) and isinstance(values.get(key), dict)
    }
    return {**values, **changes, **parts}


def file_path(value):
    """For a field: a path that can go into plots, records and one-line messages."""
    if not value:
        raise ValueError("an empty text is no path; leave the option out, or give a file")
    if re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", value):
        raise ValueError(f"{value!a} holds what cannot be printed; rename the file")
    return value
