"""`dive report`: its numbers are the tune step's, its pictures the cache's views, and what it refuses."""

import base64
import io
import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import caches
import chain
import numpy as np
import pytest
from PIL import Image

import dive
from dive.cache.encodings.codec import Head
from dive.cache.reader import LogitCache
from dive.data.longtail import shot_groups
from dive.errors import DiveError, OutputError
from dive.recipe.teachers import told_teachers
from dive.report.page.content import Page
from dive.workflows.report_caches import RATIOS, of_cache

pytest.importorskip("plotly", reason="the page needs plotly, which is not installed")


def embedded(path: Path) -> dict:
    """The JSON that a page holds."""
    (found,) = re.findall(
        rb'<script type="application/json" id="data">(.*?)</script>', path.read_bytes(), re.S
    )
    return json.loads(found)


@pytest.fixture(scope="module")
def written(digits, tmp_path_factory) -> tuple[Path, Page]:
    out = tmp_path_factory.mktemp("page") / "report.html"
    return out, dive.write_report([digits.teacher, digits.student, digits.cache], out)


def exact(logits: np.ndarray, ratio: float) -> np.ndarray:
    """Targets in float64 of logits (N, V, C), by the formula."""
    target = np.exp((logits - logits.max(axis=-1, keepdims=True)).astype(np.float64) / ratio)
    return target / target.sum(axis=-1, keepdims=True)


def test_the_embedded_numbers_are_those_of_sums_in_float64(written, digits):
    (of_cache,) = embedded(written[0])["sections"]["virtual-examples"]
    cache = LogitCache(digits.cache)
    logits = cache.whole()
    shots = shot_groups(cache.class_counts)
    order = np.argsort(-cache.class_counts, kind="stable")
    values = np.frombuffer(base64.b64decode(of_cache["values"]), "<f4").reshape(len(RATIOS), -1)
    assert of_cache["ratios"] == list(RATIOS)
    for place, ratio in enumerate(RATIOS):
        target = exact(logits, ratio)
        per_class = target.mean(axis=1).sum(axis=0)
        np.testing.assert_allclose(values[place], per_class[order], rtol=1e-5)
        means = {name: per_class[members].mean() for name, members in shots.items()}
        assert of_cache["shots"][place] == pytest.approx(means, rel=1e-5)
        logs = np.log(target, where=target > 0, out=np.zeros_like(target))
        information = np.log(10) + (target * logs).sum(axis=-1).mean()
        assert of_cache["information"][place] == pytest.approx(information, abs=1e-6)  # nats, of 2.3


def test_clean_is_of_the_clean_view_alone(digits):
    cache = LogitCache(digits.cache)
    part = of_cache(cache, clean=True)
    (clean,) = cache.whole()[:, cache.views[0] == 4].transpose(1, 0, 2)
    for position in part.positions:
        expected = exact(clean, position.ratio).sum(axis=0)
        np.testing.assert_allclose(position.per_class, expected, rtol=1e-5)
    there = exact(clean, part.crossing.ratio).sum(axis=0)
    assert part.crossing.few == pytest.approx(there[cache.class_counts <= 20].mean(), rel=1e-4)
    chain.succeed("report", digits.cache, "--clean", "--out", "clean.html")
    assert "the clean view · 10 classes" in Path("clean.html").read_text()


def test_the_papers_figure_is_the_one_that_the_tune_step_draws(written, digits):
    """Element by element; a number may differ by what the order of a pass's temperatures rounds."""
    chain.succeed("tune-tau", "--cache", digits.cache, "--plot", "p.svg")
    (of_cache,) = written[1].caches
    numbers = re.compile(r"-?\d+\.\d+")
    here, there = of_cache.figure.decode(), Path("p.svg").read_text()
    assert numbers.sub("", here) == numbers.sub("", there)
    np.testing.assert_allclose(
        [float(found) for found in numbers.findall(here)],
        [float(found) for found in numbers.findall(there)],
        atol=2e-3,
    )
    assert base64.b64encode(of_cache.figure) in written[0].read_bytes()
    images = of_cache.images
    assert of_cache.figure_says.startswith(
        "Virtual examples per class, 9 stored views. images "
        f"many {images['many']:.0f}, medium {images['medium']:.0f}, few {images['few']:.0f}; τ/p = 1 many "
    )


def test_positions_are_numbers_that_people_type_and_lie_close():
    assert {0.5, 1, 2, 3, 4, 6, 12, 20, 40, 50} <= set(RATIOS)
    assert list(RATIOS) == sorted(set(RATIOS)) and 40 <= len(RATIOS) <= 100
    assert max(b / a for a, b in zip(RATIOS, RATIOS[1:], strict=False)) < 1.15


