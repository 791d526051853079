"""Co-processors that leave out kinds of execs: what they say, and what they stop at."""

from dataclasses import replace

import numpy as np
import pytest
from opennpe.golden import catalog, program
from opennpe.golden.commands import KINDS, SUM_KINDS, Command, encode
from opennpe.golden.errors import DeviceError, ProgramError, SpecError
from opennpe.golden.layout import Layout
from opennpe.golden.machine import Machine, Window
from opennpe.golden.registers import capabilities
from opennpe.golden.spec import OPTIONAL_KINDS, ArraySpec, CoprocessorSpec, MemorySpec

pytestmark = pytest.mark.fast

FULL = CoprocessorSpec(
    "full", ArraySpec(rows=4, columns=4), MemorySpec(buffer_lines=64, operand_lines=64)
)
ONE = {
    "begin": 1, "finish": 1, "blocks": 1, "kernel_y": 1, "kernel_x": 1, "words": 1, "last_words": 1,
    "last_elements": 1, "height": 1, "width": 1, "limit": 1, "tiles": 1, "lines": 1,
    "mode_a": 2, "mode_b": 2, "out": 2,
}  # fmt: skip
ROW = {"tiles": 2, "inputs": 4, "keep": 4, "setting0": 0x8000}
LEGAL = {"softmax": ROW, "norm": ROW, "sparse": {"inputs": 1, "stream_lines": 1}}
"""What an exec of a kind has beside `ONE` to be a command of a machine that has the kind."""


def run(spec, kind):
    """An exec of one kind by itself."""
    commands = [
        Command("exec", {**ONE, **LEGAL.get(kind, {}), "kind": KINDS.index(kind)}),
        Command("end", {"wait_exec": 1}),
    ]
    memory = np.zeros(4096, dtype=np.uint8)
    listed = b"".join(map(encode, commands))
    memory[: len(listed)] = np.frombuffer(listed, dtype=np.uint8)
    Machine(spec).run(memory, 0, len(listed) // spec.line_bytes, Window(0, 4096, 0, 4096))


@pytest.mark.parametrize("missing", OPTIONAL_KINDS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_machine_stops_at_a_kind_it_lacks_and_at_no_other(kind, missing):
    spec = replace(FULL, name="less", kinds=tuple(k for k in OPTIONAL_KINDS if k != missing))
    if kind == missing:
        with pytest.raises(DeviceError) as stopped:
            run(spec, kind)
        assert str(stopped.value) == f"an illegal command: a {kind}, for which less has no gates"
        return
    try:
        run(spec, kind)
    except DeviceError as error:
        # A stream of zeros is malformed: the exec began.
        assert kind == "sparse" and "a malformed stream of weights" in str(error), error


@pytest.mark.parametrize("kind", OPTIONAL_KINDS)
def test_all_may_be_missing(kind):
    with pytest.raises(DeviceError, match=f"an illegal command: a {kind}, for which ULX3S_4X4"):
        run(catalog.ULX3S_4X4, kind)


def test_lacks():
    spec = replace(FULL, kinds=("norm",))
    assert [k for k in KINDS if spec.lacks(k)] == ["sparse", "transpose", "softmax"]
    assert not any(FULL.lacks(k) for k in KINDS)
    assert all(replace(FULL, kinds=()).lacks(k) for k in OPTIONAL_KINDS)


@pytest.mark.parametrize(
    ("kinds", "bits"),
    [
        (OPTIONAL_KINDS, 0b1111111),
        ((), 0b0000111),
        (("sparse",), 0b0001111),
        (("norm", "transpose"), 0b1010111),
    ],
)
def test_the_register_has_a_bit_for_each_kind(kinds, bits):
    assert capabilities(replace(FULL, kinds=kinds))["kinds"] == bits


@pytest.mark.parametrize("kind", ["gelu", "dense", ""])
def test_a_kind_that_cannot_be_chosen_is_refused(kind):
    """A product is always there: to ask for it is a misunderstanding as well."""
    with pytest.raises(SpecError, match=f"kinds has '{kind}': expected some of sparse, transpose"):
        replace(FULL, kinds=("norm", kind))


@pytest.mark.parametrize(("made_for", "run_on"), [((), OPTIONAL_KINDS), (OPTIONAL_KINDS, ())])
def test_a_program_for_other_kinds_is_refused(made_for, run_on):
    """Either way: its compiler chose among the kinds there were."""
    own = replace(FULL, name="own", kinds=made_for)
    data = encode(Command("end"))
    held = program.Program(
        name="n", spec="own", facts=program.facts(own),
        image=np.frombuffer(data, dtype=np.uint8), origin=0, size=64 + len(data), address=0,
        lines=4, list_bytes=len(data), window=Window(0, 64, 0, 64),
        symbols=(program.Symbol("x", 64, Layout(1, 1, 1, "posit8", 1, 4), (1, 1), 0, "output"),),
        outputs=(), layers=("",),
    )  # fmt: skip
    held.check(own)
    names = [" ".join((*SUM_KINDS, *kinds)) for kinds in (made_for, run_on)]
    text = (
        rf"program 'n' is for kinds {names[0]} \(own\), other has {names[1]}: compile it for other"
    )
    with pytest.raises(ProgramError, match=text):
        held.check(replace(FULL, name="other", kinds=run_on))


@pytest.mark.parametrize("kind", OPTIONAL_KINDS)
def test_a_spec_that_has_a_kind(kind):
    """One of the same array where the catalogue has it, else one that there are gates for."""
    assert catalog.with_kind(catalog.ULX3S_4X4, kind) is catalog.EDGE_4X4
    strict = replace(catalog.STRICT_4X4, name="less", kinds=())
    assert catalog.with_kind(strict, kind) is catalog.STRICT_4X4
    odd = catalog.with_kind(replace(FULL, array=ArraySpec(rows=3, columns=4), kinds=()), kind)
    assert not odd.lacks(kind)
    odd.check_coprocessor()
