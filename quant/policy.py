"""Format policies: which format each layer's weights, inputs and output have.

A policy file is TOML::

    version = 1
    calibration = "mse"            # or "maxabs", "percentile"; optional

    [default]                      # every layer that no rule below speaks of
    format = "posit8"              # short for weights and inputs (and output, here only)

    [[layer]]                      # rules in order
    match = "conv1*"               # a glob over layer names, or a list of globs
    weights = "fp4"
    inputs = "posit4"
    output = "posit8"

    [[layer]]
    kind = ["Add", "Normalise"]    # or over layer kinds, with or without ``match``
    output = "posit16"

For each of ``weights``, ``inputs`` and ``output`` the first rule that matches and states it
decides. In a rule, ``format`` is short for ``weights`` and ``inputs``: its output then comes in
what the layers that read it ask for. The format ``model`` takes what a QDQ or QONNX model says
itself, and the default's ``fallback`` (posit16 unless given) where it says nothing.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from opennpe.golden import mac, storage
from opennpe.golden.errors import FormatError, PolicyError

__all__ = ["METHODS", "MODEL", "Choice", "Policy", "Rule", "exactly"]

VERSION = 1
MODEL = "model"
METHODS = ("mse", "maxabs", "percentile")
FIELDS = ("weights", "inputs", "output")
MAX_FILE_BYTES = 1 << 20


@dataclass(frozen=True)
class Rule:
    """Formats for the layers whose name matches one of the globs, and whose kind is one of
    ``kind`` where that is not empty; a format of None says nothing."""

    match: tuple[str, ...]
    weights: str | None = None
    inputs: str | None = None
    output: str | None = None
    kind: tuple[str, ...] = ()

    def matches(self, name: str, kind: str = "") -> bool:
        """Whether a layer of a name and a kind matches."""
        if self.kind and kind not in self.kind:
            return False
        return any(name == glob or fnmatchcase(name, glob) for glob in self.match)


@dataclass(frozen=True)
class Choice:
    """What a policy says of one layer; ``inputs`` and ``output`` are None where only the default
    speaks, so that neighbours that ask for something else are heard."""

    weights: str
    inputs: str | None
    output: str | None


@dataclass(frozen=True)
class Policy:
    """Defaults and ordered rules; see the module's description of the file."""

    weights: str
    inputs: str
    output: str
    fallback: str = "posit16"
    rules: tuple[Rule, ...] = ()
    calibration: str | None = None
    percentile: float = 99.99
    source: str = "policy"

    def __post_init__(self) -> None:
        for where, holder in (("default", self), *((f"layer {r.match[0]}", r) for r in self.rules)):
            for key in FIELDS:
                _check_format(self.source, where, key, getattr(holder, key))
        if self.fallback == MODEL:
            raise PolicyError(f"{self.source}: the fallback is a number format, not '{MODEL}'")
        _check_format(self.source, "default", "fallback", self.fallback)
        if self.calibration is not None and self.calibration not in METHODS:
            raise PolicyError(
                f"{self.source}: calibration = '{self.calibration}', expected {', '.join(METHODS)}"
            )
        if not 50 <= self.percentile <= 100:
            raise PolicyError(f"{self.source}: percentile = {self.percentile}, expected 50 to 100")

    @classmethod
    def uniform(cls, name: str) -> Policy:
        """One format everywhere: what ``--format`` means.

        Raises:
            FormatError: no such format, or one that layers cannot compute in.
        """
        if name != MODEL:
            mac.operand_format(name)
        return cls(weights=name, inputs=name, output=name, source=f"format {name}")

    @classmethod
    def load(cls, path: str | Path) -> Policy:
        """Read a policy file.

        Raises:
            PolicyError: unreadable, another version, unknown keys, formats or methods.
        """
        file = Path(path)
        if not file.is_file():
            raise PolicyError(f"no policy file '{file}': expected a TOML file")
        if file.stat().st_size > MAX_FILE_BYTES:
            raise PolicyError(f"'{file}' is larger than {MAX_FILE_BYTES >> 20} MiB: no policy")
        try:
            return cls.parse(file.read_text(encoding="utf-8"), file.name)
        except UnicodeDecodeError as error:
            raise PolicyError(f"'{file}' is no text file") from error

    @classmethod
    def parse(cls, text: str, source: str = "policy") -> Policy:
        """A policy from TOML text; ``source`` names it in messages."""
        try:
            data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise PolicyError(f"{source} is no TOML: {error}") from error
        _keys(source, "", data, ("version", "calibration", "percentile", "default", "layer"))
        version = data.get("version")
        if version != VERSION:
            given = "no version" if version is None else f"version {version}"
            raise PolicyError(f"{source} has {given}: expected version = {VERSION}")
        default = _table(source, "default", data.get("default"))
        _keys(source, "[default]", default, ("format", "fallback", *FIELDS))
        common = default.get("format")
        formats = {key: default.get(key, common) for key in FIELDS}
        for key, value in formats.items():
            if value is None:
                raise PolicyError(f"{source}: [default] needs '{key}' or 'format'")
        percentile = data.get("percentile", 99.99)
        if isinstance(percentile, bool) or not isinstance(percentile, int | float):
            raise PolicyError(f"{source}: percentile = {percentile!r}, expected a number")
        rules = data.get("layer", [])
        if not isinstance(rules, list):
            raise PolicyError(f"{source}: write [[layer]] (double brackets), one for each rule")
        return cls(
            **formats,
            fallback=default.get("fallback", "posit16"),
            rules=tuple(_rule(source, i, rule) for i, rule in enumerate(rules, start=1)),
            calibration=data.get("calibration"),
            percentile=float(percentile),
            source=source,
        )

    def dump(self, comment: str = "") -> str:
        """TOML text that :meth:`parse` reads back as the same policy, ``source`` left out.

        Args:
            comment: lines that stand at the top.
        """
        lines = [f"# {line}".rstrip() for line in comment.splitlines()]
        lines.append(f"version = {VERSION}")
        if self.calibration is not None:
            lines.append(f"calibration = {_quoted(self.calibration)}")
        lines.append(f"percentile = {self.percentile!r}")
        lines += ["", "[default]"]
        lines += [f"{key} = {_quoted(getattr(self, key))}" for key in (*FIELDS, "fallback")]
        for rule in self.rules:
            globs = ", ".join(_quoted(glob) for glob in rule.match)
            lines += ["", "[[layer]]"]
            lines.append(f"match = [{globs}]" if len(rule.match) != 1 else f"match = {globs}")
            if rule.kind:
                lines.append(f"kind = [{', '.join(_quoted(kind) for kind in rule.kind)}]")
            stated = ((key, getattr(rule, key)) for key in FIELDS)
            lines += [f"{key} = {_quoted(value)}" for key, value in stated if value is not None]
        return "\n".join(lines) + "\n"

    def check_names(self, names: Iterable[str]) -> None:
        """Refuse globs that match no layer.

        Raises:
            PolicyError: naming the glob and the nearest layer names.
        """
        known = list(names)
        for rule in self.rules:
            for glob in rule.match:
                if any(name == glob or fnmatchcase(name, glob) for name in known):
                    continue
                bare = glob.replace("*", "").replace("?", "")
                near = difflib.get_close_matches(bare, known, n=3, cutoff=0.4) or known[:3]
                raise PolicyError(
                    f"{self.source}: '{glob}' matches no layer; near it: "
                    f"{', '.join(repr(n) for n in near)}"
                )

    def choice(self, name: str, kind: str = "") -> Choice:
        """The formats of one layer, by its name and its kind (the class of the layer)."""
        found: dict[str, str | None] = {}
        for key in FIELDS:
            found[key] = next(
                (
                    getattr(rule, key)
                    for rule in self.rules
                    if rule.matches(name, kind) and getattr(rule, key) is not None
                ),
                None,
            )
        weights = found["weights"] or self.weights
        return Choice(weights, found["inputs"], found["output"])


