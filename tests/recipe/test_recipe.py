"""The recipe: defaults, layers, every fault reported, and round trips."""

import dataclasses
import itertools
import json
import os
import re
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dive.errors import RecipeError
from dive.recipe import bounds
from dive.recipe.documents import differences, merge, plain
from dive.recipe.reading import RENAMED, build, laid_over, load, with_epochs
from dive.recipe.recipe import KINDS, AdamW, AutoAugment, Cifar100, CropFlip, Digits, Folder, Recipe


def write(text: str, name: str = "mine.yaml") -> Path:
    path = Path(name)
    path.write_text(text, encoding="utf-8")
    return path


def faults(*assignments: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load(None, assignments)
    return str(caught.value)


GREY = ("model.input.mean=[0.3]", "model.input.std=[0.3]", "views.flip=false")


def keys_of(cls: type, prefix: str = "") -> list[str]:
    """The dotted keys of a dataclass, those of a part that comes in kinds left out."""
    found = []
    for key in dataclasses.fields(cls):
        if dataclasses.is_dataclass(key.default_factory):
            if key.name not in KINDS:
                found += keys_of(key.default_factory, f"{prefix}{key.name}.")
        else:
            found.append(f"{prefix}{key.name}")
    return found


def test_the_defaults_are_the_papers_experiment():
    assert load().as_dict() == {
        "name": "cifar100_lt_bbn",
        "seed": 0,
        "precision": "auto",
        "data": {
            "kind": "cifar100",
            "root": "data",
            "imbalance": 100.0,
            "seed": 0,
        },
        "views": {"kind": "crop_flip", "pad": 4, "flip": True, "size": None, "seed": 0},
        "model": {
            "name": "resnet32",
            "weights": None,
            "head": None,
            "input": {"size": None, "mean": [0.4914, 0.4822, 0.4465], "std": [0.2023, 0.1994, 0.2010]},
        },
        "optimizer": {
            "kind": "sgd",
            "lr": 0.1,
            "weight_decay": 0.0002,
            "body_factor": 1.0,
            "clip_norm": None,
            "momentum": 0.9,
        },
        "schedule": {
            "epochs": 200,
            "iterations": None,
            "batch_size": 128,
            "accumulate": 1,
            "warmup_epochs": 5,
            "warmup_iterations": None,
            "warmup_from": 0.0,
            "decay": "steps",
            "milestones": [120, 160],
            "gamma": 0.01,
        },
        "teacher": {"loss": "bsce", "label_smoothing": 0.0},
        "distillation": {"tau": 3.0, "power": 0.5, "student_tau": None, "weight": 0.5},
    }


def test_the_cifar100_config_is_the_papers_experiment(repository):
    assert load(repository / "configs" / "cifar100_lt" / "bbn.yaml") == Recipe()


def test_the_digits_config_is_a_small_long_tail_without_a_flip(repository):
    recipe = load(repository / "configs" / "digits_lt" / "bbn.yaml")
    assert (recipe.name, recipe.data.kind, recipe.data.imbalance) == ("digits_lt_bbn", "digits", 50)
    assert (recipe.views.flip, recipe.model.name) == (False, "resnet8")


def test_every_config_of_the_repository_loads_and_is_named_after_its_place(repository):
    configs = sorted((repository / "configs").rglob("*.y*ml"))
    assert len(configs) == 33
    for config in configs:
        folder = [] if config.parent.name == "configs" else [config.parent.name]
        assert load(config).name == "_".join([*folder, config.stem])


@pytest.mark.parametrize("source", ["cifar100", "cifar10"])
@pytest.mark.parametrize("imbalance", [10, 50, 100, 200])
def test_the_long_tailed_cifar_recipes_are_the_published_ones(repository, source, imbalance):
    suffix = "" if imbalance == 100 else f"_if{imbalance}"
    folder = repository / "configs" / f"{source}_lt"
    bbn, autoaug, balms = (load(folder / f"{r}{suffix}.yaml") for r in ("bbn", "bbn_autoaug", "balms"))
    paper = Recipe()
    for recipe in (bbn, autoaug, balms):
        assert (recipe.data.kind, recipe.data.imbalance) == (source, imbalance)
        assert (recipe.model, recipe.distillation, recipe.seed) == (paper.model, paper.distillation, 0)
    assert (bbn.optimizer, bbn.schedule, bbn.views) == (paper.optimizer, paper.schedule, paper.views)
    assert (autoaug.optimizer, autoaug.schedule) == (paper.optimizer, paper.schedule)
    assert autoaug.views == balms.views == AutoAugment(pad=4, flip=True, size=None, seed=0)
    assert (balms.optimizer.lr, balms.optimizer.momentum, balms.optimizer.weight_decay) == (0.1, 0.9, 5e-4)
    s = balms.schedule
    assert (s.batch_size, s.iterations, s.warmup_iterations, s.decay) == (512, 13_000, 800, "cosine")
    assert s.warmup_from * balms.optimizer.lr == 0.05


def test_a_config_lies_over_its_base(tmp_path):
    (tmp_path / "deeper").mkdir()
    (tmp_path / "bottom.yaml").write_text("name: bottom\nseed: 3\ndata: {imbalance: 10, seed: 5}\n")
    (tmp_path / "deeper" / "middle.yaml").write_text("base: ../bottom.yaml\ndata: {imbalance: 20}\n")
    (tmp_path / "deeper" / "top.yaml").write_text("base: middle.yaml\nseed: 4\n")
    recipe = load(tmp_path / "deeper" / "top.yaml", ("data.seed=6",))
    assert (recipe.name, recipe.seed, recipe.data.imbalance, recipe.data.seed) == ("top", 4, 20, 6)


@pytest.mark.parametrize(
    ("base", "complaint"),
    [
        ("mine.yaml", "is its own base"),
        ("absent.yaml", "cannot read the config"),
        ("3", "base must be the path"),
    ],
)
def test_a_base_that_is_none_is_refused(base, complaint):
    with pytest.raises(RecipeError, match=complaint):
        load(write(f"base: {base}\n"))


def test_a_length_in_steps_goes_with_what_is_counted_in_steps():
    null = ("schedule.epochs=null", "schedule.warmup_epochs=null")
    steps = (*null, "schedule.iterations=100", "schedule.milestones=[]")
    warmup = "schedule.warmup_iterations=100"
    assert load(assignments=(*steps, warmup)).schedule.iterations == 100
    assert "warmup_iterations must be given" in faults(*steps)
    assert "must not exceed schedule.iterations" in faults(*steps, "schedule.warmup_iterations=101")
    assert "warmup_iterations must be null" in faults("schedule.warmup_iterations=3")
    assert "schedule.epochs must be null" in faults(*steps, warmup, "schedule.epochs=3")
    assert "schedule.warmup_epochs must be null" in faults(*steps, warmup, "schedule.warmup_epochs=3")
    assert "milestones must be [] unless" in faults(*steps, warmup, "schedule.milestones=[3]")
    assert "epochs must be given, or schedule.iterations" in faults("schedule.epochs=null")
    assert "warmup_epochs must be given" in faults("schedule.warmup_epochs=null")


def test_a_cosine_has_no_milestones():
    assert "milestones must be [] unless schedule.decay is steps" in faults("schedule.decay=cosine")
    assert load(None, ("schedule.decay=cosine", "schedule.milestones=[]")).schedule.milestones == ()


def test_a_length_in_steps_is_not_overruled_in_silence(repository):
    config = repository / "configs" / "cifar100_lt" / "balms.yaml"
    with pytest.raises(
        RecipeError, match="schedule.epochs must be null beside schedule.iterations; --epochs N"
    ):
        load(config, ("schedule.epochs=10",))


def test_another_number_of_epochs_keeps_the_share_of_a_warm_up_in_steps(repository):
    schedule = with_epochs(load(repository / "configs" / "cifar100_lt" / "balms.yaml"), 100).schedule
    assert (schedule.epochs, schedule.iterations, schedule.warmup_epochs) == (100, None, 6)
    assert (schedule.warmup_iterations, schedule.decay, schedule.warmup_from) == (None, "cosine", 0.5)


def test_digits_are_not_augmented_in_colour(repository):
    with pytest.raises(RecipeError, match="needs colour images"):
        load(repository / "configs" / "digits_lt" / "bbn.yaml", ("views.kind=autoaugment",))


def test_a_recipe_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Recipe().seed = 1


def test_a_config_without_a_name_is_called_after_its_file():
    assert load(write("seed: 3\n")).name == "mine"
    assert load(write("name: given\n")).name == "given"
    assert load(write("", "empty.yaml")) == dataclasses.replace(Recipe(), name="empty")
    assert load(write("# nothing but a comment\n", "note.yaml")).name == "note"


def test_an_option_beats_set_beats_yaml_beats_the_default():
    config = write("seed: 1\noptimizer: {lr: 0.2, momentum: 0.8}\ndistillation: {tau: 5, weight: 0.1}\n")
    assignments = ("optimizer.lr=0.3", "distillation.tau=6", "seed=2")
    recipe = load(config, assignments, {"distillation.tau": 7.0, "seed": 0})
    assert recipe.optimizer.weight_decay == 2e-4  # default
    assert (recipe.optimizer.momentum, recipe.distillation.weight) == (0.8, 0.1)  # YAML
    assert recipe.optimizer.lr == 0.3  # --set over YAML
    assert (recipe.distillation.tau, recipe.seed) == (7.0, 0)  # option over --set, 0 is an option too


def test_an_option_that_was_not_given_changes_nothing():
    assert load(None, ("seed=4",), {"seed": None, "data.root": None}).seed == 4


def test_the_later_of_two_assignments_wins():
    assert load(None, ("seed=4", "seed=5")).seed == 5


def test_an_assignment_is_read_as_yaml():
    recipe = load(None, ("schedule.milestones=[3, 4]", "data.imbalance=null", "views.flip=false"))
    assert recipe.schedule.milestones == (3, 4)
    assert recipe.data.imbalance is None
    assert recipe.views.flip is False


def test_an_assignments_value_may_hold_an_equals_sign():
    assert load(None, ("data.root=a=b",)).data.root == "a=b"


@pytest.mark.parametrize("text", ["2e-4", "2E-4", "0.0002", "'2e-4'", "+2e-04"])
def test_a_number_may_be_written_as_people_write_it(text):
    assert load(write(f"optimizer: {{weight_decay: {text}}}\n")).optimizer.weight_decay == 2e-4
    assert load(None, (f"optimizer.weight_decay={text}",)).optimizer.weight_decay == 2e-4


def test_a_whole_number_will_do_for_a_fraction():
    tau = load(None, ("distillation.tau=6",)).distillation.tau
    assert tau == 6.0 and type(tau) is float


@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf", "nan", "inf", "-Infinity"])
@pytest.mark.parametrize("key", ["optimizer.lr", "distillation.tau", "data.imbalance", "distillation.weight"])
def test_nan_and_infinity_are_refused(key, value):
    assert key in faults(f"{key}={value}")


def test_nan_in_a_list_is_refused():
    assert "model.input.std" in faults("model.input.std=[0.2, .nan, 0.2]")


def test_all_faults_are_reported_together_with_their_key_paths():
    config = write(
        "sead: 1\n"
        "seed: -1\n"
        "data: {imbalance: 0.5, colour: red}\n"
        "views: 3\n"
        "model: {name: vgg16, input: {mean: [0.5, 0.5, 2]}}\n"
        "optimizer: {lr: fast, momentum: 1}\n"
        "schedule: {epochs: 2.5, milestones: 3, gamma: true}\n"
        "distillation: {tau: 0, power: 1.5, weight: 2, student_tau: -1}\n"
    )
    with pytest.raises(RecipeError) as caught:
        load(config, ("teacher.loss=focal",))
    message = str(caught.value)
    assert caught.value.exit_code == 2
    assert "\n" not in message
    assert message.startswith("mine.yaml: ")
    reported = message.removeprefix("mine.yaml: ").split("; ")
    assert [fault.split(" ")[0] for fault in reported] == [
        "sead",
        "seed",
        "data.imbalance",
        "data.colour",
        "views",
        "model.name",
        "model.input.mean",
        "optimizer.lr",
        "optimizer.momentum",
        "schedule.epochs",
        "schedule.milestones",
        "schedule.gamma",
        "distillation.tau",
        "distillation.power",
        "distillation.weight",
        "distillation.student_tau",
        "teacher.loss",
    ]


def test_an_unknown_key_is_answered_with_the_known_ones():
    message = faults("optimizer.learning_rate=0.1")
    assert "optimizer.learning_rate is not a known key" in message
    for known in ("lr", "momentum", "weight_decay"):
        assert known in message


@pytest.mark.parametrize(
    ("assignment", "wanted"),
    [
        ("seed=1.0", "a whole number"),
        ("seed=true", "a whole number"),
        ("seed='1'", "a whole number"),
        ("seed=null", "a whole number"),
        ("views.flip=1", "true or false"),
        ("data.root=5", "a string"),
        ("data.root=null", "a string"),
        ("optimizer.lr=true", "a number"),
        ("optimizer.lr=[0.1]", "a number"),
        ("schedule.milestones=[1, x]", "a whole number"),
        ("schedule.milestones=12", "a list"),
        ("model.input.mean=text", "a list"),
        ("data=5", "a mapping"),
        ("data=null", "a mapping"),
        ("seed.deeper=5", "a whole number"),
    ],
)
def test_a_wrong_type_is_refused_and_the_right_one_named(assignment, wanted):
    message = faults(assignment)
    assert assignment.split("=")[0].split(".deeper")[0] in message
    assert f"must be {wanted}" in message


@pytest.mark.parametrize(
    "assignment",
    [
        "distillation.tau=0",
        "distillation.tau=-3",
        "distillation.power=0",
        "distillation.power=1.0001",
        "distillation.weight=-0.01",
        "distillation.weight=1.01",
        "distillation.student_tau=0",
        "data.imbalance=0.99",
        "views.size=4",
        "model.input.std=[0.2, 0, 0.2]",
        "model.input.mean=[0.5, 0.5, 1.1]",
        "schedule.epochs=0",
        "schedule.batch_size=0",
        "schedule.warmup_epochs=-1",
        "schedule.milestones=[0, 10]",
        "optimizer.lr=0",
        "optimizer.weight_decay=-1e-9",
        "views.pad=-1",
        "seed=-1",
        "seed=9223372036854775808",
        "data.kind=imagenet",
        "views.kind=rotate",
        "precision=fp16",
        "teacher.loss=mse",
        "teacher.label_smoothing=1",
        "teacher.label_smoothing=-0.1",
        "schedule.accumulate=0",
        "schedule.accumulate=1025",
        "schedule.accumulate=1.5",
        "optimizer.body_factor=-1",
        "optimizer.clip_norm=0",
        "model.name=resnet18",
        "model.name=resnet2",
        "model.name=resnet",
        "model.name=32",
        "name=a/b",
        "name=..",
        "name=.hidden",
        "name=''",
    ],
)
def test_a_value_out_of_range_is_refused(assignment):
    assert assignment.split("=")[0] in faults(assignment)


@pytest.mark.parametrize(
    "assignment",
    [
        "distillation.tau=1e-3",
        "distillation.power=1",
        "distillation.weight=0",
        "distillation.weight=1",
        "data.imbalance=1",
        "schedule.epochs=160",
        "schedule.warmup_epochs=0",
        "schedule.warmup_epochs=200",
        "schedule.milestones=[]",
        "optimizer.momentum=0",
        "optimizer.clip_norm=1",
        "optimizer.clip_norm=null",
        "teacher.label_smoothing=0.9",
        "schedule.accumulate=128",
        "optimizer.weight_decay=0",
        "views.pad=0",
        "seed=9223372036854775807",
        "model.name=resnet8",
        "model.name=resnet110",
    ],
)
def test_a_value_on_the_edge_of_its_range_is_taken(assignment):
    key, value = assignment.split("=")
    found = load(None, (assignment,)).as_dict()
    for part in key.split("."):
        found = found[part]
    assert found == yaml.safe_load(value) or found == float(value)


def test_keys_that_contradict_each_other_are_refused():
    assert "model.input.mean must have 1 value for digits" in faults("data.kind=digits", "views.flip=false")
    assert "views.flip must be false" in faults(
        "data.kind=digits", "model.input.mean=[0.3]", "model.input.std=[0.3]"
    )
    assert "model.input.std must have 3 values" in faults("model.input.std=[0.2]")
    assert "schedule.milestones must increase" in faults("schedule.milestones=[160, 120]")
    assert "schedule.milestones must increase" in faults("schedule.milestones=[120, 120]")
    assert "schedule.milestones [120, 160] lie beyond" in faults("schedule.epochs=159")
    assert "schedule.warmup_epochs must not exceed" in faults("schedule.warmup_epochs=201")
    assert "schedule.accumulate must not exceed" in faults("schedule.accumulate=129")
    assert "optimizer.body_factor is for a network that starts from" in faults("optimizer.body_factor=0.1")


def test_a_body_factor_belongs_to_a_network_that_begins_with_weights():
    for kind in KINDS["optimizer"]:
        chosen = (f"optimizer.kind={kind}", "optimizer.body_factor=0.1")
        assert load(None, (*chosen, "model.weights=w.pt")).optimizer.body_factor == 0.1
        assert "optimizer.body_factor" in faults(*chosen)


def test_adamw_has_its_own_keys_and_defaults():
    assert load(None, ("optimizer.kind=adamw",)).optimizer == AdamW(
        lr=1e-3, weight_decay=0.05, body_factor=1.0, clip_norm=None, betas=(0.9, 0.999), eps=1e-8
    )
    message = faults("optimizer.kind=adamw", "optimizer.betas=[0.9]", "optimizer.eps=0")
    assert "optimizer.betas must be 2 numbers (0 to 0.9999, 0 to 0.999999)" in message
    assert "optimizer.eps must be >= 1e-12 and <= 1" in message
    assert "optimizer.betas" in faults("optimizer.kind=adamw", "optimizer.betas=[0.9, 1]")
    below = write("optimizer: {lr: 0.3, momentum: 0.5}\n")
    assert load(below, ("optimizer.kind=adamw",)).optimizer == AdamW()


@pytest.mark.parametrize("assignment", ["seed", "=3", " =3", "seed=[1", "seed={"])
def test_an_assignment_that_is_none_is_refused(assignment):
    assert repr(assignment) in faults(assignment)


def test_a_config_that_cannot_be_read_is_refused_by_name():
    with pytest.raises(RecipeError, match=r"cannot read the config absent\.yaml"):
        load(Path("absent.yaml"))
    with pytest.raises(RecipeError, match="it is a folder, not a regular file"):
        load(Path("."))
    Path("binary.yaml").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(RecipeError, match=r"binary\.yaml is not a text file in UTF-8"):
        load(Path("binary.yaml"))
    with pytest.raises(RecipeError, match=r"mine\.yaml is not valid YAML"):
        load(write("seed: [1, 2\n"))
    with pytest.raises(RecipeError, match=r"mine\.yaml is not valid YAML"):
        load(write("data: !!python/object/apply:os.getcwd []\n"))
    with pytest.raises(RecipeError, match=r"mine\.yaml must hold a mapping .* not a list"):
        load(write("- seed\n"))


@pytest.mark.parametrize("value", ["2024-13-45", "1" + "0" * 5000], ids=["no such date", "5001 digits"])
def test_a_value_yaml_itself_chokes_on_is_refused(value):
    faults(f"name={value}")


def test_a_config_yaml_itself_chokes_on_is_refused():
    with pytest.raises(RecipeError, match=r"mine\.yaml"):
        load(write("name: 2024-13-45\n"))


def test_a_whole_number_beyond_every_float_is_out_of_range():
    assert "seed" in faults("seed=1" + "0" * 400)


def test_a_name_no_file_can_have_is_refused():
    assert "name" in faults(r'name="a\0b"')


def test_another_length_keeps_the_share_of_warm_up_and_milestones():
    recipe = with_epochs(Recipe(), 400)
    assert recipe.schedule.epochs == 400
    assert recipe.schedule.warmup_epochs == 10
    assert recipe.schedule.milestones == (240, 320)
    assert with_epochs(Recipe(), 40).schedule.milestones == (24, 32)
    assert with_epochs(Recipe(), 40).schedule.warmup_epochs == 1
    assert with_epochs(Recipe(), 200) == Recipe()


def test_another_length_changes_nothing_else():
    recipe = load(None, ("seed=5", "optimizer.lr=0.3", "schedule.batch_size=64"))
    longer = with_epochs(recipe, 300)
    assert [d.split(":")[0] for d in differences(recipe.as_dict(), longer.as_dict())] == [
        "schedule.epochs",
        "schedule.milestones",
        "schedule.warmup_epochs",
    ]


@given(st.integers(1, 2000))
def test_any_number_of_epochs_makes_a_recipe(epochs):
    schedule = with_epochs(Recipe(), epochs).schedule
    assert abs(schedule.warmup_epochs - 5 * epochs / 200) <= 0.5
    assert 1 <= len(schedule.milestones) <= 2
    for milestone, share in zip(reversed(schedule.milestones), (0.8, 0.6), strict=False):
        assert abs(milestone - share * epochs) <= 0.5 or milestone == 1


def test_no_epochs_at_all_is_refused():
    with pytest.raises(RecipeError, match=r"--epochs: schedule\.epochs"):
        with_epochs(Recipe(), 0)


def test_differences_name_each_key_that_differs():
    old = load().as_dict()
    new = load(None, ("seed=1", "data.imbalance=50", "distillation.tau=6")).as_dict()
    assert differences(old, old) == []
    assert differences(old, new) == [
        "data.imbalance: 100.0, now 50.0",
        "distillation.tau: 3.0, now 6.0",
        "seed: 0, now 1",
    ]
    assert differences({"a": 1}, {"b": {"c": 2}}) == ["a: 1, now None", "b: None, now {'c': 2}"]


def test_hashes_that_differ_are_shortened_for_people():
    found = differences({"hash": "0123456789ab" + "c" * 52}, {"hash": "f" * 64})
    assert found == ["hash: 0123456789ab, now ffffffffffff"]


def test_merging_leaves_both_documents_as_they_were():
    below, above = {"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 9}, "e": 4}
    assert merge(below, above) == {"a": {"b": 9, "c": 2}, "d": 3, "e": 4}
    assert below == {"a": {"b": 1, "c": 2}, "d": 3} and above == {"a": {"b": 9}, "e": 4}


positive = st.floats(1e-6, 1e6)
share = st.floats(0, 1)
seed = st.integers(0, 2**63 - 1)


@st.composite
def documents(draw) -> dict:
    """Nested plain values of a valid recipe, some keys left out."""
    kind = draw(st.sampled_from(["cifar100", "cifar10", "folder", "digits"]))
    grey = kind == "digits"
    triple = lambda values: st.lists(values, min_size=1 if grey else 3, max_size=1 if grey else 3)  # noqa: E731
    size = st.none() | st.integers(8, 1024)
    root = {"root": st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=10)}
    sections = {
        "name": st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True),
        "seed": seed,
        "precision": st.sampled_from(["auto", "fp32", "tf32", "bf16"]),
        "data": st.fixed_dictionaries(
            {"kind": st.just(kind)},
            optional={"imbalance": st.none() | st.floats(1, 1e4), "seed": seed} | ({} if grey else root),
        ),
        "views": st.fixed_dictionaries(
            {"flip": st.just(False) if grey else st.booleans()},
            optional={
                "kind": st.just("crop_flip") if grey else st.sampled_from(["crop_flip", "autoaugment"]),
                "pad": st.integers(0, 64),
                "size": size,
                "seed": seed,
            },
        ),
        "model": st.fixed_dictionaries(
            {
                "input": st.fixed_dictionaries(
                    {"mean": triple(share), "std": triple(positive)}, optional={"size": size}
                )
            },
            optional={"name": st.sampled_from(["resnet8", "resnet110"])},
        ),
        "optimizer": st.fixed_dictionaries(
            {}, optional={"kind": st.just("sgd"), "lr": positive, "momentum": st.floats(0, 0.9999)}
        )
        | st.fixed_dictionaries(
            {"kind": st.just("adamw")},
            optional={
                "lr": positive,
                "betas": st.tuples(st.floats(0, 0.9999), st.floats(0, 0.999999)).map(list),
                "clip_norm": st.none() | st.floats(1e-6, 1e6),
            },
        ),
        "teacher": st.fixed_dictionaries(
            {}, optional={"loss": st.sampled_from(["bsce", "ce"]), "label_smoothing": st.floats(0, 0.9999)}
        ),
        "schedule": st.fixed_dictionaries(
            {},
            optional={
                "epochs": st.integers(200, 1000),
                "batch_size": st.integers(1, 4096),
                "warmup_epochs": st.integers(0, 100),
                "milestones": st.sets(st.integers(1, 200), max_size=4).map(sorted),
                "gamma": share,
            },
        ),
        "distillation": st.fixed_dictionaries(
            {},
            optional={
                "tau": positive,
                "power": st.floats(1e-6, 1),
                "student_tau": st.none() | positive,
                "weight": share,
            },
        ),
    }
    required = {key: sections[key] for key in ("data", "views", "model")}
    optional = {key: value for key, value in sections.items() if key not in required}
    return draw(st.fixed_dictionaries(required, optional=optional))