def test_the_crossing_is_that_of_float64_sums_over_a_dense_grid(tmp_path):
    labels = np.repeat(np.arange(3), (150, 30, 12))
    logits = caches.random_logits(len(labels), 2, 3, scale=1.0) + np.array([1.0, 0.5, 0.2], np.float32)
    logits[np.arange(len(labels)), :, labels] += 5
    cache = caches.write_cache(tmp_path / "c.h5", logits, labels=labels, store="float32")
    found = of_cache(cache).crossing
    exact = logits.astype(np.float64)

    def gap(ratio: float) -> float:
        target = np.exp(exact / ratio)
        sums = (target / target.sum(-1, keepdims=True)).mean(1).sum(0)
        return sums[2] - sums[0]

    grid = np.geomspace(0.5, 50, 4000)
    above = next((ratio for ratio in grid if gap(ratio) > 0), None)
    if above is None:
        assert found is None
    else:
        assert found.ratio == pytest.approx(above, rel=2e-3)


def test_where_curves_do_not_cross_the_page_says_so(tmp_path):
    labels = np.repeat(np.arange(2), (150, 12))
    logits = np.zeros((162, 1, 2), np.float32)
    logits[:, :, 0] = 1
    path = caches.write_cache(tmp_path / "c.h5", logits, labels=labels).path
    page = dive.write_report([path], "r.html")
    assert page.caches[0].crossing is None and "do not exceed many-shot ones" in page.caches[0].advice
    assert page.caches[0].advice.split(":")[0] in Path("r.html").read_text()


def test_pictures_are_the_views_of_the_cache_and_their_logits(written, digits):
    cache = LogitCache(digits.cache)
    (of_cache,) = written[1].caches
    views = dive.CachedViews(cache, dive.open_images("digits_lt/bbn"))
    assert {picture.shot for picture in of_cache.pictures} == {"many", "medium", "few"}
    for picture in of_cache.pictures:
        row = cache.keys.index(picture.key)
        assert cache.labels[row] == picture.label and picture.views[0].clean
        assert len({view.column for view in picture.views}) == 4
        for view in picture.views:
            png = base64.b64decode(view.uri.removeprefix("data:image/png;base64,"))
            shown = np.asarray(Image.open(io.BytesIO(png)))
            np.testing.assert_array_equal(shown, views.pixels(row, view.column)[..., 0])
            np.testing.assert_allclose(view.logits, cache.logits([row], [view.column])[0], rtol=1e-6)


def test_a_views_pixels_are_those_that_the_data_set_gives(digits):
    views = dive.CachedViews(LogitCache(digits.cache), dive.open_images("digits_lt/bbn"))
    for row in (0, 200):
        np.testing.assert_array_equal(
            views[row][0].numpy(), views.pixels(row, views.column(row)).transpose(2, 0, 1)
        )


def test_models_are_told_with_history_command_and_recipe(written):
    teacher, student = written[1].models
    assert [len(model.history) for model in (teacher, student)] == [3, 3]
    assert teacher.command == "dive teacher --config digits_lt/bbn --epochs 3"
    assert "name: digits_lt_bbn" in student.recipe
    assert student.record["weights_hash"].encode() in written[0].read_bytes()


TRAINED = {
    "kind": "teacher", "loss": "bsce", "seed": 0, "epochs": 3, "precision": "fp32", "weights_hash": "w",
    "accuracy": dict.fromkeys(("many", "medium", "few", "all", "class_mean"), 0.5),
    "recipe": dive.load_recipe("digits_lt/bbn").as_dict(),
}  # fmt: skip
FOREIGN = {"kind": "foreign", "network": "n", "initial_weights": "i", "prior": "train", "weights_hash": "f"}
IMPORTED = {"kind": "imported", "file": "logits", "prior": "none", "logits_hash": "l"}
EXPORT, DIGITS = ("dive", "export-logits", "--config", "digits_lt/bbn"), ("--store", "float16")


def command_of(
    digits: chain.Chain, *teachers: dict, facts: dict[str, Any] | None = None, **identity: Any
) -> str:
    """The command that a page tells of a cache as that of the digits, with these teachers and changes."""
    known = LogitCache(digits.cache)
    ensemble = {} if len(teachers) == 1 else {"teacher_weights": [1 / len(teachers)] * len(teachers)}
    told = told_teachers(teachers)
    common = [{k: v for k, v in one.items() if k != "teacher"} for one in (known.identity, known.facts)]
    cache = caches.write_cache(
        Path("changed.h5"),
        caches.random_logits(150, 1, 2),
        identity=common[0] | told | ensemble | identity,
        facts=common[1] | told | (facts or {}),
    )
    return of_cache(cache).command


