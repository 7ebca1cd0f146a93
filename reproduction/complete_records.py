"""Add to old records of students what their caches store, and which views they drew. Run once.

    python -m reproduction.complete_records

Records made by dive 0.1.0 up to commit dc22d73 lack `cache` and `fixed_view`. What their caches stored is
known from the commands that RESULTS.md lists: all views in float16; for AutoAugment 50 views, drawn by view
seed 0; and for a student with free views only the clean view.
"""

import json
from pathlib import Path
from typing import Any

from dive import files
from dive.models import checkpoint
from dive.recipe.earlier import upgraded

RESULTS = Path(__file__).parents[1] / "results"


def main() -> None:
    """Complete every record under results/, in its .json and in its .pt."""
    for path in sorted(RESULTS.glob("*/*.json")):
        record = upgraded(json.loads(path.read_text()))
        if record.get("kind") == "student" and "cache" not in record:
            files.write_json(path, completed(record))
    for path in sorted(RESULTS.glob("*/*.pt")):
        document = checkpoint.load(path)
        if document["kind"] == "student" and "cache" not in document:
            checkpoint.save(path, completed(document))


def completed(record: dict[str, Any]) -> dict[str, Any]:
    """A student's record with the entries that it lacks, placed beside its other entries on the cache."""
    unbounded = record["recipe"]["views"]["kind"] == "autoaugment"
    views = "clean" if record["free_views"] else "50" if unbounded else "all"
    told = {"cache": {"views": views, "view_seed": 0, "store": "float16"}, "fixed_view": False}
    entries: dict[str, Any] = {}
    for key, value in record.items():
        entries[key] = value
        if key == "cache_hash":
            entries["cache"] = told["cache"]
        if key == "free_views":
            entries["fixed_view"] = told["fixed_view"]
    return entries


if __name__ == "__main__":
    main()
