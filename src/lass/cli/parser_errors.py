"""Convert error messages of command line parsers to one sentence: option, value, expected types, nearest valid name.

jsonargparse reports an invalid nested option as a tree of indented lines, with one branch for each type that it tried.
"""

from __future__ import annotations

import re
import sys
from argparse import SUPPRESS, Action
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import NamedTuple, NoReturn

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from lass.errors import LassError

#: Plain English for the names of Python types.
PLAIN = {"int": "an integer", "float": "a number", "bool": "true or false", "str": "text", "NoneType": "null"}
PLAIN |= dict.fromkeys(("list", "tuple", "set", "Iterable", "Sequence"), "a list")
PLAIN |= dict.fromkeys(("dict", "Mapping"), "a dictionary")
NUM_LISTED = 20  # maximal number of names listed in a sentence
LONGEST_VALUE = 120  # maximal number of characters of a value in a sentence

NOT_OF_CLASS = ("Import path does not", "Does not implement", "Not a valid subclass")  # starts of messages
#: Message about a class that lacks a method of a protocol, or has it with other arguments.
IMPLEMENTS = re.compile(r"Import path (\S+) does not implement protocol (\w+)")

Parsers = Mapping[str, ArgumentParser]


class PlainHelp(DefaultHelpFormatter):
    """Formatter of `--help` that adds the default only, and not the types of Python."""

    def _get_help_string(self, action: Action) -> str:
        if not action.option_strings or action.default in (None, False, SUPPRESS):
            return f"{action.help} (required)" if action.required and action.option_strings else action.help or ""
        return f"{action.help} (default: {action.default})"


class SentenceParser(ArgumentParser):
    """Parser of `lass separate` and `lass import`, whose errors are LassErrors of one sentence.

    Args:
        prog: Words before the options on the command line.
        description: What the command does.
    """

    def __init__(self, prog: str, description: str | None = None) -> None:
        super().__init__(
            prog=prog, description=description, exit_on_error=False, allow_abbrev=False, formatter_class=PlainHelp
        )
        self.commands: dict[str, SentenceParser] = {}

    def add_commands(self, dest: str, commands: Mapping[str, tuple[SentenceParser, str]]) -> None:
        """Require one of some subcommands, given as parser and help by name; `dest` takes the name that was chosen."""
        subcommands = self.add_subcommands(dest=dest, required=True, metavar=dest.upper())
        for name, (parser, help_text) in commands.items():
            subcommands.add_subcommand(name, parser, help=help_text)
            parser.prog, self.commands[name] = f"{self.prog} {name}", parser

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise LassError with the message."""
        if found := re.match(r"the following arguments are required: (\w+)\.", message):
            self.commands[found[1]].error(message.replace(f"{found[1]}.", ""))
        raise LassError(f"{self._sentence(message)}; see `{self.prog} --help`.") from ex

    def _sentence(self, message: str) -> str:
        if found := re.match(r"the following arguments are required: (.*)", message):
            names = _names(self)
            required = (f"--{name}" if name in names else name for name in found[1].replace("_", "-").split(", "))
            return f"the following arguments are required: {', '.join(required)}"
        if message.startswith("expected ") and self.commands:
            return f"a model is missing: expected one of {', '.join(self.commands)}"
        refusals = list(_refusals(message))
        if not refusals:
            return _shortened(" ".join(message.split()))
        written = tuple(key.replace("_", "-") for key in refusals[0].keys)
        return _sentence(refusals[0]._replace(keys=written)).rstrip(".")


class Refusal(NamedTuple):
    """Leaf of jsonargparse's tree of errors."""

    keys: tuple[str, ...]  # keys of the option, outermost first
    owner: str | None  # class path of the innermost class that contains the option
    reason: str
    expected: str  # names of types in Python, separated by commas; empty if the reason is not about a type
    value: str

    @property
    def option(self) -> str:
        """The option as written on the command line."""
        return "--" + ".".join(self.keys)


