import zlib

import cv2
import numpy as np
import pytest

from pose_lab.data import images
from pose_lab.data.images import BadImageError, read_picture


@pytest.fixture
def picture():
    rng = np.random.default_rng(0)
    return cv2.resize(rng.integers(0, 255, (9, 13, 3), np.uint8), (203, 101), interpolation=cv2.INTER_CUBIC)


def saved(path, picture):
    cv2.imwrite(str(path), picture[..., ::-1])
    return path


def test_reads_rgb(tmp_path, picture):
    assert np.array_equal(read_picture(saved(tmp_path / "a.png", picture), (101, 203)), picture)


@pytest.mark.parametrize("shrink", [2, 4, 8])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_shrunk_pixels_are_means_of_whole_blocks(tmp_path, picture, shrink, suffix):
    path = saved(tmp_path / f"a.{suffix}", picture)
    small = read_picture(path, (101, 203), shrink)
    rows, columns = 101 // shrink, 203 // shrink
    blocks = read_picture(path, (101, 203))[: rows * shrink, : columns * shrink].astype(float)
    means = blocks.reshape(rows, shrink, columns, shrink, 3).mean((1, 3))
    assert small.shape == (-(-101 // shrink), -(-203 // shrink), 3)
    assert np.abs(small[:rows, :columns] - means).mean() < 3


def test_missing_file_is_named(tmp_path):
    with pytest.raises(BadImageError, match=r"gone\.jpg: cannot be read \(No such file"):
        read_picture(tmp_path / "gone.jpg", (4, 4))


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_cut_off_file_is_noticed(tmp_path, picture, suffix):
    path = saved(tmp_path / f"a.{suffix}", picture)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "is cut off" in images.defect(path, (101, 203))
    with pytest.raises(BadImageError, match=rf"a\.{suffix}: is cut off \(\d+ bytes\)"):
        read_picture(path, (101, 203))


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"\xff\xd8 but nothing more \xff\xd9"])
def test_other_content_is_no_image(tmp_path, content):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(BadImageError, match=r"a\.jpg: is (not an image|cut off)"):
        read_picture(path, (4, 4))


def test_a_header_that_claims_too_many_pixels_is_no_image(tmp_path, picture):
    path = saved(tmp_path / "a.png", picture)
    data = path.read_bytes()
    header = b"IHDR" + (2**20).to_bytes(4, "big") * 2 + data[24:29]
    path.write_bytes(data[:12] + header + zlib.crc32(header).to_bytes(4, "big") + data[33:])
    with pytest.raises(BadImageError, match=r"a\.png: is not an image"):
        read_picture(path, (101, 203))


def test_bytes_after_the_picture_do_no_harm(tmp_path, picture):
    path = saved(tmp_path / "a.jpg", picture)
    path.write_bytes(path.read_bytes() + b"\0" * 100)
    assert images.defect(path, (101, 203)) is None
    assert read_picture(path, (101, 203)).shape == (101, 203, 3)


def test_other_size_than_annotated_is_an_error(tmp_path, picture):
    path = saved(tmp_path / "a.jpg", picture)
    with pytest.raises(BadImageError, match="is 203x101 pixels, but its annotation says 100x100"):
        read_picture(path, (100, 100))


def test_annotated_size_decides_about_turning(tmp_path, picture):
    path = saved(tmp_path / "a.jpg", picture)
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"  # orientation 6: quarter turn
    data = path.read_bytes()
    path.write_bytes(data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:])
    unturned, turned = read_picture(path, (101, 203)), read_picture(path, (203, 101))
    assert np.array_equal(np.rot90(unturned, -1), turned)


def test_colours_follow_the_published_tables(picture):
    gains = np.array([1.014, 0.6, 1.35])
    hsv = cv2.cvtColor(picture, cv2.COLOR_RGB2HSV)
    levels = np.arange(256)
    tables = [levels * gains[0] % 180, (levels * gains[1]).clip(0, 255), (levels * gains[2]).clip(0, 255)]
    looked_up = np.stack([table[hsv[..., c]].astype(np.uint8) for c, table in enumerate(tables)], -1)
    expected = cv2.cvtColor(looked_up, cv2.COLOR_HSV2RGB).astype(int)
    difference = np.abs(images.recoloured(picture, gains) - expected)
    assert difference.mean() < 1
    assert np.quantile(difference, 0.999) <= 8  # tables cut the fraction off, here it is rounded


def test_hue_goes_round():
    red = np.array([[[200, 10, 16]]], np.uint8)  # hue 179 of 180
    turned = images.recoloured(red, np.array([1.0168, 1.0, 1.0])).astype(int)
    assert np.abs(turned - [200, 22, 10]).max() <= 2
