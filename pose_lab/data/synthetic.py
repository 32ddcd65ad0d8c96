"""The DataModule of SynthPeople, which makes its own pictures."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from pose_lab.data import synth
from pose_lab.data.module import PoseDataModule
from pose_lab.data.synth.settings import SynthSettings


class SynthDataModule(PoseDataModule):
    """SynthPeople: `prepare_data` makes the pictures if the cache does not hold them.

    Args:
        settings: what the pictures show.
        cache: folder for pictures and annotation indices.
        loading: everything else that `PoseDataModule` takes.

    Attributes:
        is_drawn: its settings decide its content; no file that others may change does.
    """

    is_drawn = True

    def __init__(self, settings: SynthSettings, cache: str | Path, **loading: Any) -> None:
        super().__init__(root=cache, cache=cache, **loading)  # the root is known when the pictures have been made
        self.settings = settings

    def prepare_data(self) -> None:
        """Make the pictures (once per machine) and index the annotations. Errors as in `PoseDataModule`."""
        self._make()
        super().prepare_data()

    def setup(self, stage: str | None = None) -> None:
        """Open what `prepare_data` made."""
        self._make()
        super().setup(stage)

    def fingerprint(self) -> str:
        """A digest of the settings, which decide every byte: no picture has to be made for it."""
        parts = [self.settings.digest, *(repr((split.people_only, split.limit)) for split in self.splits.values())]
        return hashlib.sha256("".join(parts).encode()).hexdigest()

    def _make(self) -> None:
        self.root = synth.ensure(self.settings, self.cache, self.workers or None)