def explain(message: str, parsers: Parsers, command: str) -> str:
    """Return the sentence for an error message of jsonargparse.

    Args:
        message: Message of the error.
        parsers: Parser of each command.
        command: Command of the command line.
    """
    if found := re.match(r"unrecognized arguments: (\S+)", message):
        name = found[1].partition("=")[0].removeprefix("--")
        if not found[1].startswith("-"):
            return f"{found[1]!r} is no option: options are written as --name=value."
        return _unknown(name, parsers, command)
    if found := re.match(r"Subcommand '.*' does not accept option '(.*)'", message):
        return _unknown(found[1], parsers, command)
    if found := re.match(r"the following arguments are required: (.*)", message):
        names = " and ".join("--" + name.removeprefix(f"{command}.") for name in found[1].split(", "))
        return f"`lass {command}` needs {names}: name a config, e.g. -c experiments/digits/prior.yaml."
    refusals = list(_refusals(message))
    if not refusals:
        return f"{_shortened(' '.join(message.split()))}; see `lass {command} --help`."
    # Report the innermost option; among its errors, one about a name or class is more specific than one about types.
    deepest = max(refusals, key=lambda refusal: (len(refusal.keys), not refusal.expected))
    return _sentence(deepest)


def nearest(name: str, names: Iterable[str], prefix: str = "") -> str:
    """Return the end of a sentence: the most similar name, or all names if none is similar and they are few."""
    names = sorted(set(names))
    if near := _close(name, names):
        return f": did you mean {prefix}{near}?"
    if 0 < len(names) <= NUM_LISTED:
        return f": expected one of {', '.join(names)}."
    return "."


def _close(name: str, names: Iterable[str]) -> str | None:
    """Return the most similar of `names`, ignoring case, or None if none is similar."""
    by_letters = {known.lower(): known for known in sorted(names)}
    near = get_close_matches(name.lower(), by_letters, 1, 0.6)
    return by_letters[near[0]] if near else None


def _refusals(message: str) -> Iterable[Refusal]:
    frames: list[tuple[int, str, str]] = []  # stack of (indentation, "key" or "class", name)
    unions: dict[int, str] = {}  # depth in `frames` -> types of the union at this depth
    lines = message.splitlines()
    for number, line in enumerate(lines):
        text = line.lstrip(" ")
        indent = len(line) - len(text)  # of the dash, if there is one: the lines of its item are further to the right
        text = text.removeprefix("- ")
        while frames and frames[-1][0] >= indent and text:
            unions.pop(len(frames), None)
            frames.pop()
        if found := re.match(r'Parser key "([^"]*)":\s*(.*)', text):
            frames.append((indent, "key", found[1]))
            text = found[2]
        elif found := re.match(r"Problem with given class_path '(.*)':$", text):
            frames.append((indent, "class", found[1]))
            continue
        if found := re.match(r"Subtypes: \[(.*)\]$", text):
            unions[len(frames)] = found[1]
        keys: tuple[str, ...] = ()
        for _, kind, name in frames:
            if kind == "key":
                keys = (name,) if name.startswith(f"{'.'.join(keys)}.") and keys else (*keys, name)
        owner = next((name for _, kind, name in reversed(frames) if kind == "class"), None)
        value = _value(lines[number:], indent)
        if found := re.match(r"Expected an? (?!path)(.*?)(?:\. Got value: (.*))?$", text):
            expected = unions.get(len(frames), found[1])
            yield Refusal(keys, owner, text, expected, found[2] or value)
        elif text.startswith(NOT_OF_CLASS) or IMPLEMENTS.fullmatch(text):
            yield Refusal(keys, owner, text, unions.get(len(frames), ""), value)
        elif text.startswith(
            ("Option ", "the following arguments are required", "module ", "No module named ", "File ", "Path ")
        ) or text.startswith(("Unable to load config", "cannot import name")):
            yield Refusal(keys, owner, text, "", value)


def _value(lines: list[str], indent: int) -> str:
    """Return the given value that belongs to the error in the first of these lines."""
    for line in lines:
        if (found := re.match(r"( *)Given value: (.*)", line)) and len(found[1]) <= indent:
            return found[2]
    return ""


