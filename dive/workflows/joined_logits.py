"""The logits in a file from another program, joined with the samples and classes of a draw."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dive.data.logit_files.logit_file import LogitFile
from dive.data.longtail import Samples
from dive.errors import DataError
from dive.method.agreement import Agreement
from dive.printable import excerpt
from dive.progress import Progress
from dive.views.space import ViewSpace

_BYTES_AT_ONCE = 1 << 24  # of logits in float64


@dataclass(frozen=True)
class Joined:
    """The rows and columns of a file, in the order of a draw's samples and classes.

    samples: the samples of the draw that the file has. places: (N,), the row of each sample in the file.
    columns: (C,), the column of each class in the file. order: (N, V), positions that sort the view ids of
    each sample; None if the file has no view ids.
    """

    file: LogitFile
    samples: Samples
    places: np.ndarray
    columns: np.ndarray
    order: np.ndarray | None

    @classmethod
    def of(cls, file: LogitFile, train: Samples, progress: Progress) -> "Joined":
        """Join rows by key and columns by class name; `progress` receives what is missing or unknown.

        Raises DataError if the classes differ, if the file has no sample of the draw, or if a class has none.
        """
        columns = _columns(file, train)
        place = {key: row for row, key in enumerate(file.keys)}
        rows = np.array([place.get(key, -1) for key in train.keys], dtype=np.int64)
        found = np.flatnonzero(rows >= 0)
        if not len(found):
            raise DataError(
                f"none of the {len(file.keys)} keys of {file.path} is that of a training sample: the file "
                f"has for example {excerpt(file.keys[0])}, the recipe's draw {excerpt(train.keys[0])}"
            )
        if unknown := len(file.keys) - len(found):
            drawn = set(train.keys)
            example = next(key for key in file.keys if key not in drawn)
            progress.note(
                f"{unknown} of {len(file.keys)} keys of {file.path} are not in the recipe's draw, for "
                f"example {excerpt(example)}: left out"
            )
        samples = train
        if missing := len(rows) - len(found):
            samples = train.subset(found)
            _require_classes(file, samples)
            progress.warn(
                f"{missing} of {len(rows)} training samples are not in {file.path}, for example "
                f"{excerpt(train.keys[int(np.argmin(rows))])}: the cache lacks them too, and dive student "
                "trains from it only with --allow-missing"
            )
        places = rows[found]
        order = None if file.views is None else np.argsort(file.views[places], axis=1, kind="stable")
        return cls(file, samples, places, columns, order)

    def ids(self, space: ViewSpace) -> np.ndarray:
        """The view ids (N, V) for the cache, ascending in each row; without ids in the file, the clean view.

        Raises DataError if `space` does not have an id.
        """
        if self.order is None or self.file.views is None:
            ids = np.full((len(self.places), 1), space.clean_id)
        else:
            ids = np.take_along_axis(self.file.views[self.places], self.order, axis=1)
        outside = ids < 0 if space.size is None else (ids < 0) | (ids >= space.size)
        if outside.any():
            row, column = np.argwhere(outside)[0]
            ends = "0" if space.size is None else f"0 to {space.size - 1}"
            raise DataError(
                f"{self.file.path} has the view id {ids[row, column]} for {excerpt(self.samples.keys[row])}, "
                f"but the recipe's views have ids from {ends}"
            )
        return ids.astype(np.int32 if space.size else np.int64)

    def logits(self, rows: np.ndarray) -> np.ndarray:
        """The logits (B, V, C) float64 of the samples `rows` (B,); raises DataError if one is not finite."""
        logits = self.file.rows(self.places[rows])
        if self.order is not None:
            logits = np.take_along_axis(logits, self.order[rows][..., None], axis=1)
        logits = logits[..., self.columns].astype(np.float64)
        if not (finite := np.abs(logits) <= np.finfo(np.float32).max).all():
            row, view, column = np.argwhere(~finite)[0]
            raise DataError(
                f"{self.file.path} has a logit that is not finite in float32: {logits[row, view, column]} of "
                f"{excerpt(self.samples.keys[rows[row]])}, class {excerpt(self.samples.classes[column])}"
            )
        return logits

    def pieces(self) -> Iterator[np.ndarray]:
        """The positions of all samples, in pieces, in the order of their rows in the file."""
        in_file = np.argsort(self.places)
        many = max(1, _BYTES_AT_ONCE // (8 * self.file.shape[1] * self.file.shape[2]))
        for start in range(0, len(in_file), many):
            yield in_file[start : start + many]


def _columns(file: LogitFile, train: Samples) -> np.ndarray:
    """The file's column of each class, (C,); raises DataError if the file has other classes."""
    column = {name: place for place, name in enumerate(file.classes)}
    lacking = [name for name in train.classes if name not in column]
    if more := sorted(column.keys() - set(train.classes)):
        raise DataError(
            f"{file.path} has other classes: it has {len(file.classes)}, among them {excerpt(more[0])}, "
            f"which is not one of the {len(train.classes)} of the recipe's data" + _lacks(lacking)
        )
    if lacking:
        raise DataError(f"{file.path} has other classes: it has {len(file.classes)}" + _lacks(lacking))
    return np.array([column[name] for name in train.classes])


