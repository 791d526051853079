"""The planted bugs: a line of the engine's source, what it becomes, and what that breaks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """One planted bug.

    Attributes:
        name: short.
        breaks: what goes wrong, for the table.
        module: file in rtl/, without ``.py``.
        old: text that the file holds exactly once.
        new: what stands there instead.
        cocotb: the cocotb test that must notice, where the C++ replay cannot see the bug.
    """

    name: str
    breaks: str
    module: str
    old: str
    new: str
    cocotb: str = ""

    def plant(self, source: str) -> str:
        """The source with the bug.

        Raises:
            ValueError: the text is not there, or more than once.
        """
        count = source.count(self.old)
        if count != 1:
            raise ValueError(
                f"mutant {self.name}: {count} places in {self.module}.py read {self.old!r}, "
                "expected one: mend its text in mutant_list.py"
            )
        return source.replace(self.old, self.new)


MUTANTS = (
    Mutant(
        "sticky",
        "rounding forgets what the shift below the code lost",
        "codec",
        "sticky.eq(lost | self.sticky)",
        "sticky.eq(self.sticky)",
    ),
    Mutant(
        "far sticky",
        "bits far below the leading one are not seen",
        "normalise",
        'self.sticky.eq(self._held(m, "below", sticky_below) | lost)',
        "self.sticky.eq(lost)",
    ),
    Mutant(
        "tie",
        "ties go away from zero, not to even",
        "codec",
        "up.eq(shifted[0] & (sticky | kept[0]))",
        "up.eq(shifted[0])",
    ),
    Mutant(
        "carry",
        "posit8's lower sum carries into the upper lane",
        "mac",
        "joined = [Const(0, 1), ~self.pair.narrow, self.pair.whole, ~self.pair.narrow]",
        "joined = [Const(0, 1), ~self.pair.narrow, ~self.pair.narrow, ~self.pair.narrow]",
    ),
    Mutant(
        "NaR stays",
        "NaR of one sum is still there in the next",
        "mac",
        "self.nan_out.eq(Mux(self.first, 0, self.nan) | self.nan_in)",
        "self.nan_out.eq(self.nan | self.nan_in)",
    ),
    Mutant(
        "NaR lost",
        "NaR among a sum's first operands is forgotten",
        "mac",
        "self.nan_out.eq(Mux(self.first, 0, self.nan) | self.nan_in)",
        "self.nan_out.eq(Mux(self.first, 0, self.nan | self.nan_in))",
    ),
    Mutant(
        "sign of zero",
        "a negative sum that fp4 rounds to zero loses its sign",
        "codec",
        "flush & ~is_fp4",
        "flush",
    ),
    Mutant(
        "saturation",
        "posit16 runs over one regime too late",
        "codec",
        "_at_least(run[1:], formats.get(WHOLE).bits - 1)",
        "_at_least(run[1:], formats.get(WHOLE).bits + 1)",
    ),
    Mutant(
        "underflow rule",
        "rule minpos and rule zero change places",
        "codec",
        "flush.eq(self.underflow_zero & ",
        "flush.eq(~self.underflow_zero & ",
    ),
    Mutant(
        "bias lanes",
        "upper and lower half of the bias change places",
        "mac",
        "base.eq(Mux(self.first, self.bias, self.total))",
        "base.eq(Mux(self.first, self.bias.rotate_left(self.bits // 2), self.total))",
    ),
    Mutant(
        "back-pressure",
        "a result that waits is overwritten by the next",
        "pipeline",
        "flows.eq(~unit.results.valid | unit.results.ready)",
        "flows.eq(1)",
    ),
    Mutant(
        "first",
        "a sum of one word goes on from the sum before",
        "engine",
        "d_tag.first.eq(word.first)",
        "d_tag.first.eq(word.first & ~word.last)",
    ),
    Mutant(
        "pace",
        "a sum ends while lanes of the one before still leave",
        "pipeline",
        "unit.words.ready.eq(move & ~(last & lanes_ahead.any()))",
        "unit.words.ready.eq(move)",
    ),
    Mutant(
        "shift sign",
        "negative shifts are read as large ones",
        "normalise",
        "self.shift.as_signed()",
        "self.shift",
    ),
    Mutant(
        "drain order",
        "lanes 1 to 3 leave in each other's place",
        "engine",
        "a_held.eq(a.total[slot:])",
        "a_held.eq(a.total[slot:].rotate_left(slot))",
    ),
    Mutant(
        "lane products",
        "two 4-bit lanes multiply into each other",
        "mac",
        "return 2 - half - (half and quarter)",
        "return 1 - half if half else 2",
    ),
    Mutant(
        "mixed formats",
        "the second operand is decoded in the first one's format",
        "engine",
        "block.posit4.eq(mode[0])",
        "block.posit4.eq(word.mode_a[0])",
    ),
    Mutant(
        "small products",
        "posit8's upper lane drops a segment of small products",
        "mac",
        "Mux(small, high, low)",
        "low",
    ),
    Mutant(
        "regime",
        "a run of ones is decoded one too long",
        "codec",
        "self.regime.eq(Cat(run, Const(0, 1)) ^ (~first).replicate(len(self.regime)))",
        "self.regime.eq((Cat(run, Const(0, 1)) ^ (~first).replicate(len(self.regime))) + first)",
    ),
    Mutant(
        "restless payload",
        "a result changes while it waits, and is right once taken",
        "engine",
        "self.results.payload.eq(r_result)",
        "Value.cast(self.results.payload).eq(Value.cast(r_result) ^ ~self.results.ready)",
        cocotb="mixture_with_gaps",
    ),
    Mutant(
        "reset",
        "a reset leaves results under way in the pipeline",
        "pipeline",
        "return Signal(width, name=name)",
        "return Signal(width, name=name, reset_less=True)",
        cocotb="reset_in_mid_sum",
    ),
    Mutant(
        "bias late",
        "a sum starts from the bias of the sum before",
        "engine",
        """        m.d.comb += [
            enters.eq(move & al.valid),
            done.eq(al.valid & al.tag.last),
            block.total.eq(a.total),
            block.bias.eq(self.biases.payload),
""",
        """        late = Signal(self.spec.accumulator_bits)
        with m.If(self.biases.valid & self.biases.ready):
            m.d.sync += late.eq(self.biases.payload)
        m.d.comb += [
            enters.eq(move & al.valid),
            done.eq(al.valid & al.tag.last),
            block.total.eq(a.total),
            block.bias.eq(late),
""",
    ),
    Mutant(
        "shift lanes",
        "only a sum's first lane takes its shift off the stream",
        "engine",
        "move_together(m, self, move, al.valid & al.tag.first, a.draining)",
        "move_together(m, self, move, al.valid & al.tag.first, a.draining & (a.lane == 0))",
    ),
    Mutant(
        "starved of a bias",
        "a sum begins although its bias is not there yet",
        "pipeline",
        "biased.eq(~begins | unit.biases.valid)",
        "biased.eq(1)",
    ),
    Mutant(
        "starved of a shift",
        "a lane is normalised although its shift is not there yet",
        "pipeline",
        "scaled.eq(~draining | unit.shifts.valid)",
        "scaled.eq(1)",
    ),
    Mutant(
        "bias lost",
        "a bias is taken while the sum that needs it waits for a shift",
        "pipeline",
        "unit.biases.ready.eq(begins & flows & scaled)",
        "unit.biases.ready.eq(begins & flows)",
    ),
    Mutant(
        "result twice",
        "a result taken while the pipeline starves is offered again",
        "pipeline",
        "with m.Elif(unit.results.ready):",
        "with m.Elif(0):",
    ),
)
CONTROL = Mutant(
    "control",
    "nothing: a change of form, which must not be called caught",
    "codec",
    "sticky.eq(lost | self.sticky)",
    "sticky.eq(self.sticky | lost)",
)
QUICK = ("tie", "NaR stays", "restless payload")
"""Those that `make test` tries: one of rounding, one of a flag, one of the streams."""
