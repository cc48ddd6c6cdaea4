"""A torchvision that was built for CUDA cannot register its operators with a torch for CPU, and its import fails.

vLLM needs its transforms alone. This declares the two operators that the import stumbles over; nothing calls them.
Where the import works nothing is changed.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

BEFORE = "@functools.lru_cache(None)\ndef get_meta_lib"
GUARD = """if not torchvision.extension._has_ops():
    _declared = torch.library.Library("torchvision", "FRAGMENT")
    _declared.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declared.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


"""


def imports() -> bool:
    return subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True).returncode == 0


if __name__ == "__main__":
    found = importlib.util.find_spec("torchvision")
    if found is not None and found.origin is not None and not imports():
        path = Path(found.origin).parent / "_meta_registrations.py"
        path.write_text(path.read_text().replace(BEFORE, GUARD + BEFORE, 1))
        if not imports():
            sys.exit("torchvision cannot be imported beside this torch, guarded or not; install its CPU build")
        print("torchvision is built for CUDA; its operators are declared, and not there")