@given(documents())
def test_a_recipe_survives_the_way_through_plain_values_json_and_yaml(document):
    recipe = build(document)
    plain = recipe.as_dict()
    assert build(plain) == recipe
    assert build(json.loads(json.dumps(plain))) == recipe
    assert build(yaml.safe_load(yaml.safe_dump(plain))) == recipe


def leaves(document: dict, prefix: str = "") -> dict[str, object]:
    """A nested document's values by their dotted keys."""
    found = {}
    for key, value in document.items():
        found |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


@given(documents())
def test_what_a_document_says_is_what_the_recipe_holds(document):
    defaults = Recipe().as_dict()
    for part, kinds in KINDS.items():
        kind = document.get(part, {}).get("kind", next(iter(kinds)))
        defaults[part] = plain(dataclasses.asdict(kinds[kind]()))
    assert leaves(build(document).as_dict()) == leaves(defaults) | leaves(document)


LAYERS = {
    # what lies below, what is laid over it, and the data it makes
    "the same kind": ({"kind": "digits", "imbalance": 20, "seed": 3}, {"kind": "digits", "seed": 4}, (20, 4)),
    "no kind above": ({"kind": "digits", "imbalance": 20, "seed": 3}, {"imbalance": 10}, (10, 3)),
    "another kind": (
        {"kind": "digits", "imbalance": 20, "seed": 3},
        {"kind": "folder", "seed": 4},
        (None, 4),
    ),
    "no kind below, the default above": ({"imbalance": 20, "seed": 3}, {"kind": "cifar100"}, (20, 3)),
    "no kind below, another above": ({"imbalance": 20, "seed": 3}, {"kind": "cifar10"}, (100, 0)),
    "nothing below": ({}, {"kind": "digits"}, (50, 0)),
    "no kind at all": ({"imbalance": 20}, {"seed": 4}, (20, 4)),
}


