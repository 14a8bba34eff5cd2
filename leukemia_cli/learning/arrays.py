"""The arrays that pass between the rooms of learning, by name and shape; N images, D features, C classes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.float32]
"""Feature vectors (N, D)."""
Labels = NDArray[np.int64]
"""Class indices (N,)."""
Scores = NDArray[np.float64]
"""Scores or probabilities (N, C), or one number for each image (N,)."""
Marks = NDArray[np.bool_]
