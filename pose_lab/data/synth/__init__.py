"""SynthPeople: articulated, rendered people in COCO's layout, made on the spot."""

from pose_lab.data.synth.settings import SynthSettings
from pose_lab.data.synth.write import ensure

__all__ = ["SynthSettings", "ensure"]