@pytest.mark.parametrize("case", LAYERS)
@pytest.mark.parametrize("way", ["a config over its base", "--set over a config", "an option over --set"])
def test_layers_of_one_kind_are_merged_and_another_kind_starts_anew(case, way):
    below, above, (imbalance, seed) = LAYERS[case]
    kind = above.get("kind", below.get("kind", "cifar100"))
    grey = {"model": {"input": {"mean": [0.3], "std": [0.3]}}, "views": {"flip": False}}
    rest = grey if kind == "digits" else {}
    dotted = [{f"data.{key}": value for key, value in data.items()} for data in (below, above)]
    assigned = [tuple(f"{key}={value}" for key, value in data.items()) for data in dotted]
    if way == "a config over its base":
        write(yaml.safe_dump({"data": below, **rest}), "base.yaml")
        recipe = load(write(yaml.safe_dump({"base": "base.yaml", "data": above})))
    elif way == "--set over a config":
        recipe = load(write(yaml.safe_dump({"data": below, **rest})), assigned[1])
    else:
        recipe = load(write(yaml.safe_dump(rest)), assigned[0], dotted[1])
    made = {"cifar100": Cifar100, "digits": Digits, "folder": Folder}.get(kind)
    assert (recipe.data.kind, recipe.data.imbalance, recipe.data.seed) == (kind, imbalance, seed)
    assert made is None or recipe.data == made(imbalance=imbalance, seed=seed)


