"""Sparse layers, compiled and run by the machine, equal golden's dense ones; what is chosen."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from host_builder import FORMATS, SPECS, spec
from host_runs import check, kinds
from opennpe.golden import catalog, microops, reference
from opennpe.golden import commands as C
from opennpe.golden.errors import (
    AccumulatorError,
    CompileError,
    DeviceError,
    FormatError,
    ProgramError,
)
from opennpe.golden.machine import Machine
from opennpe.golden.registers import MemorySettings
from opennpe.host import sparse as choice
from opennpe.host.compile import compile
from opennpe.sim.coprocessor import cycles
from sparse_cases import SparseBuilder, sparse_network

CHUNK, CHUNKS = 60, 5
NAMES = ("2x2", "4x4", "3x4", "stream", "tiny", "bands", "5x16")
REFUSED = (CompileError, FormatError, AccumulatorError)


@pytest.mark.parametrize("sparse", ["always", "auto", "bytes"])
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_random_sparse_layers_equal_golden(chunk, sparse):
    """Shapes and densities of all sorts, empty rows and layers of zeros among them."""
    seen, execs = Counter(), Counter()
    for seed in range(chunk * CHUNK, (chunk + 1) * CHUNK):
        name = NAMES[seed % (len(NAMES) if seed % 3 == 0 else 2)]
        network, inputs = sparse_network(seed)
        try:
            execs += check(SPECS[name], network, inputs, sparse)
        except REFUSED:
            seen["refused"] += 1
            continue
        except AssertionError as error:
            raise AssertionError(f"seed {seed} on {name}: {error}") from error
        seen["equal"] += 1
    assert seen["equal"] >= CHUNK * 2 // 3, seen
    assert execs["sparse"] >= CHUNK // 6, execs


def alone(fmt, outputs, inputs, pixels, density, seed=0, weight=None):
    """A sparse layer by itself."""
    b = SparseBuilder(np.random.default_rng(seed), (fmt,))
    x = b.tensor((1, pixels, inputs))
    y = b.sparse(x, outputs, density, weight)
    return b.network([x.name], [y.name]), {x.name: b.codes(fmt, x.shape)}


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("density", [0.0, 0.05, 0.5, 1.0])
def test_densities_from_none_to_all(fmt, density):
    for name, outputs in (("2x2", 6), ("4x4", 12), ("3x4", 7)):
        network, inputs = alone(fmt, outputs, 37, 19, density)
        found = check(SPECS[name], network, inputs, "always")
        assert set(found) == {"sparse"}


def test_weights_narrower_than_the_layer():
    for weight in ("fp4", "posit4", "posit8"):
        network, inputs = alone("posit16", 8, 20, 9, 0.3, weight=weight)
        assert set(check(SPECS["4x4"], network, inputs, "always")) == {"sparse"}


def test_a_stream_longer_than_the_weights_or_the_parameters_is_cut():
    small = spec(4, 4, weight_lines=16, parameter_tiles=2)
    network, inputs = alone("posit8", 48, 60, 50, 0.5)
    assert check(small, network, inputs, "always")["sparse"] > 5
    short = spec(4, 4, operand_lines=64)
    assert check(short, network, inputs, "always")["sparse"] > 1


def test_layers_in_rows_hand_on_channel_major_tensors():
    b = SparseBuilder(np.random.default_rng(1), ("posit8",))
    x = first = b.tensor((1, 30, 24))
    for _ in range(3):
        x = b.sparse(x, 24, 0.1)
    network, inputs = (
        b.network([first.name], [x.name]),
        {first.name: b.codes("posit8", (1, 30, 24))},
    )
    assert set(check(SPECS["4x4"], network, inputs, "always")) == {"sparse"}
    # Arrays that cannot transpose need not.
    assert set(check(SPECS["3x4"], network, inputs, "always")) == {"sparse"}


def test_a_consumer_that_wants_pixels_gets_them_by_one_transposition():
    b = SparseBuilder(np.random.default_rng(2), ("posit8",))
    x = first = b.tensor((1, 12, 5, 5))
    x = b.sparse(x, 16, 0.1)
    y, z = b.conv(x), b.conv(x)
    network = b.network([first.name], [y.name, z.name])
    inputs = {first.name: b.codes("posit8", first.shape)}
    found = check(SPECS["4x4"], network, inputs, "always" if found_one(network) else "bytes")
    assert found["transpose"] == 1 and found["sparse"] >= 1
    with pytest.raises(CompileError, match="it needs a transposition"):
        compile(network, SPECS["3x4"], sparse="always")


def found_one(network):
    """Whether the convolutions behind the sparse one are none of 1x1."""
    return len(choice.candidates(SPECS["4x4"], network)) == 1


# -- the choice ----------------------------------------------------------------------------------
def test_counts_are_those_of_the_packer():
    rng = np.random.default_rng(5)
    checked = 0
    for rows in microops.BLOCK_ROWS:
        for bits in microops.DELTAS:
            for density in (0.0, 0.003, 0.05, 0.5, 1.0):
                weights = (rng.random((8, 700)) < density) * rng.integers(1, 127, (8, 700))
                shape = microops.Shape("posit8", rows, bits, 16)
                packed = microops.pack(shape, weights.astype(np.uint8))
                found = choice.record_counts(weights != 0, rows, bits)
                assert found.tolist() == packed.counts.tolist()
                checked += 1
    assert checked == 45


@pytest.mark.parametrize(("density", "pixels", "kind"), [(0.05, 256, "sparse"), (1.0, 8, "dense")])
def test_the_cheaper_of_dense_and_sparse_is_chosen(density, pixels, kind):
    network = next(
        n for n, _ in (alone("posit8", 64, 128, pixels, density, seed) for seed in range(9))
        if (n.layers[0].weights != 0).mean() > 0.9 * density
    )  # fmt: skip
    for how in ("auto", "cycles"):
        program = compile(network, catalog.EDGE_8X8, sparse=how)
        assert kind in kinds([c for _, c in program.commands])
    counted = {
        how: cycles(
            catalog.EDGE_8X8, compile(network, catalog.EDGE_8X8, sparse=how), MemorySettings()
        ).counters.cycles
        for how in ("auto", "never", "always")
    }
    assert counted["auto"] == min(counted.values()), counted


def test_the_choice_is_the_cheapest_or_near_it():
    """Of all-dense, all-sparse and the choice, by the cycle model on whole networks."""
    won = checked = 0
    for seed in range(60):
        network, _ = sparse_network(seed, ("posit8",))
        own = SPECS["4x4"]
        try:
            counted = [
                cycles(own, compile(network, own, sparse=how), MemorySettings()).counters.cycles
                for how in ("auto", "never", "always")
            ]
        except REFUSED:
            continue
        checked += 1
        won += counted[0] <= 1.1 * min(counted[1:]) + 60
    assert checked > 30 and won >= 0.9 * checked, (won, checked)


def test_weights_take_less_room_where_bytes_are_asked_for():
    """One vector: most lanes idle, so a sparse layer gains little but room."""
    b = SparseBuilder(np.random.default_rng(3), ("posit16",))
    x = b.tensor((1, 96))
    y = b.sparse(x, 96, 0.5)
    network = b.network([x.name], [y.name])
    own = catalog.EDGE_8X8
    by = {how: compile(network, own, sparse=how) for how in ("cycles", "bytes", "never")}
    assert kinds([c for _, c in by["bytes"].commands])["sparse"]
    assert len(by["bytes"].image) < len(by["never"].image)
    assert len(by["bytes"].image) <= len(by["cycles"].image)


def test_what_cannot_run_sparse_says_why():
    network, _ = alone("posit8", 8, 600, 4, 0.1)
    with pytest.raises(CompileError, match="cannot run sparse: 600 input channels are more than"):
        compile(network, SPECS["4x4"], sparse="always")
    b = SparseBuilder(np.random.default_rng(0), ("posit8",))
    x = b.tensor((1, 5, 9))
    y = b.sparse(x, 8, 0.1)
    b.tensors[y.name] = replace(y, format="posit16")
    with pytest.raises(CompileError, match="posit8 to posit16 in posit8: .* of one width"):
        compile(b.network([x.name], [y.name]), SPECS["4x4"], sparse="always")
    with pytest.raises(CompileError, match="sparse is 'maybe': expected auto, cycles"):
        compile(network, SPECS["4x4"], sparse="maybe")


# -- planted faults ------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("inputs", lambda v: 3),
        ("stream_lines", lambda v: v - 1),
        ("tiles", lambda v: v + 1),
        ("delta", lambda v: (v + 1) % 3),
        ("block_rows", lambda v: (v + 1) % 3),
        ("parameter", lambda v: v + 1),
        ("base", lambda v: v + 4),
        ("out_block", lambda v: v + 1),
        ("weight_line", lambda v: v + 1),
    ],
)
def test_planted_faults_are_seen(field, change):
    network, inputs = alone("posit8", 24, 40, 50, 0.2)
    own = SPECS["4x4"]
    expected = reference.evaluate(own, network, inputs)
    held = compile(network, own, "all", "always")
    seen = total = 0
    for offset, command in held.commands:
        if command.op != "exec":
            continue
        total += 1
        other = C.Command("exec", {**command.values, field: change(command[field])})
        data = np.frombuffer(C.encode(other), dtype=np.uint8)
        memory = held.memory(inputs)
        memory[held.address + offset : held.address + offset + len(data)] = data
        try:
            Machine(own).run(memory, held.address, held.lines, held.window)
        except (DeviceError, ProgramError):
            seen += 1
            continue
        found = held.results(memory)
        seen += any(not np.array_equal(found[n], expected[n]) for n in expected if n in found)
    # Where a band has one pixel block, the step to the next one says nothing.
    assert seen >= total - (field == "out_block") > 0


def test_a_flipped_weight_is_seen():
    network, inputs = alone("posit8", 8, 20, 9, 1.0)
    (layer,) = network.layers
    weights = layer.weights.copy()
    weights[3, 4] ^= 0x40
    other = replace(network, layers=(replace(layer, weights=weights),))
    own = SPECS["4x4"]
    held = compile(other, own, "all", "always")
    memory = held.memory(inputs)
    Machine(own).run(memory, held.address, held.lines, held.window)
    expected = reference.evaluate(own, network, inputs)
    name = network.outputs[0]
    wrong = held.results(memory)[name] != expected[name]
    assert wrong[..., 3].any() and not np.delete(wrong, 3, axis=-1).any()
    assert math.prod(wrong.shape) == 72
