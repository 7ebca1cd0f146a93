"""The recipe's part `student`: what it inherits from the teacher's, and what it is on its own."""

from dataclasses import replace

import pytest

from dive.errors import RecipeError
from dive.recipe.reading import build, load, with_epochs
from dive.recipe.recipe import AdamW, Model, Recipe, Schedule, Sgd, Student

LARGE = {
    "model": {
        "name": "torchvision/resnet50",
        "weights": "IMAGENET1K_V2",
        "head": "new",
        "input": {"size": 224, "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]},
    },
    "optimizer": {"lr": 0.01, "weight_decay": 1e-4},
    "schedule": {"epochs": 30, "warmup_epochs": 1, "decay": "cosine", "milestones": []},
}


def fault_of(document: dict) -> str:
    with pytest.raises(RecipeError) as caught:
        build(document)
    return str(caught.value)


def test_without_the_part_the_student_is_trained_as_the_teacher_and_no_record_has_it():
    recipe = build(LARGE)
    assert recipe.of_student == recipe.of_teacher == recipe
    assert "student" not in recipe.as_dict()


@pytest.mark.parametrize("nothing", [{}, {"model": None}, {"model": None, "optimizer": None}])
def test_a_part_that_says_nothing_is_no_part(nothing):
    assert build({**LARGE, "student": nothing}) == build(LARGE)


def test_another_network_has_its_own_weights_head_and_size_and_the_teachers_normalisation():
    recipe = build({**LARGE, "student": {"model": {"name": "resnet20"}}})
    student = recipe.of_student.model
    assert (student.name, student.weights, student.head, student.input.size) == ("resnet20", None, None, None)
    assert (student.input.mean, student.input.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert recipe.of_teacher.model == recipe.model == build(LARGE).model


def test_the_same_network_has_the_teachers_weights_and_input_but_for_what_is_given():
    recipe = build({**LARGE, "student": {"model": {"input": {"size": 160}}}})
    teacher = recipe.model
    assert recipe.of_student.model == replace(teacher, input=replace(teacher.input, size=160))


def test_keys_of_optimiser_and_schedule_are_laid_over_the_teachers():
    student = {"optimizer": {"lr": 0.5}, "schedule": {"epochs": 10, "warmup_epochs": 0}}
    found = build({**LARGE, "student": student}).of_student
    assert (found.optimizer.lr, found.optimizer.weight_decay) == (0.5, 1e-4)
    assert found.schedule == replace(build(LARGE).schedule, epochs=10, warmup_epochs=0)
    assert found.model == build(LARGE).model


def test_an_optimiser_of_another_kind_begins_from_its_own_defaults():
    recipe = build({**LARGE, "student": {"optimizer": {"kind": "adamw", "eps": 1e-6}}})
    assert recipe.of_student.optimizer == AdamW(eps=1e-6) and recipe.optimizer == build(LARGE).optimizer
    adamw = {**LARGE, "optimizer": {"kind": "adamw", "betas": [0.8, 0.9], "clip_norm": 2}}
    assert build({**adamw, "student": {"optimizer": {"lr": 0.1}}}).of_student.optimizer == AdamW(
        lr=0.1, betas=(0.8, 0.9), clip_norm=2.0
    )
    assert build({**adamw, "student": {"optimizer": {"kind": "sgd"}}}).of_student.optimizer == Sgd()


def test_a_student_without_weights_does_not_take_the_teachers_body_factor():
    tuned = {**LARGE, "optimizer": {"lr": 0.01, "body_factor": 0.1}}
    small = {"model": {"name": "resnet20"}}
    for more in ({}, {"optimizer": None}, {"optimizer": {"body_factor": 1}}):
        found = build({**tuned, "student": {**small, **more}})
        assert found.optimizer.body_factor == 0.1
        assert found.of_student.optimizer == replace(found.optimizer, body_factor=1.0)
    begun = {"model": {"name": "torchvision/resnet18", "weights": "DEFAULT"}}
    assert build({**tuned, "student": begun}).of_student.optimizer.body_factor == 0.1
    assert fault_of({**tuned, "student": {**small, "optimizer": {"body_factor": 0.5}}}).startswith(
        "the recipe: student.optimizer.body_factor is for a network that starts from model.weights"
    )


def test_what_belongs_to_both_stays_and_a_students_recipe_is_complete():
    recipe = build(
        {**LARGE, "seed": 4, "distillation": {"tau": 6}, "student": {"model": {"name": "resnet8"}}}
    )
    student = recipe.of_student
    assert (student.seed, student.distillation.tau, student.data) == (4, 6.0, recipe.data)
    assert student.student == Student() and student.of_student == student
    assert build(student.as_dict()) == student


def test_a_recipe_with_the_part_survives_the_way_through_plain_values():
    recipe = build({**LARGE, "student": {"model": {"name": "resnet20"}, "schedule": {"epochs": 7}}})
    assert build(recipe.as_dict()) == recipe


def test_layers_and_assignments_reach_into_the_part():
    recipe = load({**LARGE, "student": {"model": {"name": "resnet20"}}}, ("student.optimizer.lr=0.3",))
    assert (recipe.of_student.optimizer.lr, recipe.optimizer.lr) == (0.3, 0.01)
    assert recipe.of_student.model.name == "resnet20"


def test_another_length_of_the_students_run_is_of_its_own_schedule():
    student = {"schedule": {"epochs": 200, "decay": "steps", "milestones": [120, 160], "warmup_epochs": 5}}
    recipe = build({**LARGE, "student": student})
    shorter = with_epochs(recipe.of_student, 20).schedule
    assert (shorter.epochs, shorter.milestones, shorter.warmup_epochs) == (20, (12, 16), 0)
    longer = with_epochs(recipe, 60)
    assert longer.schedule.epochs == 60 and longer.student == recipe.student


def test_faults_are_told_by_their_key_and_once():
    told = fault_of({"optimizer": {"lr": -1}, "student": {"optimizer": {"momentum": 2}, "schedul": {}}})
    assert "optimizer.lr must be" in told and "student.optimizer.momentum must be" in told
    assert told.count("lr must be") == 1 and "known here: model, optimizer, schedule" in told


@pytest.mark.parametrize(
    ("student", "told"),
    [
        ({"schedule": {"epochs": 10}}, "student.schedule.milestones [120, 160] lie beyond"),
        ({"model": {"head": "keep"}}, "student.model.head is for the head of model.weights"),
        ({"model": {"input": {"mean": [0.5]}}}, "student.model.input.mean must have 3 values"),
        ({"model": "resnet20"}, "student.model must be a mapping"),
        ("resnet20", "student must be a mapping"),
        ({"optimizer": {"kind": "adagrad"}}, "student.optimizer.kind must be one of sgd"),
    ],
)
def test_a_fault_between_the_students_keys_is_the_students(student, told):
    assert told in fault_of({"student": student})


def test_a_contradiction_that_the_student_inherits_is_told_once():
    told = fault_of({"schedule": {"epochs": 10}, "student": {"schedule": {"gamma": 0.1}}})
    assert told.count("milestones") == 1


def test_the_part_may_be_given_as_dataclasses():
    recipe = Recipe(
        student=Student(
            model=Model(name="resnet8"), schedule=Schedule(epochs=3, warmup_epochs=0, milestones=())
        )
    )
    assert recipe.of_student.model.name == "resnet8" and build(recipe.as_dict()) == recipe


def test_an_optimiser_of_another_kind_in_a_later_layer_begins_anew():
    """Of the student's too, whose kind is the teacher's where its own layers name none."""
    below = {"optimizer": {"lr": 0.01}, "student": {"optimizer": {"lr": 0.5, "momentum": 0.8}}}
    found = load(below, ("student.optimizer.kind=adamw",)).of_student.optimizer
    assert found == AdamW()
    kept = load(below, ("student.optimizer.kind=sgd",)).of_student.optimizer
    assert (kept.lr, kept.momentum) == (0.5, 0.8)
    of_teacher = load(
        {"optimizer": {"kind": "adamw"}, "student": {"optimizer": {"lr": 0.5}}},
        ("student.optimizer.kind=adamw",),
    )
    assert of_teacher.of_student.optimizer == AdamW(lr=0.5)