def test_three_layers_are_laid_over_each_other_one_by_one():
    write("data: {kind: folder, root: a, imbalance: 9, seed: 1}\n", "bottom.yaml")
    write("base: bottom.yaml\ndata: {kind: cifar10, seed: 2}\n", "middle.yaml")
    recipe = load(write("base: middle.yaml\ndata: {kind: folder, root: b}\n"))
    assert recipe.data == Folder(root="b", imbalance=None, seed=0)
    assert laid_over([{"data": {"seed": 1}}, {"data": {"kind": "cifar10"}}, {"data": {"root": "x"}}]) == {
        "data": {"kind": "cifar10", "root": "x"}
    }


@pytest.mark.parametrize("part", ["views", "optimizer"])
def test_every_part_in_kinds_is_merged_by_kind(part):
    default, key, value = {"views": ("crop_flip", "pad", 2), "optimizer": ("sgd", "lr", 0.5)}[part]
    below = {part: {key: value}}
    for above in ({}, {"kind": default}):
        assert getattr(getattr(load(below, (f"{part}={json.dumps(above)}",)), part), key) == value
    assert laid_over([below, {part: {"kind": "another"}}]) == {part: {"kind": "another"}}


def test_views_of_another_kind_start_from_its_defaults():
    below = {"views": {"pad": 2, "flip": False, "size": 16, "seed": 7}}
    assert load(below).views == CropFlip(pad=2, flip=False, size=16, seed=7)
    assert load(below, ("views.kind=autoaugment",)).views == AutoAugment()
    assert load(below, ("views.kind=autoaugment", "views.size=24")).views == AutoAugment(size=24)


