"""Packages with a platform in them, installed as far as Python looks: a module and its metadata."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent

from salver.servables.platform import GROUP


def install(site: Path, package: str, platforms: Mapping[str, str], **modules: str) -> Path:
    """Put ``modules`` and the entry points ``platforms`` into a folder of Python's path."""
    site.mkdir(exist_ok=True)
    for module, code in modules.items():
        (site / f"{module}.py").write_text(dedent(code), encoding="utf-8")
    metadata = site / f"{package}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    points = "".join(f"{name} = {target}\n" for name, target in platforms.items())
    (metadata / "entry_points.txt").write_text(f"[{GROUP}]\n{points}")
    return site
