import pickle

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from pose_lab.data.augment import Augmentation
from pose_lab.data.images import BadImageError
from pose_lab.data.loader import EpochSampler
from pose_lab.data.module import Split
from tests.data.scenes import data_module, write_scene

EVERYTHING = Augmentation(mosaic=0.5, scale=0.5, translate=0.1, flip=0.5, hue=0.1, saturation=0.5, value=0.3)


def shown(sampler):
    return [key.images.tolist() for key in sampler]


def flat(lists):
    return [item for items in lists for item in items]


def test_an_epoch_shows_every_picture_once_in_an_order_of_its_own():
    sampler = EpochSampler(23, 4, seed=1, shuffle=True)
    first = shown(sampler)
    assert sorted(flat(first)) == list(range(23))
    assert first == shown(sampler)
    sampler.set_epoch(1)
    assert shown(sampler) != first
    assert len(first) == len(sampler) == 6


@pytest.mark.parametrize("count", [16, 17, 18, 21, 23])
@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_train_on_parts_of_the_same_batches(count, world_size):
    shards = [EpochSampler(count, 2, 0, True, rank=rank, world_size=world_size) for rank in range(world_size)]
    single = shown(EpochSampler(count, 2 * world_size, 0, True))
    together = [flat(parts) for parts in zip(*map(shown, shards), strict=True)]
    assert together[:-1] == single[:-1]
    assert together[-1][: len(single[-1])] == single[-1]  # filled up to equal parts
    assert {len(shard) for shard in shards} == {len(single)}


def test_dropping_the_last_batch():
    assert [len(EpochSampler(23, 4, 0, True, drop_last=drop)) for drop in (True, False)] == [5, 6]


@pytest.mark.parametrize(("count", "size", "world_size"), [(23, 4, 2), (5, 16, 3), (3, 16, 3), (40, 4, 4)])
def test_evaluation_shows_every_picture_once_over_all_processes(count, size, world_size):
    shards = [shown(EpochSampler(count, size, rank=rank, world_size=world_size)) for rank in range(world_size)]
    assert all(shards)
    assert sorted(flat(flat(shards))) == list(range(count))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


@pytest.fixture(scope="module")
def scene_root(tmp_path_factory):
    return write_scene(tmp_path_factory.mktemp("scene") / "root")


class Recorder(lightning.LightningModule):
    """Remembers a digest of every batch it is given."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = []

    def training_step(self, batch):
        pixels = batch.images.double()
        digest = (pixels.mean() + (pixels * torch.arange(pixels[0].numel()).view_as(pixels[0])).mean()).item()
        self.seen.append((batch.image_ids.tolist(), digest, batch.instances.keypoints.sum().item()))
        return self.weight.sum()

    def validation_step(self, batch):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(root, folder, workers, max_steps=-1, checkpoint=None):
    module = data_module(root, folder / "cache", augment=EVERYTHING, workers=workers)
    recorder = Recorder()
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=3,
        max_steps=max_steps,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[ModelCheckpoint(folder / "checkpoints", every_n_train_steps=1, save_top_k=-1)],
    )
    trainer.fit(recorder, module, ckpt_path=checkpoint)
    return recorder.seen


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_resumed_anywhere_sees_what_it_would_have_seen(scene_root, tmp_path, workers):
    whole = fit(scene_root, tmp_path / "whole", 0)
    assert len(whole) == 9  # 6 pictures in batches of 2, 3 epochs
    assert len({digest for _, digest, _ in whole}) == 9
    for steps in (2, 3, 4):  # in mid-epoch, at the end of an epoch, at the start of the next
        folder = tmp_path / f"{steps}"
        before = fit(scene_root, folder, workers, max_steps=steps)
        (checkpoint,) = (folder / "checkpoints").glob(f"*step={steps}.ckpt")
        after = fit(scene_root, folder, workers, checkpoint=checkpoint)
        assert before + after == whole


def test_state_is_plain_and_restores_the_position(scene_root, tmp_path):
    loader = data_module(scene_root, tmp_path, augment=EVERYTHING).train_dataloader()
    loader.load_state_dict({"epoch": 4, "position": 1})
    rest = [batch.image_ids.tolist() for batch in loader]
    assert len(rest) == 2
    assert loader.state_dict() == {"epoch": 5, "position": 0}


def test_workers_open_the_index_themselves_when_not_forked(scene_root, tmp_path):
    samples = data_module(scene_root, tmp_path).train_dataloader().samples
    copy = pickle.loads(pickle.dumps(samples))
    assert isinstance(copy.annotations.keypoints, np.memmap)
    assert np.array_equal(copy.annotations.keypoints, samples.annotations.keypoints)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_picture_is_named_without_a_worker_s_stack_trace(tmp_path, workers):
    root = write_scene(tmp_path / "root")
    bad = root / "pictures" / "3.png"
    bad.write_bytes(bad.read_bytes()[:-50])
    sound = Split("people.json", "pictures", limit=1)  # the evaluation's pictures are looked at before
    module = data_module(root, tmp_path / "cache", val=sound, workers=workers)
    loader = module.train_dataloader()
    with pytest.raises(BadImageError) as caught:
        list(loader)
    assert str(caught.value).startswith(f"{bad}: is cut off")
    assert "`data.bad_images: skip`" in str(caught.value)
    assert "Traceback" not in str(caught.value)
    module.teardown("fit")
