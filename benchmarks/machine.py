"""Facts about the machine and what is installed."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

from benchmarks.records import Machine

__all__ = ["facts", "revision", "version"]

PACKAGES = (
    "async-ckpt",
    "numpy",
    "torch",
    "torchsnapshot",
    "safetensors",
    "orbax-checkpoint",
    "jax",
    "tensorstore",
    "uvloop",
)


def facts(directory: Path) -> Machine:
    """Describe the machine that ``directory`` is on."""
    return Machine(
        processor=_processor(),
        cores=os.cpu_count() or 1,
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        kernel=f"{platform.system()} {platform.release()}",
        disk=_disk(directory),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        versions={name: found for name in PACKAGES if (found := version(name)) is not None},
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _disk(directory: Path) -> str:
    """File system and kind of device, without its name or place."""
    best, kind = "", "unknown"
    where = str(directory.resolve())
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        device, mount, file_system, *_ = line.split()
        if (where + "/").startswith(mount.rstrip("/") + "/") and len(mount) >= len(best):
            best, kind = mount, f"{file_system} on {Path(device).name}"
    return kind


def version(name: str) -> str | None:
    """Say which version of a distribution is installed, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def revision() -> str:
    """The commit that is measured, with a mark when files other than results were changed since."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    root = Path(__file__).parents[1]
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs", ":!README.md")
    return (git("rev-parse", "--short=12", "HEAD") or "unknown") + ("-dirty" if changed else "")
