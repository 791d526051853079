"""Dense or sparse: the comparison follows from what was measured, and from bits."""

import numpy as np
import pytest
from opennpe.golden import sparse_pack
from opennpe.golden.errors import SparseError
from opennpe.sim import sparse_choice
from opennpe.sim.sparse_choice import Costs


def blocks(density, shape=(64, 96), name="fp4", rows=4):
    rng = np.random.default_rng(0)
    keep = np.repeat(rng.random((shape[0] // rows, shape[1])) < density, rows, axis=0)
    return sparse_pack.pack_blocks(rng.integers(1, 16, shape) * keep, name, rows)


def test_costs_meet_at_the_break_even_density():
    found = Costs(dense=10.0, fixed=2.0, share=20.0)
    assert found.break_even == pytest.approx(0.4)
    assert found.sparse(found.break_even) == pytest.approx(found.dense)
    assert Costs(1.0, 2.0, 5.0).break_even == 0.0
    assert Costs(9.0, 1.0, 2.0).break_even == 1.0
    assert Costs(9.0, 1.0, 0.0).break_even == 1.0


def test_the_choice_by_time_follows_the_measurement(monkeypatch):
    packed = blocks(0.25)
    assert sparse_choice.stored(packed) == pytest.approx(0.25, abs=0.05)
    for dense, expected in ((10.0, "sparse"), (1.0, "dense")):
        monkeypatch.setattr(sparse_choice, "costs", lambda *_, d=dense: Costs(d, 0.5, 8.0))
        assert sparse_choice.cheaper(packed, 100) == expected


def test_the_choice_by_bytes_is_that_of_the_bits():
    for density, expected in ((0.1, "sparse"), (1.0, "dense")):
        packed = blocks(density)
        assert sparse_choice.cheaper(packed, 1, by="bytes") == expected
        assert (packed.bits().per_weight < 4) == (expected == "sparse")


def test_formats_without_a_sparse_kernel_stay_dense():
    packed = sparse_pack.pack_blocks(np.eye(8, dtype=np.uint16), "posit16", 1)
    assert sparse_choice.cheaper(packed, 8) == "dense"


def test_measured_costs_say_that_few_blocks_are_cheaper():
    found = sparse_choice.costs((128, 256), 400, "fp4", None, 4)
    assert found.dense > 0 and found.fixed > 0
    assert 0.1 < found.break_even <= 1.0
    assert sparse_choice.cheaper(blocks(0.02, (128, 256)), 400) == "sparse"
    assert sparse_choice.costs((128, 256), 400, "float32", None, 4).break_even > 0.1


def test_another_measure_is_refused():
    with pytest.raises(SparseError, match="expected 'time' or 'bytes'"):
        sparse_choice.cheaper(blocks(0.5), 8, by="energy")
