"""Students: the loss of an online teacher, rows joined by key, and every cache that does not fit."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import caches
import chain
import folders
import numpy as np
import pytest
import reference_loop
import torch

from dive.cache.reader import LogitCache
from dive.cache.writer import Content
from dive.models import checkpoint
from dive.progress import Progress
from dive.recipe.reading import load
from dive.workflows.student import tuned

OUT = Path("student.pt")
ONE_STEP = (
    *("--set", "schedule.epochs=1"),
    *("--set", "schedule.batch_size=399"),
    *("--set", "schedule.warmup_epochs=0"),
    *("--set", "schedule.milestones=[]"),
)
ONE_EPOCH = (
    *("--set", "schedule.epochs=1"),
    *("--set", "schedule.warmup_epochs=1"),
    *("--set", "schedule.milestones=[]"),
    *("--set", "optimizer.lr=0.01"),
)
CLEAN_ID = 4  # the centre of 3×3 crops


def student(*arguments: object) -> chain.Outcome:
    return chain.dive("student", *chain.DIGITS, "--out", OUT, *arguments)


def first_loss() -> float:
    return json.loads(OUT.with_suffix(".history.jsonl").read_text().splitlines()[0])["loss"]


def online_loss(
    teacher: Path,
    sets: tuple[str, ...],
    tau: float,
    power: float,
    student_tau: float,
    weight: float,
    always_view: int | None = None,
    teacher_sees: int | None = None,
) -> float:
    """The first epoch's loss of a student whose teacher is asked online, by FIELD.md's formulas.

    always_view: the student sees this view alone. teacher_sees: the teacher does.
    """
    recipe = load(chain.CONFIG, sets[1::2])
    samples = reference_loop.training_samples(recipe)
    labels = torch.from_numpy(samples.labels)
    network, document = checkpoint.load_model(teacher)
    model, own, given = network.body.eval(), document["architecture"]["input"], recipe.model.input

    def fixed(view: int, rows: torch.Tensor) -> torch.Tensor:
        ids = np.full(len(rows), view)
        return reference_loop.rendered(samples.pictures.held[rows.numpy()], ids, recipe)

    def loss_of(logits, rows, views):
        with torch.no_grad():
            seen = (views if teacher_sees is None else fixed(teacher_sees, rows)).double()
            pixels = seen * given.std[0] + given.mean[0]  # the teacher normalises them in its own way
            said = model(((pixels - own["mean"][0]) / own["std"][0]).float())
        labelled = reference_loop.balanced_softmax(logits, labels[rows], samples.counts)
        divergence = reference_loop.distilled(logits, said, tau, power, student_tau)
        return (1 - weight) * labelled + weight * tau**2 * divergence

    with pytest.MonkeyPatch.context() as patch:
        if always_view is not None:
            patch.setattr(reference_loop, "epoch_choice", lambda *_: np.full(len(labels), always_view))
        return reference_loop.train(recipe, loss_of)[0]["loss"]


@pytest.mark.parametrize(
    ("tau", "power", "student_tau", "weight"),
    [
        (3, 0.5, None, 0.5),  # the paper's
        (6, 1, None, 0.5),  # the same target, another loss
        (3, 0.5, 9, 0.5),  # the factor stays 3²
        (1, 1, None, 1),
        (2, 0.25, 4, 0.2),
        (3, 0.5, None, 0),
    ],
)
def test_a_step_from_the_cache_has_the_loss_of_a_step_with_the_teacher_online(
    digits, tau, power, student_tau, weight
):
    options = ["--cache", digits.cache, "--tau", tau, "--power", power, "--weight", weight]
    if student_tau:
        options += ["--student-tau", student_tau]
    assert student(*ONE_STEP, *options).code == 0
    expected = online_loss(digits.teacher, ONE_STEP, tau, power, student_tau or tau, weight)
    assert first_loss() == pytest.approx(expected, rel=1e-3)


def test_a_student_may_normalise_its_input_otherwise_than_its_teacher(digits):
    otherwise = (*ONE_STEP, *("--set", "model.input.mean=[0.5]"), *("--set", "model.input.std=[0.2]"))
    losses = []
    for sets in (ONE_STEP, otherwise):
        assert student(*sets, "--cache", digits.cache, "--force").code == 0
        losses.append(first_loss())
        assert losses[-1] == pytest.approx(online_loss(digits.teacher, sets, 3, 0.5, 3, 0.5), rel=1e-3)
    assert losses[0] != pytest.approx(losses[1], rel=4e-3)  # batch norm hides most of it
    architecture = checkpoint.load(OUT)["architecture"]
    assert architecture["input"] == {"size": None, "mean": [0.5], "std": [0.2]}
    (found,) = chain.succeed("eval", OUT, "--json", "--quiet").document["checkpoints"]
    assert found["accuracy"] == checkpoint.load(OUT)["accuracy"]


def test_an_epoch_from_the_cache_has_the_loss_of_an_epoch_with_the_teacher_online(digits):
    assert student(*ONE_EPOCH, "--cache", digits.cache).code == 0
    expected = online_loss(digits.teacher, ONE_EPOCH, 3, 0.5, 3, 0.5)
    assert first_loss() == pytest.approx(expected, rel=1e-3)


def test_the_reference_tells_the_settings_apart(digits):
    settings = [(3, 0.5, 3, 0.5), (6, 1, 6, 0.5), (3, 0.5, 9, 0.5), (3, 1, 3, 0.5), (3, 0.5, 3, 0.4)]
    losses = [online_loss(digits.teacher, ONE_STEP, *setting) for setting in settings]
    another_view = online_loss(digits.teacher, ONE_STEP, 3, 0.5, 3, 0.5, teacher_sees=CLEAN_ID)
    assert len({round(loss, 2) for loss in [*losses, another_view]}) == 6


def test_with_the_fixed_view_teacher_and_student_see_the_clean_view_alone(digits):
    assert student(*ONE_STEP, "--cache", digits.clean_cache, "--fixed-view").code == 0
    expected = online_loss(
        digits.teacher, ONE_STEP, 3, 0.5, 3, 0.5, always_view=CLEAN_ID, teacher_sees=CLEAN_ID
    )
    assert first_loss() == pytest.approx(expected, rel=1e-3)


def test_with_free_views_the_student_alone_is_augmented_and_a_warning_says_what_that_costs(digits):
    outcome = student(*ONE_STEP, "--cache", digits.clean_cache, "--free-views")
    assert outcome.code == 0
    assert outcome.err.count("\n") == 1 and outcome.err.startswith("warning: free views: ")
    expected = online_loss(digits.teacher, ONE_STEP, 3, 0.5, 3, 0.5, teacher_sees=CLEAN_ID)
    assert first_loss() == pytest.approx(expected, rel=1e-3)


def test_from_a_cache_of_k_views_the_student_sees_just_those(digits):
    cache = LogitCache(digits.drawn_cache)
    spoilt = cache.whole().copy()
    columns = cache.views.argmin(axis=1)
    spoilt[np.arange(399), columns] += np.float16(1) * np.arange(10, dtype=np.float16)
    rewritten(cache, Path("spoilt.h5"), logits=spoilt)
    losses = []
    for path in (digits.drawn_cache, Path("spoilt.h5")):
        assert student(*ONE_STEP, "--cache", path, "--force").code == 0
        losses.append(first_loss())
    assert losses[0] != losses[1]  # every stored view is drawn by some image
    unused = online_loss(digits.teacher, ONE_STEP, 3, 0.5, 3, 0.5)
    assert losses[0] == pytest.approx(unused, rel=0.05) and losses[0] != unused  # other views, as hard


def rewritten(cache: LogitCache, path: Path, order: np.ndarray | None = None, **changes) -> None:
    """A cache with the content of another: its rows in another order, or some parts replaced."""
    rows = np.arange(len(cache.keys)) if order is None else order
    logits = changes.pop("logits", np.array(cache.whole()))[rows]
    content = Content(
        views=cache.views[rows],
        labels=cache.labels[rows],
        keys=[cache.keys[row] for row in rows],
        digests=cache.digests[rows],
        classes=cache.classes,
        class_counts=cache.class_counts,
        store=cache.store,
        identity=cache.identity,
        facts=cache.facts,
    )
    content = replace(content, **{"class_counts": np.bincount(content.labels, minlength=10)} | changes)
    caches.write_blocks(path, content, logits)
    caches.finish(path, content)


def test_rows_are_joined_by_key_whatever_their_order_in_the_cache(digits):
    order = np.random.default_rng(0).permutation(399)
    rewritten(LogitCache(digits.cache), Path("shuffled.h5"), order)
    assert student("--epochs", 3, "--cache", "shuffled.h5").code == 0
    shuffled, straight = (checkpoint.load(path) for path in (OUT, digits.student))
    assert shuffled["weights_hash"] == straight["weights_hash"]
    assert shuffled["cache_hash"] != straight["cache_hash"]


RARER = ("--set", "data.imbalance=100")  # a draw that is part of the cache's
LARGER = ("--set", "data.imbalance=20")  # a draw of which the cache's is a part


def test_a_student_of_some_of_the_cached_samples_trains_as_from_a_cache_of_just_those(digits):
    outcome = chain.dive(
        "student", *chain.DIGITS[:-1], *RARER, "--epochs", 2, "--cache", digits.cache, "--out", OUT
    )
    assert outcome.code == 0
    keys = reference_loop.training_samples(load(chain.CONFIG, RARER[1:])).keys
    assert f"training on {len(keys)} of the 399 images of {digits.cache}" in outcome.err
    cache = LogitCache(digits.cache)
    rows = np.array([row for row, key in enumerate(cache.keys) if key in set(keys)])
    assert len(rows) == len(keys) < 399
    rewritten(cache, Path("part.h5"), rows[::-1])
    chain.succeed("student", *chain.DIGITS, *RARER, "--epochs", 2, "--cache", "part.h5", "--out", "part.pt")
    assert checkpoint.load(OUT)["weights_hash"] == checkpoint.load(Path("part.pt"))["weights_hash"]


def test_samples_the_cache_lacks_are_counted_and_refused_unless_they_may_be_left_out(digits):
    complaint = refusal("--cache", digits.cache, *LARGER)
    wanted = len(reference_loop.training_samples(load(chain.CONFIG, LARGER[1:])).keys)
    assert f"it lacks {wanted - 399} of {wanted} training images" in complaint
    assert "--allow-missing" in complaint
    outcome = student("--epochs", 3, "--cache", digits.cache, *LARGER, "--allow-missing")
    assert outcome.err == (
        f"warning: {wanted - 399} of {wanted} training images are not in {digits.cache} and are left out\n"
    )
    # What is left is the cache's own draw.
    left, own = checkpoint.load(OUT), checkpoint.load(digits.student)
    assert left["data_fingerprint"] == own["data_fingerprint"]
    assert left["weights_hash"] == own["weights_hash"]


def test_a_label_other_than_the_caches_is_refused(digits):
    cache = LogitCache(digits.cache)
    labels = cache.labels.copy()
    labels[[0, -1]] = labels[[-1, 0]]
    rewritten(cache, Path("swapped.h5"), labels=labels)
    complaint = refusal("--cache", "swapped.h5")
    assert "2 of 399 have another label here, for example" in complaint and cache.keys[0] in complaint


def test_nothing_left_is_refused_even_where_samples_may_be_left_out(digits):
    cache = LogitCache(digits.cache)
    rewritten(cache, Path("other.h5"), keys=[f"{key}x" for key in cache.keys])
    assert "lacks 399 of 399" in refusal("--cache", "other.h5", "--allow-missing")


def test_another_torch_is_a_warning(digits):
    cache = LogitCache(digits.cache)
    made_with = cache.facts["versions"] | {"torch": "2.11.0"}
    rewritten(cache, Path("older.h5"), facts=cache.facts | {"versions": made_with})
    outcome = student("--epochs", 1, "--cache", "older.h5")
    assert outcome.code == 0
    assert outcome.err.startswith("warning: older.h5 was made with torch 2.11.0, here ")
    assert outcome.err.count("\n") == 1


def test_the_teachers_weights_are_not_read(digits):
    shutil.copy(digits.cache, "cache.h5")
    shutil.copy(digits.teacher, "teacher.pt")
    moved = digits.teacher.with_name("hidden.pt")
    digits.teacher.rename(moved)
    try:
        Path("teacher.pt").unlink()
        assert student("--epochs", 3, "--cache", "cache.h5").code == 0
    finally:
        moved.rename(digits.teacher)
    assert checkpoint.load(OUT)["weights_hash"] == checkpoint.load(digits.student)["weights_hash"]


def test_two_seeds_of_a_student_share_one_cache(digits):
    hashes = set()
    for seed in (0, 1):
        assert student("--epochs", 1, "--seed", seed, "--cache", digits.cache, "--force").code == 0
        hashes.add(checkpoint.load(OUT)["weights_hash"])
    assert len(hashes) == 2


def test_the_table_sets_the_student_beside_its_teacher(digits):
    outcome = student("--epochs", 1, "--cache", digits.cache)
    of = {name: checkpoint.load(path)["accuracy"] for name, path in (("t", digits.teacher), ("s", OUT))}
    for row, accuracy in (("teacher (bsce)", of["t"]), ("student (τ=3, p=0.5, w=0.5)", of["s"])):
        (line,) = [line for line in outcome.out.splitlines() if row in line]
        shown = [float(word) for word in line.split(row)[1].split()]
        assert shown == pytest.approx([100 * value for value in accuracy.values()], abs=0.00501)
    gain = 100 * (of["s"]["all"] - of["t"]["all"])
    assert f"{abs(gain):.2f} points {'above' if gain >= 0 else 'below'} its teacher" in outcome.out


def refusal(*arguments: object) -> str:
    """The complaint of a student that is refused before anything is written."""
    before = chain.files_under()
    complaint = student(*arguments).complaint
    assert chain.files_under() == before
    return complaint


def test_a_one_view_cache_needs_a_choice_and_both_are_no_choice(digits):
    complaint = refusal("--cache", digits.clean_cache)
    assert "--free-views" in complaint and "--fixed-view" in complaint
    assert "exclude each other" in refusal("--cache", digits.clean_cache, "--free-views", "--fixed-view")


@pytest.mark.parametrize("flag", ["--free-views", "--fixed-view"])
def test_a_choice_for_one_view_is_refused_with_a_cache_of_several(digits, flag):
    complaint = refusal("--cache", digits.cache, flag)
    assert "holds 9 views" in complaint and "for a cache of one view" in complaint


def test_free_views_over_one_drawn_view_are_refused_for_that_view_is_not_the_clean_one(digits):
    chain.succeed(
        "export-logits", *chain.DIGITS, "--teacher", digits.teacher, "--views", 1, "--out", "one.h5"
    )
    assert "not the clean one" in refusal("--cache", "one.h5", "--free-views")
    assert student(*ONE_STEP, "--cache", "one.h5", "--fixed-view").code == 0


@pytest.mark.parametrize(
    ("assignment", "named"),
    [
        ("data.seed=1", "data.seed: 0, now 1"),
        ("data.imbalance=20", "data.imbalance: 50.0, now 20.0"),
        ("views.pad=2", "pad: 1, now 2"),
    ],
)
def test_a_cache_of_another_draw_or_view_space_is_refused_by_naming_the_key(digits, assignment, named):
    complaint = refusal("--cache", digits.cache, "--set", assignment)
    assert "all.h5" in complaint and named in complaint


@pytest.mark.parametrize(
    ("counts", "named"),
    [
        ({"ant": 9, "bee": 5, "cat": 2}, "3 classes (ant, bee, cat, …)"),
        ({str(c): 2 for c in range(9)}, "9 classes (0, 1, 2, …)"),
    ],
)
def test_a_cache_of_another_data_set_or_class_count_is_refused_by_naming_both(digits, counts, named):
    images = folders.write_images(Path("images").absolute(), counts)
    config = folders.write_recipe(Path("other.yaml"), images)
    before = chain.files_under()
    complaint = chain.dive(
        "student", "--config", config, "--cache", digits.cache, "--out", OUT, "--quiet"
    ).complaint
    assert named in complaint and "10 classes (0, 1, 2, …)" in complaint
    assert chain.files_under() == before


def test_a_cache_of_other_images_under_the_same_names_is_refused(tmp_path):
    common = ("--precision", "fp32", "--quiet")
    images = folders.write_images(tmp_path / "images")
    config = folders.write_recipe(Path("insects.yaml"), images)
    chain.succeed("teacher", "--config", config, *common, "--out", "t.pt")
    chain.succeed("export-logits", "--config", config, *common, "--teacher", "t.pt", "--out", "c.h5")
    other = folders.write_images(tmp_path / "other", seed=1)
    arguments = ("student", "--config", config, *common, "--cache", "c.h5", "--out", OUT)
    before = chain.files_under()
    complaint = chain.dive(*arguments, "--data", other).complaint
    assert "c.h5" in complaint and "data fingerprint" in complaint
    assert chain.files_under() == before
    shutil.copytree(images, tmp_path / "moved")  # the same images elsewhere are the same
    chain.succeed(*arguments, "--data", tmp_path / "moved")


def damaged(path: Path, kind: str) -> bytes:
    content = bytearray(path.read_bytes())
    if kind == "a flipped bit in the logits":
        content[caches.offset(path) + 1001] ^= 4
    elif kind == "a flipped bit in the tables":
        content[600] ^= 4
    elif kind == "cut short":
        del content[-1000:]
    elif kind == "unsealed":
        content[:512] = bytes(512)
    else:
        content = b"something else altogether"
    return bytes(content)


@pytest.mark.parametrize(
    "kind",
    [
        "a flipped bit in the logits",
        "a flipped bit in the tables",
        "cut short",
        "unsealed",
        "not HDF5",
    ],
)
def test_a_damaged_cache_is_refused_before_training(digits, kind):
    Path("bad.h5").write_bytes(damaged(digits.cache, kind))
    assert "bad.h5" in refusal("--cache", "bad.h5")


def test_a_cache_that_is_not_there_names_the_command_that_makes_one():
    assert "no logit cache none.h5; dive export-logits makes one" in refusal("--cache", "none.h5")


def tuned_cache(digits, path: Path, sharpness: dict[str, float]) -> None:
    """The digits' cache with other logits: everything for class 0, and something for the last class."""
    cache = LogitCache(digits.cache)
    logits = np.zeros(cache.shape, dtype=np.float16)
    logits[:, :, 0] = sharpness["many"]
    logits[:, :, 5:] = sharpness["few"]
    rewritten(cache, path, logits=logits)


