"""The groups of classes that accuracy is reported of, and what a record tells of an accuracy. No torch."""

from dive import structure as s

SHOTS = ("many", "medium", "few")
ACCURACY: dict[str, s.Check] = {
    **dict.fromkeys(SHOTS, s.or_none(s.share)),
    **dict.fromkeys(("all", "class_mean"), s.share),
}
