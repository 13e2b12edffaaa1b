"""Names the array type of the numerics: a numpy array of 64-bit floats."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