def test_a_cache_of_one_trained_teacher_is_told_with_its_export(digits):
    whole = shlex.join((*EXPORT, "--views", "all", *DIGITS))
    assert of_cache(LogitCache(digits.cache)).command == command_of(digits, TRAINED) == whole
    seed = (*EXPORT, "--set", "views.seed=7", "--views", "3", *DIGITS)
    assert command_of(digits, TRAINED, view_seed=7, views="3") == shlex.join(seed)
    own = ("dive", "export-logits", "--config", "RECIPE.yaml", "--views", "all", *DIGITS)
    identity = LogitCache(digits.cache).identity
    for changed in ({"recipe": "mine"}, {"data": identity["data"] | {"imbalance": 7.0}},
                    {"view_space": identity["view_space"] | {"pad": 2}}):  # fmt: skip
        told = command_of(digits, TRAINED, **changed)
        assert told.replace("--teacher CHECKPOINT ", "") == shlex.join(own)
    other = TRAINED | {"recipe": TRAINED["recipe"] | {"name": "another"}}
    assert "--teacher CHECKPOINT --views" in command_of(digits, other)
    assert "--teacher CHECKPOINT --views" in command_of(digits, TRAINED | {"kind": "student"})


def test_caches_that_no_export_of_one_teacher_makes_are_told_with_what_makes_them(digits):
    config = ("--config", "digits_lt/bbn")
    for views in ("all", "given"):
        words = ("dive", "import-logits", "FILE", *config, "--teacher-prior", "none", *DIGITS)
        assert command_of(digits, IMPORTED, views=views) == shlex.join(words)
    assert command_of(digits, TRAINED, views="given") == ""
    several = (*EXPORT, "--teacher", "CHECKPOINT", "CHECKPOINT", "--views", "all", *DIGITS)
    assert command_of(digits, TRAINED, TRAINED) == shlex.join(several)
    foreign = (*EXPORT, "--teacher", "RECIPE.yaml", "--teacher-prior", "train", "--views", "all", *DIGITS)
    assert command_of(digits, FOREIGN) == shlex.join(foreign)
    assert command_of(digits, FOREIGN, FOREIGN | {"prior": "none"}) == ""
    made = {"converted_from": [{"hash": "h", "store": "features"}]}
    assert command_of(digits, TRAINED, facts=made) == "dive convert CACHE --store float16"
    merged = {"merged_from": [{"hash": "h", "store": "int8", "precision": "fp32"}] * 2}
    words = "dive merge-caches --cache CACHE CACHE --out CACHE --store float16"
    assert command_of(digits, TRAINED, IMPORTED, facts=merged) == words
    weighed = command_of(digits, TRAINED, IMPORTED, facts=merged, teacher_weights=[0.75, 0.25])
    assert weighed == words.replace("--out", "--weights 0.75 0.25 --out")
    assert command_of(digits, TRAINED, IMPORTED, TRAINED, facts=merged) == ""
    assert of_cache(caches.write_cache(Path("bare.h5"), caches.random_logits(150, 1, 2))).command == ""


def test_a_record_without_its_weights_will_do(digits, tmp_path):
    record = tmp_path / "only.json"
    record.write_bytes(digits.teacher.with_suffix(".json").read_bytes())
    page = dive.write_report([record], tmp_path / "r.html")
    assert page.models[0].history is None and "only.json has no history" in (tmp_path / "r.html").read_text()


def test_eight_thousand_classes_make_a_page_of_less_than_twenty_megabytes(tmp_path):
    classes, features, n = 8142, 8, 9000
    generator = np.random.default_rng(0)
    labels = np.concatenate([np.arange(classes), generator.geometric(0.002, n - classes) % classes])
    head = Head(
        generator.standard_normal((classes, features)).astype(np.float32), np.zeros(classes, np.float32)
    )
    shape = np.empty((n, 1, classes + caches.MORE_FEATURES), np.bool_)
    content = caches.content_for(shape, labels=labels, store="features", head=head)
    values = generator.standard_normal((n, 1, features)).astype(np.float32)
    caches.write_blocks(tmp_path / "large.h5", content, values)
    caches.finish(tmp_path / "large.h5", content)
    out = tmp_path / "large.html"
    page = dive.write_report([tmp_path / "large.h5"], out, dive.ReportOptions(sample=64))
    assert out.stat().st_size < 20e6
    assert sum(page.caches[0].positions[0].per_class) == pytest.approx(n, rel=1e-4)
    assert page.caches[0].positions[0].errors is not None


def test_options_about_caches_say_that_they_have_no_effect_where_none_is_shown(digits):
    words = ("report", digits.teacher, "--out", "r.html")
    done = chain.succeed(*words, "--data", "nowhere", "--sample", 3)
    assert "warning: --data and --sample: no effect here, because no cache is shown\n" in done.err
    assert "no effect" not in chain.succeed(*words, "--force").err


