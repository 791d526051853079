"""Programs over the serial link: the board's top in gates, a model of it, and ports that fail."""

from __future__ import annotations

import contextlib
import json
import os
import select
import threading
import tty
from collections.abc import Iterator

import numpy as np
import pytest
from opennpe.cli.main import main
from opennpe.golden import catalog, serial_frames, storage
from opennpe.golden.errors import DeviceError, ProgramError
from opennpe.golden.machine import Machine, Window
from opennpe.golden.registers import COUNTERS, REGISTERS, capabilities
from opennpe.golden.serial_frames import MEMORY_SETTINGS
from opennpe.host import driver, serial_board, simulated_board
from opennpe.host.backends import Sim
from opennpe.host.compile import compile
from opennpe.host.serial_board import OnBoard, SerialBoard
from opennpe.host.serial_link import LinkSetup, SerialLink
from opennpe.host.serial_port import SerialPort
from opennpe.sim.coprocessor import cycles
from serial_bench import BadCable, Device, SoftPort
from test_host_driver import image, small

fast = pytest.mark.fast
rtl = pytest.mark.rtl
SPEC = catalog.EDGE_2X2
SEED = 48
"""Of a cable whose second hundred of frames has the first fault at a rate of one in a thousand."""
NAMES = {place: name for name, place in REGISTERS.items()}


class Modelled(Device):
    """A board in software: the link, a co-processor by definition, 64 KiB.

    Args:
        hangs: its co-processor begins and never ends. dies_at: bytes after which it is silent.
    """

    def __init__(self, hangs=False, dies_at=None, **options):
        super().__init__(**options)
        self.hangs, self.dies_at, self.fed = hangs, dies_at, 0
        self.memory = bytearray(1 << 16)
        self.link["memory_bytes"] = len(self.memory)
        self.registers = dict.fromkeys(REGISTERS, 0) | capabilities(SPEC)
        self.runs = 0

    def feed(self, data):
        self.fed += len(data)
        if self.dies_at is not None and self.fed > self.dies_at:
            return b""
        return super().feed(data)

    def read(self, space, address):
        if space == "registers":
            return self.registers[NAMES[address]] if address in NAMES else 0
        if space == "memory" and address < len(self.memory):
            return int.from_bytes(self.memory[address : address + 4], "little")
        if space == "memory":
            raise KeyError(address)
        return super().read(space, address)

    def write(self, space, address, value):
        if space == "registers":
            self.registers[NAMES[address]] = value
            if NAMES[address] == "control":
                self._control(value)
        elif space == "memory" and address < len(self.memory):
            self.memory[address : address + 4] = value.to_bytes(4, "little")
        elif space == "link" and address == serial_frames.LINK_REGISTERS["reset"]:
            self.registers["status"] = self.link["state"] = 0
        else:
            super().write(space, address, value)

    def _control(self, value):
        if value & serial_board.CLEAR:
            self.registers["status"] = self.link["state"] = 0
        if value & serial_board.START and self.hangs:
            self.registers["status"] = serial_board.BUSY
        elif value & serial_board.START:
            self.runs += 1
            held, r = np.frombuffer(self.memory, dtype=np.uint8).copy(), self.registers
            window = Window(**{name: r[name] for name in vars(Window(0, 0, 0, 0))})
            Machine(SPEC).run(held, r["program"], r["program_lines"], window)
            self.memory[:] = held.tobytes()
            self.registers["status"] = serial_board.DONE
            self.link["state"] = 1


def compare(on_board, network, program, seeds):
    """Every tensor of every image against the simulator; the counters of the last."""
    for seed in seeds:
        right = driver.run(program, image(seed), Sim(SPEC, network), MEMORY_SETTINGS)
        found = driver.run(program, image(seed), on_board, MEMORY_SETTINGS)
        assert {"share", "most", "sums"} <= set(right.tensors) <= set(found.tensors)
        for name, codes in right.tensors.items():
            assert np.array_equal(found.tensors[name], codes), (seed, name)
    return found.counters


def board_over(transport, setup=None):
    return OnBoard(SPEC, SerialBoard(SerialLink(transport, setup)))


@pytest.fixture(scope="module")
def program():
    network = small()
    return network, compile(network, SPEC, "all")


@rtl
def test_the_top_that_is_synthesised(program):
    """Characters in, characters out: the simulator's bits, the cycle model's counters."""
    on_board = board_over(simulated_board.simulated_port(SPEC))
    link = on_board.board.link
    assert on_board.board.clock_hz == simulated_board.CLOCK_HZ
    assert on_board.board.memory_bytes == simulated_board.MEMORY_BYTES
    counters = compare(on_board, *program, (1, 2))
    assert counters == cycles(SPEC, program[1], MEMORY_SETTINGS).counters
    assert link.counts.repeated == link.counts.timeouts == link.counts.broken == 0
    heard = link.statistics()
    assert heard["frames"] > 80 and heard["broken"] == heard["dropped"] == heard["gaps"] == 0


