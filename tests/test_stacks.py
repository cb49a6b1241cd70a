# SPDX-License-Identifier: GPL-3.0-or-later
"""Stacks as mrcfile writes them are read, and stacks as we write them are read by mrcfile."""

import mrcfile
import numpy as np
import pytest

from downsample_plugin.core.statistics import image_statistics
from downsample_plugin.errors import DataError
from downsample_plugin.files.image_readers import open_stack
from downsample_plugin.files.stack_writer import StackWriter, open_part, write_images


def read_all(path):
    with open_stack(str(path)) as reader:
        buffer = memoryview(bytearray(reader.image_bytes))
        return np.stack([reader.read(i, buffer).copy() for i in range(reader.count)])


def noise(count=3, dtype=np.float32):
    return (np.random.default_rng(0).normal(size=(count, 10, 12)) * 50).astype(dtype)


@pytest.mark.parametrize("dtype", ["i1", "i2", "f4", "u2", "f2"])
@pytest.mark.parametrize("order", "<>")
def test_modes_and_byte_orders(tmp_path, dtype, order):
    images = np.abs(noise()).astype(np.dtype(dtype).newbyteorder(order))
    mrcfile.write(tmp_path / "a.mrcs", images, overwrite=True)
    found = read_all(tmp_path / "a.mrcs")
    assert np.array_equal(found, images)


def test_extended_header_single_image_and_wrong_stamp(tmp_path):
    path = tmp_path / "a.mrc"
    with mrcfile.new(path) as mrc:
        mrc.set_data(noise()[0])
        mrc.set_extended_header(np.zeros(3, dtype="V100"))
    data = bytearray(path.read_bytes())
    data[212:216] = b"\0\0\0\0"  # machine stamp, which some programs leave empty
    data[208:212] = b"\0\0\0\0"  # map id
    path.write_bytes(data)
    assert np.array_equal(read_all(path), noise()[:1])


def changed(path, offset, value):
    data = bytearray(path.read_bytes())
    data[offset : offset + 4] = int(value).to_bytes(4, "little", signed=True)
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage, sentence",
    [
        (lambda p: p.unlink(), "cannot be opened"),
        (lambda p: (p.unlink(), p.mkdir()), "cannot be read"),
        (lambda p: p.write_bytes(b""), "0 bytes long, expected an MRC file"),
        (lambda p: p.write_bytes(b"not an image " * 200), "not a readable MRC stack"),
        (lambda p: p.write_bytes(p.read_bytes()[:-1]), "expected 2464 .*the file is cut short"),
        (lambda p: changed(p, 12, 4), r"not a readable MRC stack, .*mode 0, 1, 2, 6, 12"),
        (lambda p: changed(p, 12, 3), "not a readable MRC stack"),
        (lambda p: changed(p, 0, -12), "not a readable MRC stack"),
        (lambda p: changed(p, 0, 2**31 - 1), "not a readable MRC stack"),
        (lambda p: changed(p, 8, 2**31 - 1), "the file is cut short"),
        (lambda p: changed(p, 92, -1), "not a readable MRC stack"),
    ],
)
def test_damaged_files(tmp_path, damage, sentence):
    path = tmp_path / "a.mrcs"
    mrcfile.write(path, noise())
    damage(path)
    with pytest.raises(DataError, match=sentence):
        open_stack(str(path))


def test_images_beyond_the_stack(tmp_path):
    mrcfile.write(tmp_path / "a.mrcs", noise())
    with open_stack(str(tmp_path / "a.mrcs")) as reader:
        for index in (-1, 4):
            with pytest.raises(DataError, match=f"image {index} was requested, expected 1 to 3"):
                reader.number_of(index)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_written_stack(tmp_path, dtype):
    images = np.random.default_rng(1).normal(size=(4, 16, 16)).astype(dtype)
    writer = StackWriter(str(tmp_path / "out.mrcs"), 4, 16, np.dtype(dtype), 2.62)
    writer.create()
    with open_part(writer.part_path) as part:
        for first, last in ((2, 4), (0, 2)):
            write_images(part, first, images[first:last])
    assert not (tmp_path / "out.mrcs").exists()
    writer.finish(image_statistics(images.astype(np.float32)), np.ones(4, dtype=bool))
    assert [p.name for p in tmp_path.iterdir()] == ["out.mrcs"]
    assert mrcfile.validate(tmp_path / "out.mrcs")
    with mrcfile.open(tmp_path / "out.mrcs") as mrc:
        assert np.array_equal(mrc.data, images)
        assert mrc.is_image_stack()
        assert mrc.header.mode == {np.float32: 2, np.float16: 12}[dtype]
        assert (mrc.header.ispg, mrc.header.mz, mrc.header.nlabl) == (0, 1, 1)
        assert mrc.voxel_size.tolist() == pytest.approx((2.62, 2.62, 2.62))
        values = images.astype(np.float64)
        expected = values.min(), values.max(), values.mean(), values.std()
        found = mrc.header.dmin, mrc.header.dmax, mrc.header.dmean, mrc.header.rms
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-7)
        assert mrc.header.label[0].startswith(b"scipion-em-downsample ")
