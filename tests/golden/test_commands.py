"""Commands in bits: every field to its place and back, and nothing that does not fit."""

import numpy as np
import pytest
from opennpe.golden import commands as C
from opennpe.golden.errors import ProgramError

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("op", C.OPS)
def test_random_commands_come_back(op):
    rng = np.random.default_rng(7)
    for _ in range(50):
        values = {}
        for name, bits in C.FIELDS[op]:
            if name != "op":
                low = -(1 << (bits - 1)) if name in C.SIGNED else 0
                values[name] = int(rng.integers(low, low + (1 << bits)))
        command = C.Command(op, values)
        data = C.encode(command)
        assert len(data) == 32 * command.units
        end = b"" if op == "end" else C.encode(C.Command("end"))
        offset, found = next(C.decode(data + end))
        assert offset == 0 and found.op == op
        assert all(found[name] == value for name, value in values.items())


@pytest.mark.parametrize("op", C.OPS)
def test_a_field_lies_at_the_sum_of_the_widths_before(op):
    place = 0
    for name, bits in C.FIELDS[op]:
        if name != "op":
            value = -1 if name in C.SIGNED else (1 << bits) - 1
            word = int.from_bytes(C.encode(C.Command(op, {name: value})), "little")
            assert word == C.OPS.index(op) | ((1 << bits) - 1) << place
        place += bits


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: C.Command("nop"), "unknown command 'nop'"),
        (lambda: C.Command("fill", {"address": 0}), "no field 'address'"),
        (lambda: C.Command("fill", {"op": 0}), "no field 'op'"),
        (lambda: C.Command("load", {"lines": 1 << 20}), "lines of load lies in 0..1048575"),
        (lambda: C.Command("exec", {"iy": 1 << 14}), "iy of exec lies in -16384..16383"),
        (lambda: list(C.decode(b"\x0f" * 32)), "opcode 15 at byte 0"),
        (lambda: list(C.decode(C.encode(C.Command("fill")))), "without an end at byte 32"),
        (lambda: list(C.decode(C.encode(C.Command("exec"))[:40])), "inside a command at byte 0"),
    ],
)
def test_what_is_none_is_refused(make, text):
    with pytest.raises(ProgramError, match=text):
        make()
