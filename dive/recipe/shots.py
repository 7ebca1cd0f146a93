"""The groups of classes that accuracy is reported for, and the structure of an accuracy in a record.

This module does not import torch.
"""

from dive import structure as s

SHOTS = ("many", "medium", "few")
ACCURACY: dict[str, s.Check] = {
    **dict.fromkeys(SHOTS, s.or_none(s.share)),
    **dict.fromkeys(("all", "class_mean"), s.share),
}
