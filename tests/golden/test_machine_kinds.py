"""Sparse execs and transposition on golden's machine: what they mean, and what they refuse."""

import numpy as np
import pytest
from opennpe.golden import commands as C
from opennpe.golden import formats, hazards, lanes, mac, microops
from opennpe.golden.errors import DeviceError, ProgramError
from opennpe.golden.layout import Layout
from opennpe.golden.machine import Machine
from opennpe.golden.spec import ArraySpec, CoprocessorSpec, MemorySpec

pytestmark = pytest.mark.fast

SPEC = CoprocessorSpec(
    "4x4", ArraySpec(rows=4, columns=4), MemorySpec(buffer_lines=4096, operand_lines=1024)
)
ROWS, COLUMNS = SPEC.array.rows, SPEC.line_words


def codes(rng, name, shape, density=1.0):
    fmt = formats.get(name)
    found = rng.integers(0, 1 << fmt.bits, shape).astype(fmt.dtype)
    if fmt.nan_code is not None:
        found[found == fmt.nan_code] = 1
    return np.where(rng.random(shape) < density, found, 0).astype(fmt.dtype)


def channel_major(name, values):
    """Lines of (channels, pixels) codes, a line a channel."""
    channels, pixels = values.shape
    layout = Layout(pixels, channels, 1, name, 1, COLUMNS)
    return layout, layout.pack(values.T.reshape(pixels, channels, 1))


def stream(rng, name, narrow, outputs, inputs, density, block, delta):
    shape = microops.Shape(narrow, 1 << block, microops.DELTAS[delta], COLUMNS)
    weights = codes(rng, narrow, (outputs, inputs), density)
    return weights, microops.pack(shape, weights)


