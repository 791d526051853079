"""The machine on commands written by hand, against sums written by hand."""

import numpy as np
import pytest
from opennpe.golden import formats, hazards
from opennpe.golden.commands import TARGETS, Command, encode
from opennpe.golden.errors import DeviceError, ProgramError, SpecError
from opennpe.golden.layout import Layout
from opennpe.golden.mac import Accumulator
from opennpe.golden.machine import Machine, Window
from opennpe.golden.spec import ArraySpec, CoprocessorSpec, MemorySpec

pytestmark = pytest.mark.fast

SPEC = CoprocessorSpec(
    "2x2",
    ArraySpec(rows=2, columns=2),
    MemorySpec(
        bus_bits=32, buffer_lines=64, operand_lines=16, weight_lines=16, parameter_tiles=2,
        command_units=16,
    ),
)  # fmt: skip
LIST, DATA, OUT = 0, 1024, 2048


def run(items, memory, spec=SPEC, window=None):
    data = b"".join(encode(c) for c in items)
    memory[LIST : LIST + len(data)] = np.frombuffer(data, dtype=np.uint8)
    window = window or Window(0, OUT, OUT, len(memory))
    machine = Machine(spec)
    machine.run(memory, LIST, min(len(data), 8 * 32) // spec.line_bytes, window)
    return machine


def memory_with(words, at=DATA):
    memory = np.zeros(4096, dtype=np.uint8)
    data = np.asarray(words, dtype="<u2").tobytes()
    memory[at : at + len(data)] = np.frombuffer(data, dtype=np.uint8)
    return memory


def load(target, lines, line=0, address=DATA, **more):
    return Command(
        "load", {"target": TARGETS.index(target), "line": line, "lines": lines,
                 "address": address, **more},
    )  # fmt: skip


END = Command("end")


def test_a_load_and_a_store_move_lines():
    words = np.arange(8).reshape(4, 2)
    memory = memory_with(words)
    run([load("buffer", 4, 3), Command("store", {"line": 4, "lines": 2, "address": OUT}), END],
        memory)  # fmt: skip
    assert np.array_equal(memory[OUT : OUT + 8].view("<u2").reshape(2, 2), words[1:3])


def test_widening_makes_lines_in_the_order_of_codes():
    rng = np.random.default_rng(3)
    codes = rng.integers(0, 16, 16).astype(np.uint8)
    codes[codes == 8] = 1
    memory = memory_with(Layout(8, 1, 2, "posit4", 1, 2).pack(codes.reshape(2, 8).T[:, None]))
    machine = run([load("buffer", 2, widen=2), END], memory)
    wide = formats.widen_table("posit4", "posit8")[codes]
    expected = Layout(4, 1, 4, "posit8", 1, 2).pack(wide.reshape(4, 4).T[:, None])
    assert np.array_equal(machine.state.buffer[:4], expected)


def test_a_fill_walks_stretches_and_wraps_around():
    memory = memory_with(np.arange(80).reshape(40, 2))
    fill = Command(
        "fill", {"source": 2, "line": 13, "run": 2, "inner": 2, "inner_stride": 10, "outer": 2,
                 "outer_stride": 3},
    )  # fmt: skip
    machine = run([load("buffer", 40), fill, END], memory)
    lines = [2, 3, 12, 13, 5, 6, 15, 16]
    for i, line in enumerate(lines):
        assert machine.state.operands[(13 + i) % 16, 0] == 2 * line


@pytest.mark.parametrize("fmt", formats.ENGINE_FORMATS)
def test_a_dense_exec_is_a_sum_by_the_accumulator(fmt):
    """A 2x2 convolution with padding, written out tap by tap."""
    rng = np.random.default_rng(5)
    f = formats.get(fmt)
    lanes = 16 // f.bits
    channels, height, width, outputs = lanes + 1, 3, 4, 2 * lanes

    def codes(*shape):
        found = rng.integers(0, 1 << f.bits, shape).astype(f.dtype)
        return np.where(found == (f.nan_code or 0), 1, found).astype(f.dtype)

    x, w = codes(channels, height, width), codes(outputs, channels, 2, 2)
    bias = rng.integers(-50, 50, outputs)
    shift = rng.integers(-6, 1, outputs)
    layout = Layout(channels, height, width, fmt, 1, 2)
    steps = w.transpose(2, 3, 1, 0).reshape(-1, 2, lanes)
    weights = Layout(outputs, len(steps), 1, fmt, 1, 2).pack(
        steps.reshape(len(steps), -1).T[:, :, None]
    )
    parameters = np.zeros((12, 2), dtype=np.uint16)
    for o in range(outputs):
        column, lane = divmod(o, lanes)
        value = (int(bias[o]) & ((1 << 128 // lanes) - 1)) << lane * (128 // lanes)
        for i in range(8):
            parameters[i, column] |= value >> 16 * i & 0xFFFF
        parameters[8 + lane, column] = int(shift[o]) & 1023
    everything = np.concatenate([layout.pack(x), weights, parameters])
    first, second = layout.lines, layout.lines + len(weights)
    mode = formats.ENGINE_FORMATS.index(fmt)
    pixels = (height + 1) * width
    spec = CoprocessorSpec(
        "big", SPEC.array, MemorySpec(bus_bits=32, buffer_lines=64, weight_lines=64,
                                      operand_lines=32, command_units=32),
    )  # fmt: skip
    command = Command(
        "exec",
        {
            "kind": 0, "mode_a": mode, "mode_b": mode, "out": mode, "begin": 1, "finish": 1,
            "blocks": layout.blocks, "kernel_y": 2, "kernel_x": 2, "words": 2,
            "last_words": 2, "last_elements": 1, "block_step": 2 * height * width,
            "tap_y": 2 * width, "tap_x": 2, "dilation_y": 1, "dilation_x": 1, "height": height,
            "width": width, "base": -2 * width % (1 << 16), "iy": -1, "ix": 0, "stride_y": 1,
            "stride_x": 1, "pixel_step": 2, "limit": width, "span": width, "wrap_step": 0,
            "tile_x": 2, "tile_step": 4, "tiles": 1, "lines": pixels, "out_line": 40,
        },
    )  # fmt: skip
    size = 4
    machine = run(
        [
            load("buffer", layout.lines),
            load("weights", len(weights), address=DATA + first * size),
            load("parameters", 12, address=DATA + second * size),
            Command("fill", {"run": layout.lines, "inner": 1, "outer": 1}),
            command,
            END,
        ],
        memory_with(everything),
        spec,
    )
    found = Layout(outputs, height + 1, width, fmt, 1, 2).unpack(
        machine.state.buffer[40 : 40 + pixels]
    )
    padded = np.zeros((channels, height + 2, width + 1), dtype=f.dtype)
    padded[:, 1:-1, :-1] = x
    for o in range(outputs):
        for y in range(height + 1):
            for column in range(width):
                sum_ = Accumulator(fmt, fmt)
                sum_.add_fixed(int(bias[o]))
                for c in range(channels):
                    for i in range(2):
                        for j in range(2):
                            code = padded[c, y + i, column + j]
                            sum_.add(int(code), int(w[o, c, i, j]))
                assert found[o, y, column] == sum_.result(fmt, int(shift[o]), spec.underflow)


@pytest.mark.parametrize(
    ("items", "text"),
    [
        ([load("buffer", 0), END], "an illegal command"),
        ([load("buffer", 1, address=DATA + 2), END], "an illegal command"),
        ([load("buffer", 4, 62), END], "a line outside a memory"),
        ([load("buffer", 4, address=4000), END], "a read outside the read window"),
        ([Command("store", {"lines": 1, "address": DATA}), END], "a write outside the write"),
        ([Command("fill", {"source": 63, "run": 2, "inner": 1, "outer": 1}), END], "outside a mem"),
        ([Command("fill", {"run": 2}), END], "an illegal command"),
        ([Command("exec", {"mode_a": 3, "tiles": 1}), END], "an illegal command"),
    ],
)
def test_what_stops_the_machine(items, text):
    with pytest.raises(DeviceError, match=text):
        run(items, memory_with([]))


def test_a_list_that_does_not_load_its_rest():
    with pytest.raises(ProgramError, match="nothing loads the rest"):
        run([load("buffer", 1)] * 9 + [END], memory_with([]))


def test_a_list_that_loads_itself_to_another_place():
    with pytest.raises(ProgramError, match="goes on at line 64"):
        run([load("commands", 8, 0, LIST + 256)] + [load("buffer", 1)] * 8 + [END],
            memory_with([]))  # fmt: skip


def test_no_machine_without_gates():
    with pytest.raises(SpecError, match="2 to 16 rows"):
        Machine(CoprocessorSpec("1x1", ArraySpec(rows=1, columns=1)))


# -- races -------------------------------------------------------------------------------------
def chain(**waits):
    """Load, fill, exec and store of one line, each after the one before unless told otherwise."""
    fill = {"run": 1, "inner": 1, "outer": 1, "wait_load": 1}
    exec_ = {
        "kind": 1, "begin": 1, "finish": 1, "blocks": 1, "kernel_y": 1, "kernel_x": 1, "words": 1,
        "last_words": 1, "last_elements": 1, "height": 1, "width": 1, "limit": 9, "tiles": 1,
        "lines": 1, "out_line": 0, "wait_fill": 1, "wait_load": 3,
    }  # fmt: skip
    store = {"lines": 1, "address": OUT, "wait_exec": 1}
    end = {"wait_load": 3, "wait_fill": 1, "wait_exec": 1, "wait_store": 1}
    items = {"fill": fill, "exec": exec_, "store": store, "end": end}
    for name, value in waits.items():
        op, wait = name.split("_", 1)
        items[op][wait] = value
    return [
        load("buffer", 1),
        load("weights", 1),
        load("parameters", 12),
        *(Command(op, values) for op, values in items.items()),
    ]


def test_a_list_that_waits_has_no_race():
    assert hazards.check(SPEC, chain()) > 8


@pytest.mark.parametrize(
    ("waits", "text"),
    [
        ({"fill_wait_load": 0}, "fill. reads buffer that load 1 writes"),
        ({"exec_wait_fill": 0}, "exec. reads operands that fill 1 writes"),
        ({"exec_wait_load": 2}, "exec. reads parameters that load 3 writes"),
        ({"exec_wait_load": 1}, "exec. reads weights that load 2 writes"),
        ({"store_wait_exec": 0}, "store. reads buffer that load 1 writes"),
        ({"end_wait_store": 0}, "end does not wait for the last store"),
        ({"store_wait_exec": 2}, "only 1 come before"),
    ],
)
def test_a_missing_wait_is_a_race(waits, text):
    with pytest.raises(ProgramError, match=text):
        hazards.check(SPEC, chain(**waits))


def test_waits_carry_over():
    """The store knows of the load through the exec and the fill."""
    items = chain(exec_wait_load=3)
    assert hazards.check(SPEC, items)
