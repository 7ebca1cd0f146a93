"""Files of logits as another program would write them, with a look-up of their numbers one by one."""

from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np


@dataclass(frozen=True)
class Logits:
    """What such a file holds. keys: N. logits: (N, V, C) or (N, C). classes: C. views: (N, V), (V,), none."""

    keys: list[str]
    logits: np.ndarray
    classes: list[str]
    views: np.ndarray | None = None

    def shuffled(self, seed: int) -> "Logits":
        """The same with rows, classes and the views of each row in another order."""
        generator = np.random.default_rng(seed)
        rows = generator.permutation(len(self.keys))
        columns = generator.permutation(len(self.classes))
        logits, views = self.logits[rows][..., columns], self.views
        if views is not None:
            order = generator.permuted(np.tile(np.arange(views.shape[1]), (len(rows), 1)), axis=1)
            views = np.take_along_axis(views[rows], order, axis=1)
            logits = np.take_along_axis(logits, order[..., None], axis=1)
        keys, classes = [self.keys[row] for row in rows], [self.classes[column] for column in columns]
        return Logits(keys, logits, classes, views)

    def only(self, rows: np.ndarray) -> "Logits":
        """The same with some of its rows."""
        keys = [self.keys[row] for row in rows]
        views = self.views[rows] if self.views is not None and self.views.ndim == 2 else self.views
        return replace(self, keys=keys, logits=self.logits[rows], views=views)

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays of the file by name."""
        found = {"keys": np.array(self.keys), "logits": self.logits, "classes": np.array(self.classes)}
        return found if self.views is None else found | {"views": self.views}

    def save(self, path: Path, **options: object) -> Path:
        """Write it as a .npz or an .h5. options: of h5py, for the logits."""
        arrays = self.arrays()
        if path.suffix == ".npz":
            np.savez(path, **arrays)
            return path
        with h5py.File(path, "w") as file:
            file["keys"], file["classes"] = self.keys, self.classes  # of h5py's strings
            file.create_dataset("logits", data=self.logits, **options)
            if self.views is not None:
                file["views"] = self.views
        return path

    def of(self, key: str, view: int) -> dict[str, float]:
        """The logit of each class for one image in one view, looked up one by one."""
        row = self.keys.index(key)
        ids = self.views[row] if self.views is not None and self.views.ndim == 2 else self.views
        column = 0 if ids is None else ids.tolist().index(view)
        logits = self.logits[row].reshape(-1, len(self.classes))[column]
        return dict(zip(self.classes, logits.tolist(), strict=True))