def sparse_command(name, out, packed, pixels, outputs, block, delta, widen):
    """The exec of a whole layer, operands from line 0 on, results from line 0 on."""
    blocks = -(-pixels // (COLUMNS * lanes.lanes(name)))
    index = formats.ENGINE_FORMATS.index
    inputs, share = packed.inputs, ROWS >> block
    return C.Command("exec", {
        "kind": C.KINDS.index("sparse"), "mode_a": index(name), "mode_b": index(name),
        "out": index(out), "begin": 1, "finish": 1, "blocks": 1, "kernel_y": 1, "kernel_x": 1,
        "words": 1, "last_words": 1, "last_elements": 1, "height": 1, "width": 1, "limit": 1,
        "tiles": len(packed.counts), "lines": blocks << block, "block_rows": block,
        "delta": delta, "weight_widen": widen, "stream_lines": len(packed.lines),
        "inputs": inputs, "pixel_step": inputs * COLUMNS,
        "tile_step": share * inputs * COLUMNS % (1 << 16), "out_tile": share * outputs,
        "out_block": outputs,
    })  # fmt: skip


def parameters(name, biases, shifts):
    """Parameter tiles of channels, one a column."""
    bits = SPEC.engine.lane_accumulator_bits(name)
    tiles = np.zeros((-(-len(biases) // COLUMNS), C.PARAMETER_LINES, COLUMNS), dtype=np.uint16)
    for m, (bias, shift) in enumerate(zip(biases, shifts, strict=True)):
        for i in range(bits // 16):
            tiles[m // COLUMNS, i, m % COLUMNS] = int(bias) >> 16 * i & 0xFFFF
        tiles[m // COLUMNS, 8, m % COLUMNS] = int(shift) & 0xFFFF
    return tiles


@pytest.mark.parametrize("seed", range(40))
def test_sparse_is_the_product_of_the_same_weights(seed):
    rng = np.random.default_rng(seed)
    name = formats.ENGINE_FORMATS[seed % 4]
    pairs = [i for i, p in enumerate(C.WIDEN) if p and p[1] == name]
    widen = int(rng.choice([0, *pairs]))
    narrow = C.WIDEN[widen][0] if widen else name
    block, delta = int(rng.integers(0, 3)), int(rng.integers(0, 3))
    outputs = int(rng.integers(1, 6)) << block
    inputs, pixels = int(rng.integers(1, 60)), int(rng.integers(1, 70))
    density = float(rng.choice([0.0, 0.05, 0.3, 1.0]))
    try:
        weights, packed = stream(rng, name, narrow, outputs, inputs, density, block, delta)
    except ProgramError:
        pytest.skip("a record longer than a line")
    x = codes(rng, name, (inputs, pixels))
    _, lines = channel_major(name, x)
    shifts, biases = rng.integers(-4, 3, outputs), rng.integers(-500, 500, outputs)
    machine = Machine(SPEC)
    machine.state.operands[: len(lines)] = lines
    machine.state.weights[: len(packed.lines)] = packed.lines
    tiles = parameters(name, biases, shifts)
    machine.state.parameters[: len(tiles)] = tiles
    command = sparse_command(name, name, packed, pixels, outputs, block, delta, widen)
    hazards.touched(SPEC, command)
    machine._exec(command)
    layout = Layout(pixels, outputs, 1, name, 1, COLUMNS)
    got = layout.unpack(machine.state.buffer[: layout.lines])[:, :, 0].T
    f = formats.get(name)
    unit = 2.0 ** mac.grid_exponent(name, name)
    wide = formats.widen_table(narrow, name)[weights] if widen else weights
    for m in range(outputs):
        for p in range(pixels):
            want = mac.dot(
                f, wide[m], x[:, p], bias=float(biases[m]) * unit, shift=int(shifts[m]),
                underflow=SPEC.underflow,
            )  # fmt: skip
            assert got[m, p] == want, (m, p)


@pytest.mark.parametrize("block", [0, 1, 2])
def test_a_stream_reads_back(block):
    rng = np.random.default_rng(block)
    for delta in range(3):
        weights, packed = stream(rng, "", "posit8", 8, 90, 0.05, block, delta)
        found = np.zeros_like(weights)
        for b, records in enumerate(
            microops.read(packed.shape, packed.inputs, len(packed.counts), packed.lines)
        ):
            for k, own in records:
                found[b << block : (b + 1) << block, k] |= np.array(own, dtype=np.uint8)
        assert np.array_equal(found, weights)


def malformed(packed, what):
    """A stream with one thing wrong, and the number of blocks claimed."""
    lines, blocks = packed.lines.copy(), len(packed.counts)
    if what == "index":
        lines[0, 0] |= 0x1E  # the first difference: 15
    elif what == "more blocks":
        blocks += 1
    elif what == "fewer blocks":
        blocks -= 4
    elif what == "a line more":
        lines = np.concatenate([lines, lines[:1]])
    elif what == "a line less":
        lines = lines[:-1]
    return lines, blocks


@pytest.mark.parametrize("what", ["index", "more blocks", "fewer blocks", "a line more",
                                  "a line less"])  # fmt: skip
def test_malformed_streams_are_refused(what):
    rng = np.random.default_rng(5)
    _, packed = stream(rng, "", "posit8", 16, 12, 0.5, 0, 0)
    microops.read(packed.shape, 12, 16, packed.lines)
    lines, blocks = malformed(packed, what)
    with pytest.raises(ProgramError):
        microops.read(packed.shape, 12, blocks, lines)
    machine = Machine(SPEC)
    machine.state.weights[: len(lines)] = lines
    command = sparse_command("posit8", "posit8", packed, 8, 16, 0, 0, 0)
    fields = {**command.values, "tiles": blocks, "stream_lines": len(lines)}
    with pytest.raises(DeviceError, match="a malformed stream"):
        machine._exec(C.Command("exec", fields))


@pytest.mark.parametrize("name", formats.ENGINE_FORMATS)
def test_transposition_and_back(name):
    rng = np.random.default_rng(1)
    lane = lanes.lanes(name)
    machine = Machine(SPEC)
    for channels, pixels in ((1, 1), (7, 5), (40, 23), (16, 64)):
        x = codes(rng, name, (channels, pixels))
        layout = Layout(channels, pixels, 1, name, 1, COLUMNS)
        machine.state.operands[: layout.lines] = layout.pack(x.reshape(channels, pixels, 1))
        words = COLUMNS * lane
        last = channels - (layout.blocks - 1) * words
        command = C.Command("exec", {
            "kind": C.KINDS.index("transpose"), "mode_a": formats.ENGINE_FORMATS.index(name),
            "mode_b": formats.ENGINE_FORMATS.index(name),
            "out": formats.ENGINE_FORMATS.index(name), "begin": 1, "finish": 1,
            "blocks": layout.blocks, "kernel_y": 1, "kernel_x": 1, "words": COLUMNS,
            "last_words": -(-last // lane), "last_elements": (last - 1) % lane + 1,
            "block_step": pixels * COLUMNS, "height": 1, "width": 1, "limit": 1, "tiles": 1,
            "pixel_step": COLUMNS, "tile_step": ROWS * COLUMNS, "lines": pixels,
            "out_tile": channels,
        })  # fmt: skip
        hazards.touched(SPEC, command)
        machine._exec(command)
        other = Layout(pixels, channels, 1, name, 1, COLUMNS)
        assert np.array_equal(other.unpack(machine.state.buffer[: other.lines])[:, :, 0], x.T)