def _lacks(names: list[str]) -> str:
    return f", and lacks {excerpt(names[0])}" if names else ""


def _require_classes(file: LogitFile, samples: Samples) -> None:
    if len(empty := np.flatnonzero(samples.counts == 0)):
        name = samples.classes[empty[0]]
        raise DataError(f"{file.path} has no training sample of class {excerpt(name)}; every class needs one")


@dataclass(frozen=True)
class Summary:
    """What one pass over a file computes.

    digests: of the view ids and logits of each sample. logits_hash: of all digests, keys and classes; it does
    not depend on the format of the file or the order in it. agreement: of the predictions of all views, their
    largest logits without the prior, with the labels.
    """

    digests: list[bytes]
    logits_hash: str
    agreement: Agreement

    def warn_of_chance(self, path: Path, progress: Progress) -> None:
        """Warn if the logits predict the labels no better than chance."""
        if self.agreement.tells_nothing:
            told = self.agreement.told("the views")
            progress.warn(f"the logits of {path} are {told}: are its keys or classes mixed up?")


def summarised(joined: Joined, ids: np.ndarray, log_prior: np.ndarray, progress: Progress) -> Summary:
    """The summary of all logits, which are read once; raises DataError if one is not finite.

    ids: (N, V) view ids. log_prior: (C,), subtracted from the logits before predictions are compared.
    """
    samples = joined.samples
    digests = [b""] * len(samples)
    predicted, right = np.zeros(len(samples.classes)), 0
    with progress.bar("check", len(samples)) as bar:
        for rows in joined.pieces():
            logits = joined.logits(rows)
            for row, digest in zip(rows, digests_of(ids[rows], logits), strict=True):
                digests[row] = digest
            classes = (logits - log_prior).argmax(axis=-1)  # (B, V)
            predicted += np.bincount(classes.reshape(-1), minlength=len(predicted))
            right += int((classes == samples.labels[rows][:, None]).sum())
            bar.advance(len(rows))
    agreement = Agreement.of(predicted, samples.counts, right, len(samples))
    return Summary(digests, _hash(samples, digests), agreement)


def digests_of(ids: np.ndarray, logits: np.ndarray) -> list[bytes]:
    """SHA-256 of each sample, over its view ids (B, V), ascending, and its logits (B, V, C), little-endian.

    ids are hashed as int64, logits as float64.
    """
    both = zip(ids.astype("<i8"), logits.astype("<f8", copy=False), strict=True)
    return [hashlib.sha256(some.tobytes() + values.tobytes()).digest() for some, values in both]


def _hash(samples: Samples, digests: list[bytes]) -> str:
    """SHA-256 in hexadecimal over the class names and the key and digest of each sample, in key order."""
    taken = hashlib.sha256()
    for name in samples.classes:
        taken.update(name.encode() + b"\0")
    taken.update(b"\0")
    for key, digest in zip(samples.keys, digests, strict=True):
        taken.update(key.encode() + b"\0" + digest)
    return taken.hexdigest()
