"""Command-line arguments: one parser for all commands, and errors of one line."""

import contextlib
import dataclasses
import difflib
import inspect
import io
import itertools
import shutil
import textwrap
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypedDict

import tyro

from hpfree_jax._errors import UserError
from hpfree_jax._options import Option, types_of
from hpfree_jax._settings import as_settings

PROGRAM = "hpfree"


class Flag(NamedTuple):
    """An option of a command."""

    kind: Any  # bool, int, float, str, Path, or a tuple of any length of these
    option: Option
    default: Any = None  # for the help text


def flags_of(config: type) -> dict[str, Flag]:
    """The options of a configuration: its fields that have an :class:`Option`."""
    hints = typing.get_type_hints(config, include_extras=True)
    flags = {}
    for field in dataclasses.fields(config):
        kind, *metadata = typing.get_args(hints[field.name]) or (None,)
        for option in metadata:
            if isinstance(option, Option):
                flags[field.name] = _flag(kind, option, field.default)
    return flags


def _flag(annotation: Any, option: Option, default: Any) -> Flag:
    """Reads the type of a field; choices are checked later, by whoever uses them."""
    kind = next(t for t in types_of(annotation) if t is not types.NoneType)
    for part in (annotation, *typing.get_args(annotation)):
        if typing.get_origin(part) is typing.Literal:
            option = option._replace(names=typing.get_args(part))
    return Flag(kind, option, default)


def parse_arguments(
    command: str,
    args: list[str],
    flags: Mapping[str, Flag],
    description: str,
    groups: Mapping[str, Iterable[str]] | None = None,
) -> dict[str, Any]:
    """Returns the options that were given, by name; prints the help text if asked to.

    Args:
      command: its name, for messages.
      args: the command line after the command's name.
      flags: all options that are accepted.
      description: for the help text, a docstring.
      groups: names of options by title: those that the help text shows.

    Raises:
      UserError: if an option is unknown, lacks its value or cannot be read.
      SystemExit: after the help text is printed.
    """
    program = f"{PROGRAM} {command}"
    if {"-h", "--help"} & set(args):
        shown = {
            title: _typed_dict({name: flags[name] for name in names})
            for title, names in (groups or {}).items()
        }
        print(_wrapped(description) + "\n")  # tyro would not wrap it
        _run_tyro(program, ["--help"], _typed_dict(shown or flags))
    args, unset = _normalized(program, args, flags)
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            given = _run_tyro(program, args, _typed_dict(flags))
    except SystemExit:
        raise UserError(
            f"{_message(errors.getvalue())}; {program} --help lists the options"
        ) from None
    return given | unset


def parse_config(
    command: str,
    args: list[str],
    config: type[Any],
    groups: Mapping[str, Iterable[str]] | None = None,
) -> Any:
    """Returns a configuration with the options that were given."""
    flags, description = flags_of(config), config.__doc__ or ""
    return config(**parse_arguments(command, args, flags, description, groups))


def row_flags(
    table: Mapping[str, Mapping[str, Any]], chosen: str
) -> tuple[dict[str, Flag], list[str]]:
    """The options for the settings of a table's rows.

    Args:
      table: the settings of each row.
      chosen: the row whose settings count where rows differ.

    Returns:
      the options of all rows, and the names of those of the chosen one.
    """
    rows = {name: as_settings(settings) for name, settings in table.items()}
    own = rows.pop(chosen, {})
    flags = {}
    for name, setting in (
        item for row in (*rows.values(), own) for item in row.items()
    ):
        text, _, unset = setting.help.rstrip(".").partition("; None: ")
        option = Option(f"{text}." if text else "", setting.choices, unset)
        flags[name] = Flag(setting.type, option, setting.default)
    return flags, list(own)


def typed_value(args: list[str], flags: Mapping[str, Flag], name: str) -> Any:
    """The last value of an option in arguments not yet parsed, or its default."""
    value = flags[name].default
    for word, following in itertools.zip_longest(args, args[1:], fillvalue=value):
        key, sign, text = word.partition("=")
        if key == f"--{name}":
            value = text if sign else following
    return value


