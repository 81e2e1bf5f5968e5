"""Python with MONAI's losses replaced, in it and in the processes that it starts.

`python -m fastmed.compat.monai` takes what `python` takes: `train.py --epochs 10`, or `-m monai.bundle run ...`.
"""

import os
import sys

from .patching import patch

if __name__ == "__main__":
    patch(children=True)
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