def test_assignments_are_one_layer_whatever_their_order():
    config = write("data: {kind: cifar10, imbalance: 20}\n")
    assignments = ("data.root=pictures", "data.kind=folder", "data.seed=5")
    for order in itertools.permutations(assignments):
        assert load(config, order).data == Folder(root="pictures", imbalance=None, seed=5)


def test_pictures_of_every_kind_of_data_may_be_brought_to_a_size():
    for kind in KINDS["data"]:
        grey = GREY if kind == "digits" else ()
        assert load(None, (f"data.kind={kind}", *grey, "views.size=64")).views.size == 64


def test_a_key_that_was_renamed_is_refused_with_its_new_name():
    now = {
        "data.source": "data.kind",
        "data.path": "data.root",
        "data.size": "views.size",
        "data.mean": "model.input.mean",
        "data.std": "model.input.std",
    }
    assert now == RENAMED
    for old, new in now.items():
        assert faults(f"{old}=8") == f"the recipe: {old} is called {new} now"
        section, _, key = old.partition(".")
        with pytest.raises(
            RecipeError, match=rf"mine\.yaml: {re.escape(old)} is called {re.escape(new)} now$"
        ):
            load(write(f"{section}: {{{key}: 8}}\n"))
        known = keys_of(Recipe) + [
            k for part, kinds in KINDS.items() for k in keys_of(kinds[next(iter(kinds))], f"{part}.")
        ]
        assert new in known and old not in known


