"""Proofs on an and-inverter graph: fix some inputs, reduce, and let z3 decide what is left.

A multiplier against a table is hard for a solver as a whole (five minutes for one posit8 lane);
with one operand fixed it is easy, and the 256 cases of that operand make the whole proof.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import z3


@dataclass(frozen=True)
class Aig:
    """An and-inverter graph; a literal is twice the variable, plus one when inverted.

    Attributes:
        size: highest variable.
        inputs: literal of every input, by name (``a[3]``).
        outputs: literals, lowest first.
        gates: (output, input, input) literals, inputs before their users.
    """

    size: int
    inputs: dict[str, int]
    outputs: tuple[int, ...]
    gates: tuple[tuple[int, int, int], ...]

    @classmethod
    def read(cls, path: Path) -> Aig:
        """From ASCII AIGER with symbols, without latches."""
        lines = path.read_text().splitlines()
        kind, size, inputs, latches, outputs, gates = lines[0].split()[:6]
        if kind != "aag" or latches != "0":
            raise ValueError(f"expected combinational ASCII AIGER, got '{lines[0]}'")
        cuts = [1, 1 + int(inputs)]
        cuts += [cuts[1] + int(outputs), cuts[1] + int(outputs) + int(gates)]
        literals = [int(line) for line in lines[cuts[0] : cuts[1]]]
        names = dict(line.split(" ", 1) for line in lines[cuts[3] :] if line[:1] in "io")
        rows = [line.split() for line in lines[cuts[2] : cuts[3]]]
        return cls(
            int(size),
            {names[f"i{i}"]: literal for i, literal in enumerate(literals)},
            tuple(int(line) for line in lines[cuts[1] : cuts[2]]),
            tuple(sorted((int(o), int(x), int(y)) for o, x, y in rows)),
        )

    def word(self, name: str, offset: int, bits: int) -> list[int]:
        """Literals of some bits of an input."""
        return [self.inputs[f"{name}[{offset + i}]"] for i in range(bits)]

    def reduce(self, output: int, fixed: dict[int, int]) -> tuple[int, dict[int, tuple[int, int]]]:
        """An output with inputs fixed: its literal (0 or 1 when it is constant), and its gates."""
        literal = list(range(0, 2 * self.size + 2, 2))
        for target, value in fixed.items():
            literal[target >> 1] = value
        known: dict[tuple[int, int], int] = {}
        for out, one, two in self.gates:
            x, y = literal[one >> 1] ^ (one & 1), literal[two >> 1] ^ (two & 1)
            if x > y:
                x, y = y, x
            if x == 0 or x ^ 1 == y:
                literal[out >> 1] = 0
            elif x in (1, y):
                literal[out >> 1] = y
            else:
                literal[out >> 1] = known.setdefault((x, y), out)
        target = self.outputs[output]
        root = literal[target >> 1] ^ (target & 1)
        return root, _cone(root, {out: pair for pair, out in known.items()})

    def find(self, output: int, fixed: dict[int, int]) -> dict[int, int] | None:
        """Inputs that make the output 1, those fixed among them; None: there are none."""
        root, gates = self.reduce(output, fixed)
        free = sorted(set(self.inputs.values()) - set(fixed))
        if root == 0:
            return None
        if root == 1:
            return {**dict.fromkeys(free, 0), **fixed}
        # Numbered densely: z3 pays for every variable below the highest.
        number = {root >> 1: 1}

        def dimacs(literal: int) -> int:
            variable = number.setdefault(literal >> 1, len(number) + 1)
            return -variable if literal & 1 else variable

        clauses = [f"{dimacs(root)} 0"]
        for out, (x, y) in gates.items():
            o, p, q = dimacs(out), dimacs(x), dimacs(y)
            clauses += [f"{-o} {p} 0", f"{-o} {q} 0", f"{o} {-p} {-q} 0"]
        solver = z3.SolverFor("QF_FD")
        solver.from_string("\n".join([f"p cnf {len(number)} {len(clauses)}", *clauses, ""]))
        verdict = solver.check()
        if verdict == z3.unsat:
            return None
        if verdict != z3.sat:
            raise AssertionError(f"z3 gave no verdict: {solver.reason_unknown()}")
        # DIMACS variables are numbered symbols: their printed name finds them, z3.Bool does not.
        model = solver.model()
        true = {str(name) for name in model.decls() if z3.is_true(model[name])}
        values = {literal: int(f"k!{number.get(literal >> 1, 0)}" in true) for literal in free}
        return {**values, **fixed}

    def evaluate(self, values: dict[int, int]) -> list[int]:
        """The outputs for values of all inputs: what a counter-example is checked by."""
        level = [0] * (self.size + 1)
        for literal in self.inputs.values():
            level[literal >> 1] = values[literal]
        for out, x, y in self.gates:
            level[out >> 1] = (level[x >> 1] ^ (x & 1)) & (level[y >> 1] ^ (y & 1))
        return [level[out >> 1] ^ (out & 1) for out in self.outputs]


def _cone(root: int, gates: dict[int, tuple[int, int]]) -> dict[int, tuple[int, int]]:
    """The gates that a literal depends on."""
    found: dict[int, tuple[int, int]] = {}
    open_ = [root & ~1]
    while open_:
        out = open_.pop()
        if out in gates and out not in found:
            found[out] = gates[out]
            open_ += [side & ~1 for side in gates[out]]
    return found
