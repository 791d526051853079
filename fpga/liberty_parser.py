"""Liberty text to a tree of groups: one regular expression a statement, nothing is executed."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from opennpe.golden.errors import TechError

__all__ = ["MAX_BYTES", "Group", "parse_file", "parse_text"]

MAX_BYTES = 1 << 28
"""Of a file when unpacked: the largest open library has 20 MB, and a gzip bomb has more."""
COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
STATEMENT = re.compile(
    r"""[\s;]*+(?:
      (?P<close>\})
    | (?P<name>\w[\w.]*+)\s*+(?:
        :\s*+(?P<value>"[^"]*+"|[^;{}"\n]++)
      | \((?P<args>(?:"[^"]*+"|[^()"]++)*+)\)\s*+(?P<open>\{)?
      )
    )""",
    re.VERBOSE,
)
ARGUMENT = re.compile(r'"([^"]*)"|([^\s,"]+)')


@dataclass(slots=True)
class Group:
    """``name (args) { ... }``.

    Attributes:
        values: of ``key : value;``, without quotes.
        lists: of ``key (a, b);``, unparsed. A key that comes twice keeps its last.
        line: where it begins.
    """

    name: str
    args: list[str]
    line: int
    values: dict[str, str] = field(default_factory=dict)
    lists: dict[str, str] = field(default_factory=dict)
    groups: list[Group] = field(default_factory=list)

    def named(self, *names: str) -> Iterator[Group]:
        """Groups inside of those names."""
        return (group for group in self.groups if group.name in names)

    @property
    def first(self) -> str:
        """The first argument, "" if none."""
        return self.args[0] if self.args else ""


def parse_file(path: Path) -> Group:
    """The ``library`` group of a file, packed by gzip or not.

    Raises:
        TechError: it cannot be read, is cut short, or is not Liberty.
    """
    try:
        with path.open("rb") as plain:
            packed = plain.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rb") if packed else path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (EOFError, zlib.error) as error:
        raise TechError(f"{path} is cut short or damaged: fetch it again ({error})") from None
    except OSError as error:
        raise TechError(f"{path} cannot be read: {error.strerror or error}") from None
    if len(data) > MAX_BYTES:
        raise TechError(f"{path} unpacks to more than {MAX_BYTES >> 20} MB: not a cell library")
    return parse_text(data.decode("latin-1"), str(path))


def parse_text(text: str, where: str) -> Group:
    """The ``library`` group of a text.

    Raises:
        TechError: not Liberty, or cut short.
    """
    text = COMMENT.sub(lambda found: "\n" * found[0].count("\n"), text).replace("\\\n", " \n")
    root = Group("", [], 1)
    stack = [root]
    at, line, counted = 0, 1, 0
    end = len(text.rstrip(" \t\r\n;"))
    while at < end:
        found = STATEMENT.match(text, at)
        if found is None:
            raise _refusal(text, at, where, stack)
        at = found.end()
        name = found["name"]
        if name is None:
            if len(stack) == 1:
                raise _refusal(text, found.start("close"), where, stack)
            stack.pop()
        elif found["open"]:
            begin = found.start("name")
            line += text.count("\n", counted, begin)
            counted = begin
            group = Group(name, _arguments(found["args"]), line)
            if len(stack) == 1 and name != "library":
                raise _refusal(text, begin, where, stack)
            stack[-1].groups.append(group)
            stack.append(group)
        elif found["args"] is not None:
            stack[-1].lists[name] = found["args"]
        else:
            stack[-1].values[name] = found["value"].strip().strip('"').strip()
        if len(stack) == 1 and not root.groups:
            raise _refusal(text, found.start("name"), where, stack)
    if len(stack) > 1:
        inside = " in ".join(f"{g.name} ({g.first}) of line {g.line}" for g in stack[:0:-1][:2])
        raise TechError(f"{where} ends inside {inside}: it is cut short, fetch it again")
    if not root.groups:
        raise TechError(f"{where} is not a Liberty file: it holds no 'library (name) {{'")
    return root.groups[0]


def _arguments(text: str) -> list[str]:
    return [(quoted or bare).strip() for quoted, bare in ARGUMENT.findall(text)]


def _refusal(text: str, at: int, where: str, stack: list[Group]) -> TechError:
    skipped = re.compile(r"[\s;]*").match(text, at)
    begin = skipped.end() if skipped else at
    line = text.count("\n", 0, begin) + 1
    shown = text[begin : begin + 32].split("\n")[0].strip()
    if len(stack) == 1:
        return TechError(
            f"{where} is not a Liberty file: line {line} says '{shown}', expected "
            "'library (name) {'"
        )
    group = stack[-1]
    return TechError(
        f"{where}, line {line}, in {group.name} ({group.first}): '{shown}' is not Liberty; "
        "the file is cut short or damaged, fetch it again"
    )
