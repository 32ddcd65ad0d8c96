"""Which rows, and in which order: the ways of CPU and GPU give the same."""

import math

import pytest
import torch

from pose_lab.ops.order import by_falling_score, rows_above, rows_where


def test_chosen_rows_are_those_of_torch():
    chosen = torch.rand(1000, generator=torch.Generator().manual_seed(0)) < 0.3
    assert torch.equal(rows_where(chosen), chosen.nonzero()[:, 0])
    assert rows_where(chosen).dtype == torch.int64
    assert rows_where(torch.zeros(3, dtype=torch.bool)).tolist() == []


@pytest.mark.parametrize("limit", [-math.inf, 0.2, 0.5, math.inf])
def test_larger_rows_are_those_of_torch(limit):
    """A float32 of 0.2 is not above 0.2; values may lie apart in memory."""
    values = torch.rand(1000, 3, generator=torch.Generator().manual_seed(0))[:, 1]
    values[::7] = 0.2
    assert torch.equal(rows_above(values, limit), (values > limit).nonzero()[:, 0])


def test_equal_scores_keep_the_order_of_the_rows():
    groups, scores = torch.tensor([1, 0, 1, 0, 1]), torch.tensor([0.5, 0.1, 0.7, 0.1, 0.5])
    assert by_falling_score(groups, scores).tolist() == [1, 3, 2, 0, 4]