@pytest.mark.parametrize(
    ("assignments", "refused", "known"),
    [
        (("data.kind=digits", *GREY, "data.root=x"), "data.root", "kind, imbalance, seed"),
        (
            ("data.kind=folder", "data.classes=3"),
            "data.classes",
            "kind, imbalance, seed, root, test_share, val_share",
        ),
        (("views.kind=autoaugment", "views.magnitude=9"), "views.magnitude", "kind, size, seed, pad, flip"),
        (
            ("optimizer.kind=sgd", "optimizer.betas=[0.9, 0.99]"),
            "optimizer.betas",
            "kind, lr, weight_decay, body_factor, clip_norm, momentum",
        ),
        (
            ("optimizer.kind=adamw", "optimizer.momentum=0.9"),
            "optimizer.momentum",
            "kind, lr, weight_decay, body_factor, clip_norm, betas, eps",
        ),
    ],
)
def test_a_key_that_its_kind_does_not_have_is_refused_with_those_it_has(assignments, refused, known):
    assert faults(*assignments) == f"the recipe: {refused} is not a known key (known here: {known})"


@pytest.mark.parametrize("part", KINDS)
@pytest.mark.parametrize("value", ["another", "[]", "{}", "3", "null", '"\\0"', "true"])
def test_a_kind_that_there_is_not_is_refused_with_those_there_are(part, value):
    message = faults(f"{part}.kind={value}")
    assert f"{part}.kind must be one of {', '.join(KINDS[part])}, not " in message
    assert message.count("; ") == 0


def test_the_default_of_a_part_is_the_first_of_its_kinds():
    for part, kinds in KINDS.items():
        first, *_ = kinds
        assert getattr(Recipe(), part) == kinds[first]() and getattr(Recipe(), part).kind == first
        assert all(cls().kind == kind for kind, cls in kinds.items())


def test_a_key_given_twice_is_refused_rather_than_the_last_taken():
    with pytest.raises(RecipeError, match="epochs is given twice"):
        load(write("schedule:\n  epochs: 10\n  epochs: 20\n"))