def _sentence(refusal: Refusal) -> str:
    option, owner, reason = refusal.option, refusal.owner, refusal.reason
    value = re.sub(r"^NestedArg\(key='(.*?)', val=(['\"]?)(.*)\2\)$", r"\3", refusal.value)
    if found := re.match(r"Option '(.*)' is not accepted", reason):
        if owner and owner.startswith("pytorch_lightning.Lightning"):
            return f"{option} names no class: name a whole config first, e.g. -c experiments/digits/separate.yaml."
        name = found[1].removeprefix("init_args.")
        known = nearest(name, _arguments(owner), f"{option}.")
        return f"There is no option {option}.{name} for {owner}{known}"
    if found := re.match(r"the following arguments are required: (.*)", reason):
        names = " and ".join(f"{option}.{name}" for name in found[1].split(", "))
        return f"{owner} needs {names}: set it, or name a whole config, e.g. -c experiments/digits/prior.yaml."
    if found := re.match(r"(module '(.*)' has no attribute|No module named|cannot import name)", reason):
        return f"{option} names the class {owner}, which does not exist{nearest(owner or '', _classes(owner or ''))}"
    if found := IMPLEMENTS.fullmatch(reason):
        return f"{option} must be a {found[2]}, but {found[1]} lacks its methods, or they have other arguments."
    if refusal.expected and not reason.startswith("Unable"):
        near = _classes(value) if re.fullmatch(r"[A-Za-z_][\w.]*", value) and _class_in(refusal.expected) else ()
        hint = _close(value, set(near) - {value}) if "." in value else next(iter(near), None)
        meant = f": did you mean {hint}?" if hint else "."
        return f"{option} must be {_plain(refusal.expected)}, not {_shortened(value)}{meant}"
    return f"{option}: {_shortened(' '.join(reason.split()))}."


def _unknown(name: str, parsers: Parsers, command: str) -> str:
    """Return the sentence for an unknown option that is not an argument of a class."""
    others = [other for other, parser in parsers.items() if other != command and name in _names(parser)]
    if others:
        return f"`lass {command}` has no option --{name}: it is one of `lass {others[0]}`."
    names = _names(parsers[command])
    outer, dot, inner = name.partition(".")
    outermost = {known.partition(".")[0] for known in names}
    if outer not in outermost and (near := _close(outer, outermost)):
        return f"There is no option --{name}: did you mean --{near}{dot}{inner}?"
    near = nearest(name, names, "--")
    return f"There is no option --{name}" + (near if near != "." else f": see `lass {command} --help`.")


def _names(parser: ArgumentParser) -> set[str]:
    options = [option for action in parser._actions for option in action.option_strings]
    return {option.removeprefix("--") for option in options if option.startswith("--")}


def _arguments(class_path: str | None) -> list[str]:
    """Return the names of the arguments of a class's constructor."""
    module, _, name = (class_path or "").rpartition(".")
    try:
        owner = getattr(import_module(module), name)  # already imported by jsonargparse
        return ArgumentParser().add_class_arguments(owner, fail_untyped=False)
    except (ImportError, AttributeError, ValueError, TypeError):
        return []


def _classes(path: str) -> list[str]:
    """Return the paths of classes to suggest for a mistyped one: of the same package, or without a package, of lass."""
    package = path.partition(".")[0] if "." in path else "lass"
    modules = [module for name, module in list(sys.modules.items()) if name.partition(".")[0] == package]
    found = {
        f"{module.__name__}.{name}": name
        for module in modules
        for name, value in list(vars(module).items())
        if isinstance(value, type) and not name.startswith("_")
    }
    if "." in path:
        return list(found)
    near = _close(path, found.values())
    return [min((where for where, name in found.items() if name == near), key=len)] if near else []


def _class_in(types: str) -> bool:
    return any(word.rpartition(".")[2] not in PLAIN for word in re.findall(r"<class '([\w.]+)'>", types))


def _plain(types: str) -> str:
    """Convert printed Python types to words, null last: `<class 'int'>, <class 'NoneType'>` is `an integer or null`."""
    words = []
    for one in re.split(r",\s*(?![^\[]*\])", types):
        if literal := re.fullmatch(r"typing\.Literal\[(.*)\]", one):
            words += [choice.strip("'\"") for choice in literal[1].split(", ")]
        elif "[" in one:
            words.append(PLAIN.get(one.partition("[")[0].rpartition(".")[2], one))
        else:
            name = re.sub(r"<class '(.*)'>", r"\1", one).rpartition(".")[2]
            words.append(PLAIN.get(name, f"a class path ({name})" if name.isidentifier() else name))
    words = sorted(dict.fromkeys(words), key=lambda word: word == PLAIN["NoneType"])
    return ", ".join(words[:-1]) + " or " + words[-1] if len(words) > 1 else words[0]


def _shortened(value: str) -> str:
    return value if len(value) <= LONGEST_VALUE else value[:LONGEST_VALUE] + " …"
