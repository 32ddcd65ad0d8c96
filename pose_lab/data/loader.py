"""The order of samples, and a loader that can be stopped and resumed in the middle of an epoch.

The order is a function of (seed, epoch) and the number of processes; random draws are functions of (seed, epoch,
position). So neither the number of workers nor an interruption changes what a run sees.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Sampler

from pose_lab.data.images import BadImageError
from pose_lab.data.samples import BatchKey, Samples, prepare_worker
from pose_lab.poses import Batch


class EpochSampler(Sampler[BatchKey]):
    """Keys of one process' batches in one epoch.

    Training: the epoch's permutation is cut into global batches of `batch_size` times `world_size`; each process takes
    its part of each, so all make equally many steps. The last global batch is left out with `drop_last`; else it is
    filled up from the permutation's beginning to the next multiple of `world_size`.

    Evaluation (`shuffle=False`): batches go whole to the processes in turn; no image is seen twice or padded, counts
    differ by at most one batch.

    Args:
        count: number of images.
        batch_size: per process.
        seed: of the permutation.
        shuffle: training order.
        drop_last: see above.
        rank: of this process.
        world_size: number of processes.
        order: (count,) fixed order for evaluation, for example by aspect ratio.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = False,
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
        order: NDArray[np.int64] | None = None,
    ) -> None:
        self.count, self.batch_size, self.seed, self.shuffle = count, batch_size, seed, shuffle
        self.drop_last, self.rank, self.world_size = drop_last, rank, world_size
        self.order = np.arange(count) if order is None else order
        self.epoch, self.position = 0, 0

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        if not self.shuffle:
            return len(range(self.rank, -(-self.count // self._evaluation_size), self.world_size))
        whole, rest = divmod(self.count, self.batch_size * self.world_size)
        return whole if self.drop_last or not rest else whole + 1

    def __iter__(self) -> Iterator[BatchKey]:
        """The keys from the current position on."""
        epoch, order = self.epoch, self._permutation() if self.shuffle else self.order
        for batch in range(self.position, len(self)):
            positions = self._training_positions(batch) if self.shuffle else self._evaluation_positions(batch)
            yield BatchKey(epoch, positions, order[positions % self.count])

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch, unless already in it (Lightning calls this before each epoch)."""
        if epoch != self.epoch:
            self.epoch, self.position = epoch, 0

    @property
    def _evaluation_size(self) -> int:
        """Smaller batches where there are few images, so that no process is left without any."""
        return max(1, min(self.batch_size, self.count // self.world_size))

    def _permutation(self) -> NDArray[np.int64]:
        return np.random.default_rng((0, self.seed, self.epoch)).permutation(self.count)

    def _training_positions(self, batch: int) -> NDArray[np.int64]:
        start = batch * self.batch_size * self.world_size
        size = min(self.batch_size, -(-(self.count - start) // self.world_size))
        return start + self.rank * size + np.arange(size)

    def _evaluation_positions(self, batch: int) -> NDArray[np.int64]:
        start = (self.rank + batch * self.world_size) * self._evaluation_size
        return np.arange(start, min(start + self._evaluation_size, self.count))


class EpochLoader:
    """Batches of an epoch, with a state that resumes at the next one (Lightning saves and restores it).

    It wraps a `DataLoader` instead of being one, so that Lightning leaves the sampler alone.

    Args:
        samples: the split.
        sampler: the order.
        workers: number of processes; 0 loads in this one.
    """

    batch_sampler = None  # Lightning looks for it beside `sampler`, whose `set_epoch` it calls

    def __init__(self, samples: Samples, sampler: EpochSampler, workers: int) -> None:
        self.samples, self.sampler = samples, sampler
        self.loader: DataLoader[Batch] = DataLoader(
            samples,  # type: ignore[arg-type]
            batch_size=None,
            sampler=sampler,  # type: ignore[arg-type]
            num_workers=workers,
            persistent_workers=workers > 0,
            worker_init_fn=prepare_worker,
            collate_fn=_unchanged,  # type: ignore[arg-type]
            pin_memory=torch.cuda.is_available(),
        )

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        """The rest of the training epoch, after which the next one begins; in evaluation always all batches.

        Raises:
            BadImageError: if an image cannot be shown.
        """
        for batch in self.loader:
            if isinstance(batch, BadImageError):
                raise BadImageError(f"{batch}. Get it whole, or set `data.bad_images: skip` to leave such images out")
            self.sampler.position += self.sampler.shuffle
            yield batch
        self.sampler.set_epoch(self.sampler.epoch + self.sampler.shuffle)

    def close(self) -> None:
        """Stop the worker processes; left to the garbage collector, each may take seconds."""
        iterator = self.loader._iterator
        if iterator is not None:
            iterator._shutdown_workers()  # type: ignore[attr-defined]
            self.loader._iterator = None

    def state_dict(self) -> dict[str, int]:
        """Where the next batch stands: the epoch and the number of batches already given in it."""
        return {"epoch": self.sampler.epoch, "position": self.sampler.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where `state_dict` was taken."""
        self.sampler.epoch, self.sampler.position = state["epoch"], state["position"]


def _unchanged(batch: Batch) -> Batch:
    return batch
