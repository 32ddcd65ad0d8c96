"""Pixels of enlarged maps that are computed one by one against maps enlarged as a whole."""

import pytest
import torch

from pose_lab.ops.enlarging import Enlargement, enlarged, first_pixel, read

HEIGHT, WIDTH = 6, 5


def maps_of(count, channels):
    return torch.rand(count, channels, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("factors", [(), (1,), (2,), (3,), (4,), (2, 2), (1, 3), (3, 2), (2, 1, 2)])
def test_all_pixels_read(factors):
    maps = whole = maps_of(3, 2)
    for factor in factors:
        whole = enlarged(whole, [factor * side for side in whole.shape[2:]])
    which, y, x = (
        index.flatten() for index in torch.meshgrid(*map(torch.arange, (3, *whole.shape[2:])), indexing="ij")
    )
    found = read(maps, which, torch.stack([x, y], -1), factors)
    torch.testing.assert_close(found, whole.movedim(1, 3).flatten(0, 2), rtol=0, atol=1e-6)


@pytest.mark.parametrize("factor", [1, 2, 3, 4])
def test_pixels_of_all_squares(factor):
    """Those beyond the border are the border's."""
    maps = maps_of(2, 1)[:, 0]
    whole = enlarged(maps[None], (factor * HEIGHT, factor * WIDTH))[0]
    enlargement = Enlargement(maps, factor)
    which, rows, columns = (enlargement.highest > -1).nonzero().unbind(1)
    assert len(which) == 2 * (HEIGHT + 1) * (WIDTH + 1)
    found = enlargement.in_squares(which, rows, columns, 1)
    steps = torch.arange(factor)[:, None]
    y = (first_pixel(rows, factor) + steps).clamp(0, factor * HEIGHT - 1)
    x = (first_pixel(columns, factor) + steps).clamp(0, factor * WIDTH - 1)
    torch.testing.assert_close(found, whole[which, y[:, None], x], rtol=0, atol=1e-6)
    highest = enlargement.highest[which, rows, columns]
    torch.testing.assert_close(highest, found.flatten(0, 1).amax(0), rtol=0, atol=1e-6)
