from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
"""Float32 numbers: observations and rewards."""

Mask = NDArray[np.bool_]
"""One truth value an environment."""

Actions = NDArray[Any]
"""Actions in the environment's units and dtype."""
