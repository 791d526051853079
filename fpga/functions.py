"""Logic functions as Liberty writes them: ``!A + (B * C)'``, parsed, never evaluated as code.

In order of binding: ``!`` before and ``'`` after an operand, ``^``, then ``*``, ``&`` or nothing
between operands, then ``+`` or ``|`` (Liberty reference manual, "function").
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from opennpe.golden.errors import TechError

__all__ = ["MAX_INPUTS", "Expression", "evaluate", "names", "parse", "truth_table"]

Expression: TypeAlias = tuple["str | Expression", ...]
"""("name", n), ("0",), ("1",), ("not", e), or ("and", e, e), ("or", e, e), ("xor", e, e)."""

MAX_INPUTS = 12
"""Of a truth table."""
MAX_DEPTH = 60
TOKEN = re.compile(r"\s*([A-Za-z_][\w\[\].]*|[01]|[!'*&+|^()])")


def parse(text: str) -> Expression:
    """An expression as nested tuples.

    Raises:
        TechError: it is not one.
    """
    tokens: list[str] = []
    at = 0
    stripped = text.strip()
    while at < len(stripped):
        found = TOKEN.match(stripped, at)
        if found is None:
            raise TechError(f"function '{text}' is not Liberty's syntax at '{stripped[at:][:12]}'")
        tokens.append(found[1])
        at = found.end()
    parser = _Parser(tokens, text)
    result = parser.choice(0)
    if parser.at < len(tokens):
        raise TechError(f"function '{text}' goes on after its end at '{tokens[parser.at]}'")
    return result


class _Parser:
    def __init__(self, tokens: Sequence[str], text: str) -> None:
        self.tokens = tokens
        self.text = text
        self.at = 0

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def choice(self, depth: int) -> Expression:
        left = self.product(depth)
        while self.peek() in ("+", "|"):
            self.at += 1
            left = ("or", left, self.product(depth))
        return left

    def product(self, depth: int) -> Expression:
        left = self.parity(depth)
        while (token := self.peek()) and token not in "+|)^'":
            if token in "*&":
                self.at += 1
            left = ("and", left, self.parity(depth))
        return left

    def parity(self, depth: int) -> Expression:
        left = self.operand(depth)
        while self.peek() == "^":
            self.at += 1
            left = ("xor", left, self.operand(depth))
        return left

    def operand(self, depth: int) -> Expression:
        if depth > MAX_DEPTH:
            raise TechError(f"function '{self.text[:40]}...' is nested deeper than {MAX_DEPTH}")
        token = self.peek()
        self.at += 1
        result: Expression
        if token == "!":
            result = ("not", self.operand(depth + 1))
        elif token == "(":
            result = self.choice(depth + 1)
            if self.peek() != ")":
                raise TechError(f"function '{self.text}' lacks a closing bracket")
            self.at += 1
        elif token in ("0", "1"):
            result = (token,)
        elif token and (token[0].isalpha() or token[0] == "_"):
            result = ("name", token)
        else:
            place = token or "its end"
            raise TechError(f"function '{self.text}' lacks an operand before '{place}'")
        while self.peek() == "'":
            self.at += 1
            result = ("not", result)
        return result


def names(expression: Expression) -> tuple[str, ...]:
    """The inputs, each once, in order of appearance."""
    if expression[0] == "name":
        return (str(expression[1]),)
    found: dict[str, None] = {}
    for part in expression[1:]:
        if isinstance(part, tuple):
            found.update(dict.fromkeys(names(part)))
    return tuple(found)


def evaluate(expression: Expression, values: Mapping[str, int], ones: int) -> int:
    """The expression over many cases at once: a bit a case; ``ones`` has all cases set.

    Raises:
        TechError: an input without a value.
    """
    head = expression[0]
    if head == "name":
        name = str(expression[1])
        if name not in values:
            raise TechError(f"a function uses '{name}', which is no pin of its cell")
        return values[name]
    if head in ("0", "1"):
        return ones if head == "1" else 0
    parts = [evaluate(part, values, ones) for part in expression[1:] if isinstance(part, tuple)]
    if head == "not":
        return ones & ~parts[0]
    if head == "and":
        return parts[0] & parts[1]
    if head == "or":
        return parts[0] | parts[1]
    return parts[0] ^ parts[1]


def truth_table(text: str, inputs: Sequence[str]) -> int:
    """Bit i is the value where input j is bit j of i.

    Raises:
        TechError: not an expression, an input that is not among ``inputs``, or too many of them.
    """
    if len(inputs) > MAX_INPUTS:
        raise TechError(
            f"function '{text}' has {len(inputs)} inputs, at most {MAX_INPUTS} are taken"
        )
    count = 1 << len(inputs)
    ones = (1 << count) - 1
    values = {}
    for index, name in enumerate(inputs):
        period = 1 << index
        block = ((1 << period) - 1) << period
        column = 0
        for at in range(0, count, 2 * period):
            column |= block << at
        values[name] = column
    return evaluate(parse(text), values, ones)