def in_little_time(path: Path) -> str:
    """The complaint about a config, which must not cost more than a second."""
    begin = time.process_time()
    with pytest.raises(RecipeError) as caught:
        load(path)
    assert time.process_time() - begin < 1
    message = str(caught.value)
    assert str(path) in message and len(message) < 4000 and "\n" not in message
    return message


LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{below}'] * 9)}]\n"
    for below, name in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{name}: &{name} {{<<: [{','.join([f'*{below}'] * 9)}]}}\n"
    for below, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (LAUGHS + "name: *i\n", "more than 10000 values"),
        (MERGES, "more than 10000 values"),
        ("name: &a [*a]\n", "an alias is within the value that it refers to"),
        ("".join(f"k{i}: 1\n" for i in range(60_000)), "has more than 100 kB"),
        ("".join(f"{i}: 1\n" for i in range(9_000)), "more than 10000 values"),
        ("name: " + "[" * 30_000, "more than 20 levels deep"),
        ("name: " + "{a: " * 30 + "}" * 30, "more than 20 levels deep"),
        ("name: " + "x" * 90_000, "name must be usable as a file name"),
        ("seed: 0x" + "f" * 5000, "seed must be a whole number"),
        ("seed: 1" + "0" * 5000, "seed must be a whole number"),
        ("".join(f"k{i}: 1\n" for i in range(3_000)), "and 2980 more"),
        ("? " + "k" * 90_000 + "\n: 1\n", "is not a known key"),
        ("#" * 200_000, "has more than 100 kB"),
    ],
    ids=lambda value: value[:12] if len(value) > 30 else None,
)
def test_a_config_without_measure_is_refused_in_one_line_and_little_time(text, named):
    assert named in in_little_time(write(text))


def test_an_alias_may_still_save_some_writing():
    recipe = load(write("model: {input: &d {mean: &v [0.5, 0.5, 0.5], std: *v}}\n"))
    assert recipe.model.input.mean == recipe.model.input.std == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("kind", ["a FIFO", "a device", "a folder"])
@pytest.mark.parametrize("role", ["config", "base"])
def test_a_config_or_base_that_is_no_regular_file_is_refused_before_it_is_opened(kind, role):
    path = Path({"a FIFO": "pipe", "a device": "/dev/zero", "a folder": "folder"}[kind])
    if kind == "a FIFO":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
    with pytest.raises(RecipeError, match=f"cannot read the config {path}: it is {kind}, not a regular file"):
        load(path if role == "config" else write(f"base: {path}\n"))


@pytest.mark.parametrize(("base", "shown"), [(r"a\0b", "a\0b"), (r"\ud800", "\ud800")])
def test_a_base_no_file_can_be_called_is_refused(base, shown):
    with pytest.raises(RecipeError, match="no file can have this name") as caught:
        load(write(f'base: "{base}"\n'))
    assert shown in str(caught.value)


def test_bases_of_bases_come_to_an_end():
    for i in range(100):
        write(f"base: {i + 1}.yaml\n", f"{i}.yaml")
    with pytest.raises(RecipeError, match=r"0\.yaml has more than 10 bases"):
        load(Path("0.yaml"))


@pytest.mark.parametrize("key", ["seed", "optimizer.lr", "schedule.milestones"])
@pytest.mark.parametrize(
    ("text", "instead"),
    [
        ("010", "10"),
        ("1:30", "it in decimal digits"),
        ("٣", "3"),
        ("1_000", "1000"),
        ("0x10", "16"),
        ("0b11", "3"),
        ("0o17", "15"),
        ("１２", "12"),
    ],
)
def test_a_number_that_yaml_or_python_reads_as_another_is_refused(key, text, instead):
    value = f"[{text}]" if key == "schedule.milestones" else text
    section, _, rest = key.rpartition(".")
    document = f"{section}: {{{rest}: {value}}}\n" if section else f"{rest}: {value}\n"
    with pytest.raises(RecipeError) as caught:
        load(write(document))
    for message in (str(caught.value), faults(f"{key}={value}")):
        assert f"{key} must be a" in message and f"not {text!r}; write {instead}" in message


@pytest.mark.parametrize("tag", ["!!int 0x10", "!!float 1:30", "!!int ٣"])
def test_a_tag_makes_no_number_of_another_notation(tag):
    assert "; write " in faults(f"seed={tag}")


def test_a_text_that_looks_like_another_notation_is_the_text():
    assert load(None, ("name=010",)).name == "010"
    assert load(None, ("data.root=1_000",)).data.root == "1_000"


# Every key of a recipe, those of a kind beside what chooses the kind.
KEYS = [pytest.param((), key, id=key) for key in keys_of(Recipe)]
for part, kinds in KINDS.items():
    for kind, cls in kinds.items():
        chosen = (f"{part}.kind={kind}", *(GREY if kind == "digits" else ()))
        KEYS += [pytest.param(chosen, key, id=f"{kind}:{key}") for key in keys_of(cls, f"{part}.")]
NO_ZERO = (
    "optimizer.lr",
    "model.input.std",
    "distillation.tau",
    "distillation.power",
    "distillation.student_tau",
)
EXTREMES = ["1e300", "-1e300", "1e-300", "5e-324", "1" + "0" * 300, "-1", ".inf", ".nan", "0", '"\\ud800"']
EXTREMES += ['"\\0"', "[]", "{}", "null", "[1e300, 1e300, 1e300]", "!!binary aaaa", "!!set {a}", "2024-01-01"]