def test_tau_auto_takes_the_recommendation(digits):
    printed = chain.succeed("tune-tau", "--cache", digits.cache, "--json").document["recommendation"]
    assert printed["tau"] and printed["power"] == 0.5
    assert student("--epochs", 1, "--cache", digits.cache, "--tau", "auto").code == 0
    distillation = checkpoint.load(OUT)["recipe"]["distillation"]
    assert (distillation["tau"], distillation["power"]) == (printed["tau"], printed["power"])


@pytest.mark.parametrize(
    ("sharpness", "sentence"),
    [({"many": 9, "few": 0}, "do not exceed"), ({"many": 0, "few": 9}, "already at τ/p = ")],
)
def test_tau_auto_takes_the_fallback_where_curves_do_not_cross_and_says_why(
    digits, sharpness, sentence, monkeypatch
):
    tuned_cache(digits, Path("flat.h5"), sharpness)
    notes, told = [], Progress()
    monkeypatch.setattr(told, "note", notes.append)
    (recipe,) = tuned([load(chain.CONFIG)], LogitCache(Path("flat.h5")), told)
    printed = chain.succeed("tune-tau", "--cache", "flat.h5", "--json").document["recommendation"]
    assert (recipe.distillation.tau, recipe.distillation.power) == (printed["tau"], printed["power"])
    assert printed["rule"] == "information"
    (note,) = notes
    assert "(fallback)" in note and sentence in note and note.endswith(printed["reason"])


def test_tau_auto_and_a_power_exclude_each_other(digits):
    assert "leave --power out" in refusal("--cache", digits.cache, "--tau", "auto", "--power", 0.5)