def test_only_a_page_of_dive_is_replaced_and_only_if_asked(digits, tmp_path):
    out = tmp_path / "r.html"
    record = digits.teacher.with_suffix(".json")
    chain.succeed("report", record, "--out", out, "--quiet")
    before = out.read_bytes()
    assert "exists already" in chain.dive("report", record, "--out", out).complaint
    chain.succeed("report", record, "--out", out, "--quiet", "--force")
    assert out.read_bytes() == before  # nothing in it depends on the time
    out.write_text("<!doctype html>\nmine")
    assert "is not a page written by dive" in chain.dive("report", record, "--out", out, "--force").complaint
    assert out.read_text() == "<!doctype html>\nmine"
    mine = tmp_path / "teacher.json"
    mine.write_bytes(record.read_bytes())
    assert "a file that the command reads" in chain.dive("report", mine, "--out", mine, "--force").complaint
    done = chain.dive("report", record, "--out", tmp_path / "r.txt")
    assert done.complaint.endswith("r.txt must end in .html") and done.code == 2


@pytest.mark.parametrize("content", [b"", b"a text", b"{}", b"[1]", b'{"kind": "teacher"}'])
def test_a_file_that_dive_did_not_write_is_refused_in_a_line(content, tmp_path):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(DiveError, match="x.json is neither a logit cache, nor a checkpoint, nor"):
        dive.write_report([tmp_path / "x.json"])
    assert not Path("report.html").exists()


def test_a_missing_file_and_a_recipe_without_results_are_told_in_a_line():
    assert "there is no none.pt" in chain.dive("report", "none.pt").complaint
    told = chain.dive("report", "--config", "digits_lt/bbn").complaint
    assert "there is neither checkpoints/digits_lt_bbn/teacher.pt nor cache/digits_lt_bbn.h5 yet" in told


def test_without_plotly_the_command_that_installs_it_is_told(digits, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("dive.report.page")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(OutputError, match=re.escape("pip install 'dive-longtail[report]'")):
        dive.write_report([digits.teacher.with_suffix(".json")])


def test_pictures_of_a_folder_need_data_and_must_be_those_the_teacher_saw(cifar_forms, tmp_path):
    given = ("--config", chain.CONFIG, "--set", "data.kind=folder", "--set", "data.imbalance=2", "--quiet",
             "--set", "model.input.mean=[0.5,0.5,0.5]", "--set", "model.input.std=[0.2,0.2,0.2]",
             "--device", "cpu")  # fmt: skip
    chain.succeed("teacher", *given, "--data", cifar_forms.folder, "--epochs", 1, "--out", "t.pt")
    chain.succeed("export-logits", *given, "--data", cifar_forms.folder, "--teacher", "t.pt", "--out", "c.h5")
    page = dive.write_report(["c.h5"], "without.html")
    assert page.caches[0].pictures is None and "with --data PATH" in Path("without.html").read_text()
    page = dive.write_report(["c.h5"], "with.html", dive.ReportOptions(data=str(cifar_forms.archive)))
    (first, *_) = page.caches[0].pictures[0].views
    png = base64.b64decode(first.uri.removeprefix("data:image/png;base64,"))
    pixels = cifar_forms.pixels[f"train/{page.caches[0].pictures[0].key}"]
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png))), pixels)
    for path in cifar_forms.folder.rglob("train/*/*.png"):
        Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(path)
    with pytest.raises(DiveError, match="is not the image that the teacher"):
        dive.write_report(["c.h5"], "other.html", dive.ReportOptions(data=str(cifar_forms.folder)))


def test_a_recipe_says_how_the_pictures_of_a_cache_were_divided():
    """A cache does not: without it the pictures would be divided by the share of a folder's default."""
    generator = np.random.default_rng(0)
    for name, count in (("ant", 20), ("bee", 10)):
        Path("tree", name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(generator.integers(0, 256, (8, 8, 3), np.uint8)).save(f"tree/{name}/{i:02}.png")
    given = ("--config", chain.CONFIG, "--set", "data.kind=folder", "--set", "data.test_share=0.05",
             "--set", "data.imbalance=2", "--set", "model.input.mean=[0.5,0.5,0.5]",
             "--set", "model.input.std=[0.2,0.2,0.2]")  # fmt: skip
    told = (*given, "--quiet", "--data", "tree", "--device", "cpu")
    chain.succeed("teacher", *told, "--epochs", 1, "--out", "t.pt")
    chain.succeed("export-logits", *told, "--teacher", "t.pt", "--out", "c.h5")
    without = chain.dive("report", "c.h5", "--data", "tree", "--out", "without.html", "--quiet").complaint
    assert "have no image in this data set" in without
    chain.succeed("report", "c.h5", *given, "--data", "tree", "--out", "with.html", "--quiet")
    assert "data:image/png;base64," in Path("with.html").read_text()
