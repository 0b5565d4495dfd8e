"""Entry point of torch.hub, in a process that has no installation of LASS and no packages but the declared ones."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import sys

import pytest
from test_packaging import packages_of

PROGRAM = """
import sys
import torch

for name in {others!r}:
    sys.modules[name] = None  # as if it were not installed
separator = torch.hub.load({repository!r}, "separator", "mnist", source="local", num_sources=3)
import lass
assert lass.__file__.startswith({repository!r})
separator.sampler, separator.refinement = lass.samplers.Greedy(), lass.separation.NoRefinement()
print(*separator.separate(torch.zeros(1, 28, 28)).estimates.shape)
"""
BASE = {"pillow": "PIL", "PyYAML": "yaml"}


@pytest.mark.slow
def test_torch_hub_loads_a_published_separator(repository, tmp_path):
    metadata = configparser.ConfigParser()
    metadata.read(repository / "setup.cfg")
    lines = metadata["options"]["install_requires"].split()
    base = {BASE.get(name, name) for name in (re.match(r"[\w-]+", line)[0] for line in lines)}
    sys.path.insert(0, str(repository))
    try:
        import hubconf
    finally:
        sys.path.remove(str(repository))
    assert set(hubconf.dependencies) < base
    extras = {name for lines in metadata["options.extras_require"].values() for name in packages_of(lines.split())}
    others = sorted((base | extras) - set(hubconf.dependencies) - {"filelock", "tqdm"})  # of torch, huggingface_hub
    program = PROGRAM.format(repository=str(repository), others=others)
    environment = {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": ""}
    run = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split()[-4:] == ["3", "1", "28", "28"]
