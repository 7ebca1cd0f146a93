"""`pt2`: a program of torch.export, which the same or a later release of torch runs without dive."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dive.files import open_regular
from dive.models.formats.format import MARK, Format, Network

if TYPE_CHECKING:
    import numpy as np
    import torch


class Pt2(Format):
    """A zip as `torch.export.save` writes it; the metadata are its extra files."""

    suffix = ".pt2"

    def written(self, program: "torch.export.ExportedProgram", metadata: Mapping[str, str]) -> bytes:
        """The content of a file that `torch.export.load` reads."""
        import torch

        buffer = io.BytesIO()
        torch.export.save(program, buffer, extra_files=dict(metadata))
        return buffer.getvalue()

    def opened(self, content: bytes) -> Network:
        """The program, run by torch."""
        import torch

        module = torch.export.load(io.BytesIO(content)).module()

        def run(pictures: "np.ndarray") -> "np.ndarray":
            with torch.no_grad():
                return module(torch.from_numpy(pictures)).numpy()

        return run

    def is_own(self, path: Path) -> bool:
        """Whether a file is a zip whose extra file `format` holds dive's mark."""
        try:
            with open_regular(path) as file, zipfile.ZipFile(file) as archive:
                names = [name for name in archive.namelist() if name.endswith("/extra/format")]
                return any(archive.read(name) == MARK.encode() for name in names)
        except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):  # not a zip that dive wrote
            return False
