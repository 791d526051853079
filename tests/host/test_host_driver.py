"""Programs on every back-end: the same tensors, the same counters, the same refusals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from host_cases import random_network
from opennpe.golden import catalog, reference
from opennpe.golden import layers as L
from opennpe.golden.commands import Command, encode
from opennpe.golden.errors import DataError, DeviceError, ProgramError, ToolError
from opennpe.golden.network import Network, Tensor
from opennpe.golden.registers import CAUSES, MemorySettings, capabilities
from opennpe.host import backends, driver
from opennpe.host.backends import Golden, Sim, Verilator
from opennpe.host.compile import compile
from opennpe.rtl.cosim import Mischief
from opennpe.sim.coprocessor import cycles

SPEC = catalog.EDGE_2X2
SETTINGS = (MemorySettings(), MemorySettings(1, 1, 1, 1), MemorySettings(37, 3, 11, 2))
SEEDS = (3, 10, 25)


def small(format="posit8"):
    """A convolution, a maximum and a softmax that is left to the host."""
    rng = np.random.default_rng(0)
    names = ("image", "sums", "most", "flat", "scores", "share")
    shapes = ((1, 3, 6, 6), (1, 5, 4, 4), (1, 5, 2, 2), (1, 20), (1, 4), (1, 4))
    tensors = {n: Tensor(n, s, format, -1) for n, s in zip(names, shapes, strict=True)}

    def weights(*shape):
        scale, bias = np.full(shape[0], -1), rng.normal(size=shape[0])
        return tensors["image"].encode(rng.normal(size=shape)), format, scale, bias

    one, none, relu = (1, 1), (0, 0, 0, 0), (0.0, np.inf)
    return Network(
        ("image",),
        ("share", "most"),
        tensors,
        (
            L.Conv("conv", ("image",), "sums", *weights(5, 3, 3, 3), one, none, one, 1, relu),
            L.Pool("max", ("sums",), "most", "max", (2, 2), (2, 2), none, one),
            L.Reshape("flatten", ("most",), "flat", (1, 20)),
            L.Linear("fc", ("flat",), "scores", *weights(4, 20)),
            L.Softmax("softmax", ("scores",), "share", 1),
        ),
        name="small",
    )


def image(seed=1, count=1):
    return {"image": np.random.default_rng(seed).normal(size=(count, 3, 6, 6))}


@pytest.mark.fast
def test_golden_and_the_simulator_agree_and_one_of_them_counts():
    network = small()
    program = compile(network, SPEC, "all")
    slow = driver.run(program, image(), Golden(SPEC))
    fast = driver.run(program, image(), Sim(SPEC, network))
    expected = reference.evaluate(SPEC, network, image())
    assert {"share", "most", "sums"} <= set(slow.tensors) & set(fast.tensors)
    for name in set(slow.tensors) & set(fast.tensors):
        assert np.array_equal(slow.tensors[name], expected[name]), name
        assert np.array_equal(fast.tensors[name], expected[name]), name
    assert slow.counters is None
    assert fast.counters == cycles(SPEC, program, MemorySettings()).counters
    assert fast.counters.busy > 0
    values = driver.decode(program, slow.tensors)
    assert np.isclose(values["share"].sum(), 1, atol=0.1) and values["most"].shape == (1, 5, 2, 2)


@pytest.mark.fast
def test_codes_pass_as_they_are():
    network = small()
    program = compile(network, SPEC)
    codes = driver.encode(program, image())
    again = driver.encode(program, codes)
    assert np.array_equal(codes["image"], again["image"])
    found = driver.run(program, codes, Golden(SPEC)).tensors["share"]
    assert np.array_equal(found, driver.run(program, image(), Golden(SPEC)).tensors["share"])


@pytest.mark.fast
@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "the input 'image' is missing"),
        ({**image(), "other": np.zeros(1)}, "'other' is no input"),
        ({"image": np.zeros((1, 3, 5, 6))}, r"shape \(1, 3, 5, 6\)"),
        (image(count=2), r"a program runs one sample: input 'image' has shape \(2, 3, 6, 6\)"),
        ({"image": np.zeros((1, 3, 6, 6), dtype=complex)}, "expected numbers"),
    ],
)
def test_inputs_that_do_not_fit(inputs, message):
    with pytest.raises(DataError, match=message):
        driver.run(compile(small(), SPEC), inputs, Golden(SPEC))


@pytest.mark.fast
def test_a_program_runs_on_its_own_co_processor_only():
    program = compile(small(), SPEC)
    for backend in (Golden(catalog.EDGE_4X4), Sim(catalog.EDGE_4X4, small())):
        with pytest.raises(ProgramError, match="is for rows 2 .* EDGE_4X4 has 4"):
            driver.run(program, image(), backend)


@pytest.mark.fast
def test_registers_say_what_a_program_needs():
    program = compile(small(), SPEC)
    good = capabilities(SPEC)
    backends.check_capabilities(good.__getitem__, program)
    for name, change, message in (
        ("identity", 1, "no co-processor: identity"),
        ("version", 1, "of version"),
        ("array", 1, "is for rows 2"),
        ("array", 1 << 8, "is for columns 2"),
        ("buffer_lines", 1, "is for buffer_lines"),
        ("operand_lines", 1, "is for operand_lines"),
        ("weight_lines", 1, "is for weight_lines"),
        ("parameter_tiles", 1, "is for parameter_tiles"),
        ("parameter_tiles", 1 << 16, "is for command_units"),
    ):
        bad = {**good, name: good[name] ^ change}
        with pytest.raises((ProgramError, DeviceError), match=message):
            backends.check_capabilities(bad.__getitem__, program)


@pytest.fixture(scope="module")
def gates():
    engine = Verilator(SPEC)
    yield engine
    engine.close()


@pytest.mark.rtl
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("format", ["fp4", "posit4", "posit8", "posit16"])
def test_the_gates_agree_to_the_bit_and_to_the_cycle(gates, format, settings):
    network = small(format)
    program = compile(network, SPEC, "all")
    expected = driver.run(program, image(), Golden(SPEC)).tensors
    done = driver.run(program, image(), gates, settings)
    assert set(done.tensors) == set(expected)
    for name, codes in expected.items():
        assert np.array_equal(done.tensors[name], codes), name
    assert done.counters == cycles(SPEC, program, settings).counters
    assert done.seconds > 0


@pytest.mark.rtl
def test_back_pressure_changes_no_bit(gates):
    program = compile(small(), SPEC, "all")
    expected = driver.run(program, image(), gates)
    try:
        for seed in range(20):
            gates.mischief = Mischief(pressure=16 * (seed % 10), seed=seed)
            found = driver.run(program, image(), gates)
            assert all(np.array_equal(found.tensors[n], c) for n, c in expected.tensors.items())
    finally:
        gates.mischief = None


@pytest.mark.rtl
@pytest.mark.parametrize(
    ("mischief", "cause"),
    [
        (Mischief(fail_read_beat=0), "an error response to a read"),
        (Mischief(fail_read_beat=40), "an error response to a read"),
        (Mischief(fail_write_burst=0), "an error response to a write"),
        (Mischief(fail_write_burst=1, pressure=99, seed=5), "an error response to a write"),
    ],
)
def test_errors_of_the_memory_stop_it_and_it_starts_again(gates, mischief, cause):
    program = compile(small(), SPEC, "all")
    assert cause in CAUSES
    gates.mischief = mischief
    try:
        with pytest.raises(DeviceError, match=f"stopped with an error: {cause}"):
            driver.run(program, image(), gates)
    finally:
        gates.mischief = None
    driver.run(program, image(), gates)


@pytest.mark.rtl
def test_a_program_that_leaves_its_window_is_stopped(gates):
    program = compile(small(), SPEC, "all")
    window = replace(program.window, write_limit=program.window.write_base + 2 * SPEC.line_bytes)
    with pytest.raises(DeviceError, match="a write outside the write window"):
        driver.run(replace(program, window=window), image(), gates)
    driver.run(program, image(), gates)


@pytest.mark.rtl
def test_a_program_that_waits_for_ever_is_stopped(gates):
    program = compile(small(), SPEC)
    offset, end = program.commands[-1]
    never = encode(Command("end", {**end.values, "wait_exec": end["wait_exec"] + 1}))
    image_bytes = program.image.copy()
    first = program.address - program.origin + offset
    image_bytes[first : first + len(never)] = np.frombuffer(never, dtype=np.uint8)
    with pytest.raises(DeviceError, match="commands that wait for what does not come"):
        driver.run(replace(program, image=image_bytes), image(), gates)
    driver.run(program, image(), gates)


@pytest.mark.rtl
def test_random_networks_on_the_gates(gates):
    ran = 0
    for seed in range(12):
        network, inputs = random_network(seed)
        try:
            program = compile(network, SPEC, "all")
            expected = driver.run(program, inputs, Golden(SPEC)).tensors
        except ValueError:
            continue
        found = driver.run(program, inputs, gates, SETTINGS[seed % 3])
        assert all(np.array_equal(found.tensors[n], c) for n, c in expected.items()), seed
        ran += 1
    assert ran >= 5


@pytest.mark.fast
def test_waveforms_have_two_kinds():
    with pytest.raises(ToolError, match=r"\.fst or a \.vcd file"):
        Verilator(SPEC, "waves.png")
