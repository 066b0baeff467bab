"""Writes a sub-command's manual from what its module says and what its own parser accepts.

The module gives ABOUT, its docstring, EXIT_STATUS and FILES; the parser everything else. Nothing
is said twice, so `help`, `--help` and docs/commands.md cannot differ from what is accepted.
"""

from __future__ import annotations

import argparse
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from types import ModuleType

WIDTH = 100
INDENT = "    "

EVERYWHERE = {
    64: "it was called wrongly",
    130: "it was interrupted",
    141: "nobody read what it said",
}
"""Exit statuses of all sub-commands, beside their own."""


def manual(module: ModuleType, parser: argparse.ArgumentParser) -> str:
    """The whole page, sections in the order that manual pages have."""
    sections = {
        "NAME": indented(f"{parser.prog} - {module.ABOUT}"),
        "SYNOPSIS": "\n".join(synopsis(it) for it in (parser, *actions_of(parser).values())),
        "DESCRIPTION": textwrap.indent(inspect.getdoc(module) or "", INDENT),
        "OPTIONS": "\n\n".join(options(parser)),
        "EXIT STATUS": table({str(it): says for it, says in exits(module).items()}),
        "FILES": table(module.FILES) or indented("none"),
        "EXAMPLES": textwrap.indent("\n\n".join(examples(parser)), INDENT),
    }
    return "\n\n".join(f"{title}\n{text}" for title, text in sections.items()) + "\n"


def exits(module: ModuleType) -> dict[int, str]:
    return {**module.EXIT_STATUS, **EVERYWHERE}


def actions_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The actions that a sub-command has, such as `verify`, each with its parser."""
    for it in parser._actions:  # argparse has no public way to ask
        if isinstance(it, argparse._SubParsersAction):
            return dict(it.choices)
    return {}


def synopsis(parser: argparse.ArgumentParser) -> str:
    """The calls that are accepted, on lines that break between arguments alone."""
    parts = [parser.prog.replace(" ", "\0")]
    grouped = {id(it): group for group in parser._mutually_exclusive_groups
               for it in group._group_actions}  # fmt: skip
    done: set[int] = set()
    positional = []
    for it in parser._actions:
        if isinstance(it, argparse._HelpAction):
            continue
        if isinstance(it, argparse._SubParsersAction):
            positional.append("ACTION ..." if it.required else "[ACTION ...]")
        elif not it.option_strings:
            positional.append(repeated(it))
        elif group := grouped.get(id(it)):
            if id(group) not in done:
                done.add(id(group))
                either = " | ".join(option(each) for each in group._group_actions)
                parts.append(f"({either})" if group.required else f"[{either}]")
        else:
            parts.append(option(it) if it.required else f"[{option(it)}]")
    words = " ".join(part.replace(" ", "\0") for part in (*parts, *positional))
    lines = textwrap.wrap(words, WIDTH, initial_indent=INDENT, subsequent_indent=INDENT * 2,
                          break_long_words=False, break_on_hyphens=False)  # fmt: skip
    return "\n".join(lines).replace("\0", " ")


def option(it: argparse.Action) -> str:
    """The name that says most, and its value."""
    return f"{longest(it)} {value(it)}" if it.nargs != 0 else longest(it)


def longest(it: argparse.Action) -> str:
    return max(it.option_strings, key=len)


def repeated(it: argparse.Action) -> str:
    shown = value(it)
    return {"?": f"[{shown}]", "*": f"[{shown} ...]", "+": f"{shown} ..."}.get(str(it.nargs), shown)


def value(it: argparse.Action) -> str:
    if isinstance(it.metavar, str):
        return it.metavar
    if it.choices is not None:
        return "{" + ",".join(map(str, it.choices)) + "}"
    return it.dest.upper()


def options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """One block a group of arguments, and one an action with those of its own."""
    own, rest = [], []
    for group in parser._action_groups:
        shown = [it for it in group._group_actions
                 if not isinstance(it, argparse._SubParsersAction)]  # fmt: skip
        if not shown:
            continue
        if group.title in ("positional arguments", "options"):
            own.append(arguments(shown))
        else:
            title = f"{group.title[:1].upper()}{group.title[1:]}" if group.title else ""
            about = f": {group.description}" if group.description else ":"
            rest.append(f"{indented(title + about)}\n\n{arguments(shown)}")
    yield "\n".join(own)
    yield from rest
    for name, action in actions_of(parser).items():
        entries = [it for it in action._actions if not isinstance(it, argparse._HelpAction)]
        heading = indented(f"{name}: {said_of(parser, name)}")
        yield f"{heading}\n\n{arguments(entries)}" if entries else heading


def said_of(parser: argparse.ArgumentParser, action: str) -> str:
    """What the list of actions says of one of them."""
    return next(
        str(each.help)
        for it in parser._actions
        if isinstance(it, argparse._SubParsersAction)
        for each in it._choices_actions
        if each.dest == action
    )


def arguments(entries: list[argparse.Action]) -> str:
    """What each of them is for."""
    rows = {}
    for it in entries:
        names = ", ".join(it.option_strings) or value(it)
        if it.option_strings and it.nargs != 0:
            names += f" {value(it)}"
        says = "show this page" if isinstance(it, argparse._HelpAction) else it.help or ""
        rows[names] = says.replace("%%", "%")
    return table(rows)


def table(rows: Mapping[str, str]) -> str:
    """Names, and under each of them what is said of it."""
    lines = []
    for name, says in rows.items():
        lines.append(INDENT + name)
        lines += textwrap.wrap(says, WIDTH, initial_indent=INDENT * 2, subsequent_indent=INDENT * 2,
                               break_on_hyphens=False)  # fmt: skip
    return "\n".join(lines)


def examples(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Those of the sub-command, then those of its actions, as their parsers have them."""
    for it in (parser, *actions_of(parser).values()):
        if it.epilog:
            text = it.epilog.strip("\n").removeprefix("examples:\n").removeprefix("example:\n")
            yield textwrap.dedent(text).replace("%(prog)s", it.prog)


def indented(text: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent=INDENT, subsequent_indent=INDENT,
                         break_on_hyphens=False)  # fmt: skip