def with_settings(given: dict[str, Any], config: type[Any]) -> dict[str, Any]:
    """Puts the options that are no field of a configuration into its ``settings``."""
    fields = {field.name for field in dataclasses.fields(config)} | {"resume"}
    settings = {name: given[name] for name in given if name not in fields}
    rest = {name: given[name] for name in given if name in fields}
    return {**rest, "settings": settings} if settings else rest


def _run_tyro(program: str, args: list[str], options: Any) -> Any:
    config = (tyro.conf.OmitArgPrefixes,)
    return tyro.cli(options, prog=program, args=args, description="", config=config)


def _typed_dict(fields: Mapping[str, Any]) -> Any:
    """A type whose keys are the options; those that are not given are left out."""
    annotated = {
        name: Annotated[field.kind, _tyro(field)] if isinstance(field, Flag) else field
        for name, field in fields.items()
    }
    make_type: Any = TypedDict  # whose fields type checkers want written out
    return make_type("Options", annotated, total=False)


def _tyro(flag: Flag) -> Any:
    option, default = flag.option, flag.default
    names = f" One of: {', '.join(option.names)}." if option.names else ""
    if option.unset:
        shown = option.unset
    elif isinstance(default, bool):
        shown = "on" if default else "off"
    elif isinstance(default, tuple):
        shown = " ".join(map(str, default))
    else:
        shown = default
    hint = "" if shown in (None, "") else f"(default: {shown})"
    is_list = typing.get_origin(flag.kind) is tuple
    kind = typing.get_args(flag.kind)[0] if is_list else flag.kind
    metavar = {int: "INT", float: "FLOAT", Path: "PATH"}.get(kind, "NAME")
    return tyro.conf.arg(
        help=option.help + names,
        metavar=None if kind is bool else metavar + " ..." * is_list,
        help_behavior_hint=hint,
    )


def _wrapped(text: str) -> str:
    width = shutil.get_terminal_size().columns
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(textwrap.fill(text, width) for text in paragraphs)


def _normalized(
    program: str, args: list[str], flags: Mapping[str, Flag]
) -> tuple[list[str], dict[str, None]]:
    """Checks the names of the options; reads ``--bias=True`` and ``--depth None``.

    Returns:
      the arguments for tyro, and the options that were given as None.
    """
    words = []
    for arg in args:
        name, _, value = arg.partition("=")
        split = arg.startswith("--") and value in ("True", "False", "None")
        words.extend([name, value] if split else [arg])
    rest, unset = [], {}
    following = iter(itertools.zip_longest(words, words[1:]))
    for word, value in following:
        if not word.startswith("--"):
            rest.append(word)
            continue
        name = _option_name(program, word, flags)
        if value == "None":
            unset[name] = None
        elif flags[name].kind is bool and value in ("True", "False"):
            rest.append(("--" if value == "True" else "--no-") + name)
        else:
            unset.pop(name, None)
            rest.append(word)
            continue
        next(following)
    return rest, unset


def _option_name(program: str, word: str, flags: Mapping[str, Flag]) -> str:
    name = word[2:].partition("=")[0].replace("-", "_")
    known = {f"no_{key}": key for key, flag in flags.items() if flag.kind is bool}
    known |= {key: key for key in flags}
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" (did you mean --{close[0].replace('_', '-')}?)" if close else ""
    raise UserError(
        f"Unrecognized options: {word.partition('=')[0]}{hint}; {program} --help lists "
        "the options"
    )


def _message(text: str) -> str:
    r"""The message in a frame that tyro drew, without its title and help text.

    >>> print(_message("+- Title -+\n| Bad    |\n| option |\n| ---- |\n| Help |"))
    Bad option
    """
    lines = [line.strip(" │|") for line in text.splitlines()[1:]]
    body = itertools.dropwhile(_is_rule, lines)
    return " ".join(itertools.takewhile(lambda line: not _is_rule(line), body))


def _is_rule(line: str) -> bool:
    return not line.strip("─-╰╯+ ")
