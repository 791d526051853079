"""The keys of a recipe: what each takes, and messages for what it does not."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from opennpe.quant.qat.errors import RecipeError

__all__ = ["DISTILL", "PRUNE", "ROUNDED", "STAGE", "TOP", "Key", "near", "read_table"]


WORDS: dict[type, str] = {
    str: "a text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    dict: "a table",
    list: "tables: write [[stage]] (double brackets)",
}


@dataclass(frozen=True)
class Key:
    """What a key takes: a type, and bounds or choices."""

    type: type
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()
    above: bool = False

    def read(self, where: str, key: str, value: Any) -> Any:
        """The value.

        Raises:
            RecipeError: naming the place, the value and what is expected.
        """
        if self.type is tuple:
            globs = [value] if isinstance(value, str) else value
            if isinstance(globs, list) and globs and all(isinstance(g, str) and g for g in globs):
                return tuple(globs)
            raise RecipeError(f"{where}: {key} = {value!r}, expected a glob or a list of globs")
        number = self.type in (int, float)
        takes: Any = (int, float) if self.type is float else self.type
        fits = isinstance(value, takes) and not (number and isinstance(value, bool))
        if fits and number:
            low = self.low < value if self.above else self.low <= value
            fits = math.isfinite(value) and low and value <= self.high
        if not fits:
            raise RecipeError(f"{where}: {key} = {value!r}, expected {self.expected()}")
        if self.type is str and not value:
            raise RecipeError(f"{where}: {key} is empty, expected {self.expected()}")
        if self.choices and value not in self.choices:
            hint = near(value, self.choices)
            raise RecipeError(f"{where}: {key} = '{value}', expected {self.expected()}{hint}")
        return self.type(value)

    def expected(self) -> str:
        """What the key takes, in words."""
        if self.choices:
            return ", ".join(self.choices)
        text = WORDS[self.type]
        if self.low > -math.inf:
            text += f" above {self.low:g}" if self.above else f" of at least {self.low:g}"
        if self.high < math.inf:
            text += f" and at most {self.high:g}"
        return text


SHARE = Key(float, 0, 1)
TEXT = Key(str)
TABLE = Key(dict)
TOP = {
    "version": Key(int),
    "workload": TEXT,
    "options": TABLE,
    "seed": Key(int, 0, 2**31 - 1),
    "threads": Key(int, 1, 256),
    "batch": Key(int, 1, 1 << 20),
    "start": TEXT,
    "validation_samples": Key(int, 0),
    "checkpoint_s": Key(float, 0),
    "stage": Key(list),
}
STAGE = {
    "name": TEXT,
    "kind": Key(str, choices=("float", "weights", "full")),
    "lr": Key(float, 0, above=True),
    "epochs": Key(int, 1, 1 << 20),
    "steps": Key(int, 1, 1 << 40),
    "optimiser": Key(str, choices=("sgd", "adamw")),
    "momentum": Key(float, 0, 0.9999),
    "schedule": Key(str, choices=("cosine", "constant", "onecycle")),
    "warmup": SHARE,
    "weight_decay": Key(float, 0),
    "clip": Key(float, 0),
    "format": TEXT,
    "policy": TEXT,
    "gradient": Key(str, choices=("clipped", "straight")),
    "activations": Key(str, choices=("calibrated", "ema", "learned")),
    "scales": Key(str, choices=("calibrated", "learned")),
    "stochastic": Key(bool),
    "distill": TABLE,
    "prune": TABLE,
}
ROUNDED = ("format", "policy", "gradient", "activations", "scales", "stochastic")
DISTILL = {
    "alpha": SHARE,
    "temperature": Key(float, 0, above=True),
    "loss": Key(str, choices=("kl", "mse")),
    "teacher": TEXT,
}
PRUNE = {
    "pattern": TEXT,
    "sparsity": Key(float, 0, 0.9999, above=True),
    "begin": SHARE,
    "end": SHARE,
    "every": Key(int, 1),
    "layers": Key(tuple),
    "skip": Key(tuple),
}
NEEDED = {"workload", "name", "kind", "lr"}


def near(given: str, known: tuple[str, ...]) -> str:
    """A question after the nearest known word, or nothing."""
    near = difflib.get_close_matches(given, known, n=1)
    return f", did you mean '{near[0]}'?" if near else ""


def read_table(
    source: str, where: str, table: Mapping[str, Any], known: Mapping[str, Key]
) -> dict[str, Any]:
    """The checked values of a table's keys; ``source`` and ``where`` begin its messages.

    Raises:
        RecipeError: an unknown key, one that is missing, or a value that does not fit.
    """
    place = f"{source}: {where}" if where else source
    for key in table:
        if key not in known:
            hint = near(key, tuple(known))
            raise RecipeError(f"{place}: unknown key '{key}'{hint} (known: {', '.join(known)})")
    for key in known:
        if key in NEEDED and key not in table:
            raise RecipeError(f"{place} lacks '{key}', {known[key].expected()}")
    return {key: known[key].read(place, key, value) for key, value in table.items()}