@rtl
@pytest.mark.parametrize(
    ("rate", "images"),
    [
        (1e-3, 2),
        (1e-2, 2),
        pytest.param(1e-3, 20, marks=pytest.mark.regress),
        pytest.param(1e-2, 20, marks=pytest.mark.regress),
        pytest.param(1e-1, 4, marks=pytest.mark.regress),
    ],
)
def test_the_top_over_a_bad_cable(program, rate, images):
    """The same bits and counters, of a co-processor that was started once an image."""
    cable = BadCable(simulated_board.simulated_port(SPEC), rate, seed=SEED)
    on_board = board_over(cable, LinkSetup(tries=20, words=4))
    counters = compare(on_board, *program, range(images))
    assert counters == cycles(SPEC, program[1], MEMORY_SETTINGS).counters
    sent = cable.there.frames + cable.back.frames
    assert cable.counts.total() >= max(1, 0.3 * rate * sent)


@rtl
@pytest.mark.regress
def test_the_top_at_a_rate_of_boards(program):
    """50 cycles a bit."""
    port = simulated_board.simulated_port(SPEC, baud=serial_frames.DEFAULT_BAUD)
    on_board = board_over(port)
    counters = compare(on_board, *program, (1,))
    assert counters == cycles(SPEC, program[1], MEMORY_SETTINGS).counters
    assert on_board.board.link.counts.repeated == 0


@rtl
def test_lights_and_the_memory_between_runs(program):
    """A reset leaves the memory; the lights show work, faults, and a clock."""
    port = simulated_board.simulated_port(SPEC)
    on_board = board_over(port)
    compare(on_board, *program, (3,))
    held = on_board.board.read_memory(3, 1001)
    on_board.board.reset()
    assert on_board.board.read_memory(3, 1001) == held
    on_board.board.write_memory(5, b"abc")
    assert on_board.board.read_memory(3, 1001) == held[:2] + b"abc" + held[5:]
    assert port.pins.lights[0] and not port.pins.lights[1]
    port.pins.send(serial_frames.frame(b"nonsense")[:-3] + b"\x7e")
    port.read(1e-4)
    assert port.pins.lights[1]
    with pytest.raises(DeviceError, match="'refused' to a read of 1 words of memory at 0x10000"):
        on_board.board.read_memory(1 << 16, 4)


@fast
@pytest.mark.parametrize("rate", [0.0, 1e-3, 1e-2, 1e-1])
def test_a_model_of_the_board(program, rate):
    """In software: a start that is sent twice starts once."""
    device = Modelled()
    cable = BadCable(SoftPort(device), rate, seed=9)
    compare(board_over(cable, LinkSetup(tries=20, words=8)), *program, range(10))
    assert device.runs == 10
    assert rate < 1e-2 or cable.counts.total() > 10


@fast
def test_of_a_second_image_only_what_changed_is_sent(program):
    network, compiled = program
    on_board = board_over(SoftPort(Modelled()))
    counts = on_board.board.link.counts
    compare(on_board, network, compiled, (0,))
    first = counts.bytes_out
    compare(on_board, network, compiled, (1,))
    assert counts.bytes_out - first < 0.9 * first


@fast
def test_a_memory_that_lies_is_noticed(program):
    """What the comparisons above would see: four bits of what was sent are others."""
    device = Modelled()
    write = device.write

    (symbol,) = program[1].of("input")

    def lie(space, address, value):
        wrong = space == "memory" and address == symbol.address
        write(space, address, value ^ (0x40404040 if wrong else 0))

    device.write = lie
    with pytest.raises((AssertionError, DeviceError, ProgramError)):
        compare(board_over(SoftPort(device)), *program, range(3))


@fast
def test_a_co_processor_that_hangs_is_given_up(program):
    port = SoftPort(Modelled(hangs=True))
    with pytest.raises(DeviceError, match="hangs in program 'small': no beat and no step of a sum"):
        driver.run(program[1], image(), board_over(port))
    assert port.now() < 10


@fast
def test_boards_of_another_kind_or_size(program):
    device = Modelled()
    device.link["version"] |= serial_frames.KINDS.index("engine") << 8
    with pytest.raises(DeviceError, match="the board holds an engine, not a co-processor"):
        board_over(SoftPort(device))
    device = Modelled()
    device.link["memory_bytes"] = 1024
    with pytest.raises(ProgramError, match=r"works in \d+ bytes, the board has 1024: choose a"):
        driver.run(program[1], image(), board_over(SoftPort(device)))
    device = Modelled()
    device.registers["array"] += 1
    with pytest.raises(ProgramError, match="is for rows 2 .*the co-processor has 3: compile it"):
        driver.run(program[1], image(), board_over(SoftPort(device)))
    device = Modelled()
    device.registers["identity"] = 1
    with pytest.raises(DeviceError, match="no co-processor: identity is 0x00000001"):
        driver.run(program[1], image(), board_over(SoftPort(device)))