def exactly(name: str) -> str:
    """The glob that matches this layer name and no other."""
    return "".join(f"[{char}]" if char in "*?[" else char for char in name)


def _quoted(text: str) -> str:
    """A TOML basic string: JSON's escapes are TOML's, and DEL must be escaped too."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _check_format(source: str, where: str, key: str, name: Any) -> None:
    if name is None or name == MODEL:
        return
    try:
        if not isinstance(name, str):
            raise FormatError(f"expected a format name, got {name!r}")
        mac.operand_format(name)
    except FormatError as error:
        raise PolicyError(f"{source}: {where}: {key}: {error}") from error


def _table(source: str, name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise PolicyError(f"{source} lacks the table [{name}]")
    return value


def _keys(source: str, where: str, table: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f", did you mean '{near[0]}'?" if near else ""
            place = f" in {where}" if where else ""
            raise PolicyError(
                f"{source}: unknown key '{key}'{place}{hint} (known: {', '.join(known)})"
            )


def _rule(source: str, index: int, value: Any) -> Rule:
    where = f"[[layer]] number {index}"
    if not isinstance(value, dict):
        raise PolicyError(f"{source}: {where} is no table")
    _keys(source, where, value, ("match", "kind", "format", *FIELDS))
    kinds = _kinds(source, where, value.get("kind"))
    match = value.get("match", "*" if kinds else None)
    globs = [match] if isinstance(match, str) else match
    if not isinstance(globs, list) or not globs or not all(isinstance(g, str) for g in globs):
        raise PolicyError(f"{source}: {where} needs match = a layer name, a glob or a list of them")
    common = value.get("format")
    rule = Rule(
        tuple(globs),
        weights=value.get("weights", common),
        inputs=value.get("inputs", common),
        output=value.get("output"),
        kind=kinds,
    )
    if rule.weights is rule.inputs is rule.output is None:
        raise PolicyError(f"{source}: {where} states no format: give weights, inputs or output")
    return rule


def _kinds(source: str, where: str, value: Any) -> tuple[str, ...]:
    """Layer kinds of a rule; none where it states none."""
    if value is None:
        return ()
    kinds = [value] if isinstance(value, str) else value
    known = sorted(storage.KINDS)
    if not isinstance(kinds, list) or not kinds or not all(k in known for k in kinds):
        raise PolicyError(
            f"{source}: {where} has kind = {value!r}, expected some of {', '.join(known)}"
        )
    return tuple(kinds)
