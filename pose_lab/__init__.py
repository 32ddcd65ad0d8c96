"""pose_lab: a PyTorch Lightning laboratory for multi-person pose estimation."""

__version__ = "0.1.0"