@contextlib.contextmanager
def terminal(device) -> Iterator[str]:
    """A port of the operating system with a device at its other end; None: nothing answers."""
    inner, outer = os.openpty()
    tty.setraw(outer)
    name, stop = os.ttyname(outer), threading.Event()

    def serve():
        while not stop.is_set():
            if not select.select([inner], [], [], 0.05)[0]:
                continue
            try:
                data = os.read(inner, 4096)
                answer = b"" if device is None else device.feed(data)
                if answer is None:
                    break
                os.write(inner, answer)
            except OSError:
                break
        os.close(inner)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield name
    finally:
        stop.set()
        thread.join(10)
        os.close(outer)


@pytest.fixture
def files(program, tmp_path):
    network = tmp_path / "small.npz"
    storage.save(program[0], network)
    data = tmp_path / "data.npz"
    np.savez(data, **image(count=2))
    return ["run", str(network), "--data", str(data), "--spec", SPEC.name]


def refused(capsys, *arguments):
    """The one line of a command that fails."""
    assert main([*arguments]) == 2
    told = capsys.readouterr()
    assert not told.out
    lines = told.err.splitlines()
    (error,) = [line for line in lines if line.startswith("opennpe: error: ")]
    assert error == lines[-1] and all(line.endswith(" s") for line in lines[:-1]), told.err
    return error


@fast
def test_the_command_on_a_board(files, capsys):
    with terminal(Modelled()) as port:
        assert (
            main([*files, "--backend", "serial", "--port", port, "--samples", "2", "--json"]) == 0
        )
    found = json.loads(capsys.readouterr().out)
    assert main([*files, "--backend", "sim", "--samples", "2", "--json"]) == 0
    right = json.loads(capsys.readouterr().out)
    assert found["backend"] == "serial" and found["outputs"] == right["outputs"]
    assert set(found["counters"]) == set(COUNTERS) and len(found["outputs"]["share"]) == 8


@fast
def test_ports_that_do_not_answer_are_one_line(files, capsys, tmp_path):
    serial = [*files, "--backend", "serial"]
    line = refused(capsys, *serial, "--port", str(tmp_path / "nothing"))
    assert "cannot open the serial port" in line and "No such file or directory" in line
    (tmp_path / "file").write_text("no port")
    line = refused(capsys, *serial, "--port", str(tmp_path / "file"))
    assert "cannot open the serial port" in line
    with terminal(None) as port:
        line = refused(capsys, *serial, "--port", port, "--baud", "115200")
        assert f"no answer from {port} at 115200 baud, asked 6 times: is the board" in line
        held = SerialPort(port)
        line = refused(capsys, *serial, "--port", port)
        assert "cannot open the serial port" in line and "another program has it" in line
        held.close()
    with terminal(Babble()) as port:
        assert "broken frames came: is the board programmed" in refused(
            capsys, *serial, "--port", port
        )


class Babble:
    """Something else on the port."""

    def feed(self, data):
        return b"login: \x7e" * 3


class Unplugged(Modelled):
    """A board whose cable is pulled after so many bytes."""

    def feed(self, data):
        found = super().feed(data)
        return None if self.fed > 1200 else found


@fast
def test_a_cable_that_is_lost_in_the_middle_is_one_line(files, capsys):
    serial = [*files, "--backend", "serial", "--port"]
    with terminal(Modelled(dies_at=1200)) as port:
        assert f"no answer from {port}" in refused(capsys, *serial, port)
    with terminal(Unplugged()) as port:
        line = refused(capsys, *serial, port)
        assert f"lost the serial port '{port}'" in line and "is the cable still there?" in line


@fast
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--backend", "serial"], "the serial backend needs a port: give --port, for instance"),
        (["--port", "/dev/x"], "--port and --baud go with --backend serial, not sim"),
        (["--backend", "rtl", "--baud", "9600"], "go with --backend serial, not rtl"),
        (["--backend", "serial", "--port", "x", "--baud", "0"], "a baud rate is above 0, got 0"),
        (["--backend", "serial", "--port", "simulated", "--baud", "49000000"], "choose a lower"),
    ],
)
def test_options_that_contradict_are_one_line(files, capsys, arguments, expected):
    assert expected in refused(capsys, *files, *arguments)


@rtl
def test_the_command_on_the_simulated_board(files, capsys):
    """Checked, which is every tensor and counter."""
    command = [*files, "--backend", "serial", "--port", "simulated", "--check", "--json"]
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["checked"]["tensors"] >= 3
    assert found["counters"]["cycles"] == found["model_cycles"]