@pytest.mark.parametrize(("chosen", "key"), KEYS)
def test_every_key_at_its_extremes_is_taken_or_refused_in_one_short_line(chosen, key):
    load(None, chosen)
    for value in EXTREMES:
        try:
            recipe = load(None, (*chosen, f"{key}={value}"))
        except RecipeError as error:
            assert key.partition(".")[0] in str(error) and len(str(error)) < 600
        else:
            text = json.dumps(recipe.as_dict(), ensure_ascii=False, allow_nan=False)
            assert build(json.loads(text.encode())) == recipe
            for number in re.findall(r"\d+\.\d+(?:e[-+]?\d+)?|\d+e[-+]?\d+", text):
                assert float(number) < 1e10, text
                if key in NO_ZERO:  # in float32 it would be one
                    assert float(number) == 0 or float(number) > 1e-13, text


@pytest.mark.parametrize("key", ["tau", "student_tau"])
def test_temperatures_have_the_bounds_of_the_tune_step(key):
    for value in ("1e-6", "1e6"):
        assert getattr(load(None, (f"distillation.{key}={value}",)).distillation, key) == float(value)
    for value in ("9e-7", "1.1e6", "1e300", "1e-300", "nan", "inf"):
        assert f"distillation.{key} must be >= 1e-06 and <= 1e+06" in faults(f"distillation.{key}={value}")


def test_a_network_of_absurd_depth_is_refused():
    assert load(None, ("model.name=resnet1202",)).model.name == "resnet1202"
    for name in ("resnet1208", "resnet99998", "resnet" + "9" * 5000, "resnet٨", "resnet08"):
        assert "model.name must be resnetN with N = 6n+2, at most 1202" in faults(f"model.name={name}")


def test_a_path_that_cannot_be_recorded_is_refused_and_shown_escaped():
    with pytest.raises(RecipeError, match=r"data\.root must be a path in UTF-8, not 'b\\xe4r'"):
        load(None, (), {"data.root": os.fsdecode(b"b\xe4r")})
    assert r"data.root must be a path in UTF-8, not '\ud800'" in faults(r'data.root="\ud800"')
    assert r"data.root must be a path without NUL characters, not 'a\x00b'" in faults(r'data.root="a\0b"')
    assert r"name must be usable as a file name" in faults(r'name="\ud800"')


def test_a_name_of_many_bytes_is_refused_before_the_file_system_does():
    assert load(None, (f"name={'ä' * 100}",)).name == "ä" * 100
    assert "name must be usable" in faults(f"name={'語' * 70}")


@pytest.mark.parametrize(
    ("assignments", "key"),
    [
        (("schedule.epochs=0",), "schedule.epochs"),
        (("schedule.epochs=ten", "schedule.milestones=[300]"), "schedule.epochs"),
        (("schedule.epochs=[", "schedule.milestones=[300]"), "--set"),
        (("schedule.epochs=0", "schedule.warmup_epochs=300"), "schedule.epochs"),
        (("schedule.epoch=400", "schedule.milestones=[300]"), "schedule.epoch "),
        (("schedule.epoch=400", "schedule.warmup_epochs=300"), "schedule.epoch "),
        (("schedule=400",), "schedule "),
        (("schedule.iterations=x", "schedule.epochs=null"), "schedule.iterations"),
        (("schedule.iterations=0", "schedule.epochs=null", "schedule.warmup_iterations=9"), "schedule.iter"),
        (("schedule.decay=stairs", "schedule.milestones=[300]", "schedule.epochs=400"), "schedule.decay"),
        (("schedule.milestones=[0, 500]",), "schedule.milestones"),
        (("schedule.warmup_epochs=-1",), "schedule.warmup_epochs"),
        (
            ("data.kind=imagenet", "views.size=64", "model.input.mean=[0.5]", "model.input.std=[0.5]"),
            "data.kind",
        ),
        (
            ("data.kind=digits", "model.input.mean=2", "model.input.std=[0.3]", "views.flip=false"),
            "model.input.mean",
        ),
        (("data.sorce=digits", "model.input.mean=[0.3]", "model.input.std=[0.3]"), "data.sorce"),
        (
            ("data.kind=digits", "model.input.mean=[0.3]", "model.input.std=[0.3]", "views.flip=7"),
            "views.flip",
        ),
    ],
)
def test_a_key_at_fault_invents_no_second_fault(assignments, key):
    message = faults(*assignments).removeprefix("the recipe: ")
    assert message.startswith(key) and "; --epochs" not in message
    assert len([part for part in message.split("; ") if " must " in part or " lie " in part]) <= 1, message


def test_sound_keys_are_compared_though_others_are_at_fault():
    message = faults("optimizer.lr=0", "seed=x", "schedule.epochs=100", "model.input.std=[0.2]")
    assert message.count("; ") == 4  # four faults, of which the last ends with an advice
    for part in (
        "optimizer.lr",
        "seed",
        "model.input.std must have 3 values",
        "lie beyond schedule.epochs 100",
    ):
        assert part in message


NAN = float("nan")


@pytest.mark.parametrize(
    ("check", "sound", "wrong"),
    [
        (bounds.within(1, 3), (1, 2, 3, (), (1, 3)), (0.99, 3.01, NAN, (1, 3.01), (0.99, 3))),
        (bounds.interval(1, 3), ((1, 3), (2, 2)), ((0.99, 2), (2, 3.01), (3, 1), (2,), (1, 2, 3), (NAN, 2))),
        (
            bounds.numbers((0, 1), (0, 2)),
            ((0, 0), (1, 2)),
            ((1.01, 2), (1, 2.01), (-0.01, 0), (0, -0.01), (0,), (0, 0, 0), (NAN, 0)),
        ),
    ],
    ids=["within", "interval", "numbers"],
)
def test_the_ends_of_a_range_are_in_it_and_what_is_beyond_is_not(check, sound, wrong):
    assert [value for value in sound if check(value) is not None] == []
    assert [value for value in wrong if check(value) is None] == []
