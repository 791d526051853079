"""Random networks, compiled for small co-processors, run by the machine, equal golden."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from host_cases import SPECS, random_network
from opennpe.golden import hazards, reference
from opennpe.golden.commands import WAITS, Command
from opennpe.golden.errors import AccumulatorError, CompileError, FormatError, ProgramError
from opennpe.golden.machine import Machine
from opennpe.host.compile import compile

NAMES = list(SPECS)
CHUNK, CHUNKS = 45, 12


def run(spec, network, inputs):
    """The program, the commands that ran and the tensors they left outside."""
    program = compile(network, spec, "all")
    memory = program.memory(inputs)
    before = memory.copy()
    done = Machine(spec).run(memory, program.address, program.lines, program.window)
    end = program.window.write_limit
    assert np.array_equal(memory[end:], before[end:])
    return program, [e.command for e in done], program.results(memory)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_random_networks_equal_golden(chunk):
    seen = Counter()
    for seed in range(chunk * CHUNK, (chunk + 1) * CHUNK):
        name = NAMES[seed % len(NAMES)]
        spec = SPECS[name]
        network, inputs = random_network(seed)
        try:
            expected = reference.evaluate(spec, network, inputs)
            program, commands, found = run(spec, network, inputs)
        except (CompileError, FormatError, AccumulatorError):
            seen["refused"] += 1
            continue
        for tensor, codes in found.items():
            wrong = np.argwhere(codes != expected[tensor])
            assert not wrong.size, f"seed {seed} on {name}: {tensor} at {wrong[0].tolist()}"
        assert commands == [c for _, c in program.commands]
        hazards.check(spec, commands)
        seen["equal"] += 1
    assert seen["equal"] >= CHUNK // 2, seen


def test_a_lowered_wait_is_caught_unless_others_imply_it():
    """Every wait of some programs, one less: a race, or what another wait says anyway."""
    caught = implied = 0
    for seed in (9, 18, 27, 36, 45):
        spec = SPECS["4x4"]
        network, inputs = random_network(seed)
        try:
            _, commands, _ = run(spec, network, inputs)
        except (CompileError, FormatError):
            continue
        for i, command in enumerate(commands):
            for wait in WAITS:
                if command[wait]:
                    less = Command(command.op, {**command.values, wait: command[wait] - 1})
                    changed = [*commands[:i], less, *commands[i + 1 :]]
                    try:
                        hazards.check(spec, changed)
                    except ProgramError:
                        caught += 1
                    else:
                        implied += 1
    assert caught > 30
    # Waits that a unit's earlier commands have waited for already cost nothing.
    assert caught > implied / 4


def test_the_largest_case_reloads_its_list():
    for seed in range(60):
        network, inputs = random_network(seed)
        spec = SPECS["3x4"]
        try:
            program, _, _ = run(spec, network, inputs)
        except (CompileError, FormatError, AccumulatorError):
            continue
        if "commands" in program.layers and program.layers.count("commands") > 2:
            return
    pytest.fail("no list was longer than the command memory")


def test_a_spec_without_gates_is_refused():
    network, _ = random_network(0)
    spec = replace(SPECS["2x2"], array=replace(SPECS["2x2"].array, rows=1))
    with pytest.raises(ValueError, match="2 to 16 rows"):
        compile(network, spec)


def test_only_tensors_there_are_can_be_kept():
    network, _ = random_network(1)
    with pytest.raises(CompileError, match="no such tensor"):
        compile(network, SPECS["2x2"], ["nonsense"])
