"""Several students from one cache in one command, each as if it had been trained alone."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import chain
import pytest
import torch
from recorder import tf32_settings

from dive.errors import TrainingError
from dive.progress import Progress
from dive.training import loop
from dive.training.loop import Run
from dive.training.ranks import ALONE
from dive.training.spec import RunSpec
from dive.workflows import run
from dive.workflows.results import Result, TrainOptions

GRID = ("--tau", 3, 6, "--seed", 0, 1)
NAMES = [f"student-t{tau}-p0.5-w0.5-s{seed}.pt" for tau in (3, 6) for seed in (0, 1)]


def grid(digits, *arguments: object) -> chain.Outcome:
    return chain.dive(
        "student", *chain.DIGITS, "--epochs", 2, "--cache", digits.cache, "--out", "student.pt", *arguments
    )


def weights(path: Path | str) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["model"]


def same_weights(one: Path | str, other: Path | str) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def whole(digits, tmp_path_factory) -> Path:
    """The folder of a grid that nothing stopped."""
    folder = tmp_path_factory.mktemp("grid")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert grid(digits, *GRID).code == 0
    return folder


def test_every_combination_has_an_output_of_its_own(whole):
    assert sorted(path.name for path in whole.glob("*.pt")) == NAMES
    for name in NAMES:
        record = json.loads((whole / name).with_suffix(".json").read_text())
        d = record["recipe"]["distillation"]
        assert name == f"student-t{d['tau']:g}-p{d['power']:g}-w{d['weight']:g}-s{record['seed']}.pt"
        assert record["trained_together"] == 1


def test_a_student_of_a_grid_is_the_student_trained_alone(digits, whole):
    assert grid(digits, "--tau", 6, "--seed", 1).code == 0
    assert same_weights("student.pt", whole / NAMES[3])
    assert not same_weights("student.pt", whole / NAMES[1])


@dataclass
class OnGpu:
    """Runs of which a device takes so many side by side; that of seed 9 fails alone."""

    room: int
    tried: list[list[int]] = field(default_factory=list)

    def train(self, group: list[tuple[RunSpec, None]]) -> tuple[list[Result], list[TrainingError]]:
        seeds = [spec.seed for spec, _ in group]
        self.tried.append(seeds)
        if len(group) > self.room:
            raise loop.NoRoomTogether
        done = [Result(spec.out, {}, None) for spec, _ in group if spec.seed != 9]
        return done, [TrainingError("seed 9")] * (9 in seeds)


@pytest.mark.parametrize(
    ("room", "tried"),
    [
        (9, [[0, 1, 9, 3, 4]]),
        (3, [[0, 1, 9, 3, 4], [0, 1, 9], [3, 4]]),
        (1, [[0, 1, 9, 3, 4], [0, 1, 9], [0, 1], [0], [1], [9], [3, 4], [3], [4]]),
    ],
)
def test_students_that_a_gpu_has_no_memory_for_together_are_trained_some_at_a_time(room, tried, monkeypatch):
    gpu, told = OnGpu(room), []
    progress = Progress(quiet=True)
    monkeypatch.setattr(progress, "note", told.append)
    prepared = SimpleNamespace(device=torch.device("cuda", 0), ranks=ALONE)
    runs = run._Runs(prepared, TrainOptions(), progress, of_grid=True)
    monkeypatch.setattr(runs, "_before", lambda spec: (None, None))
    monkeypatch.setattr(runs, "_train", gpu.train)
    specs = [SimpleNamespace(out=Path(f"s{seed}.pt"), seed=seed) for seed in (0, 1, 9, 3, 4)]
    found = runs.trained(specs)
    assert gpu.tried == tried
    assert [result.path.name for result in found.results] == ["s0.pt", "s1.pt", "s3.pt", "s4.pt"]
    assert [str(failure) for failure in found.failures] == ["seed 9"]
    assert told == [
        f"no memory for {len(group)} students side by side; {-(-len(group) // 2)} at a time"
        for group in tried
        if len(group) > room
    ]


def out_of_memory() -> None:
    """As torch ends a capture that ran out of memory: with another error over the cause."""
    try:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has")
    finally:
        raise RuntimeError("CUDA error: operation failed due to a previous error during capture")


def test_a_capture_without_memory_ends_a_group_but_not_a_single_run(capsys):
    """One alone may still have room to train eagerly, without the memory of its graphs."""
    captured = []
    fits = SimpleNamespace(prepare=lambda: captured.append(1))
    with pytest.raises(loop.NoRoomTogether):
        loop._capture([fits, SimpleNamespace(prepare=out_of_memory)], Progress(quiet=True))
    assert captured == [1]
    loop._capture([SimpleNamespace(prepare=out_of_memory)], Progress(quiet=True))
    assert capsys.readouterr().err == (
        "warning: the step could not be captured as a CUDA graph and runs eagerly: "
        "CUDA out of memory. Tried to allocate 2.00 GiB.\n"
    )


def test_pairs_of_one_effective_temperature_stay_separate_students(digits):
    assert grid(digits, "--tau", 3, 6, "--power", 0.5, 1).code == 0
    names = ("student-t3-p0.5-w0.5-s0.pt", "student-t6-p1-w0.5-s0.pt")
    assert all(Path(name).exists() for name in names) and not same_weights(*names)


def test_the_table_has_a_row_for_each_student_and_sums_up_seeds(digits):
    outcome = grid(digits, *GRID, "--epochs", 1)
    for tau in (3, 6):
        for seed in (0, 1):
            record = json.loads(Path(f"student-t{tau}-p0.5-w0.5-s{seed}.json").read_text())
            (row,) = [
                line for line in outcome.out.splitlines() if f"(τ={tau}, p=0.5, w=0.5), seed {seed}" in line
            ]
            assert row.split()[-2] == f"{100 * record['accuracy']['all']:.2f}"
    assert outcome.out.count("2 seeds") == 2
    assert "of 4 students are above their teacher" in outcome.out


def test_json_is_one_document_of_all_students(digits):
    students = grid(digits, *GRID, "--epochs", 1, "--json").document["students"]
    assert [student["checkpoint"] for student in students] == NAMES


def test_a_stopped_grid_keeps_what_is_finished_and_goes_on_with_the_rest(digits, whole, monkeypatch):
    with chain.stopped_at(2 * 13 + 5):  # in the second student
        assert grid(digits, *GRID).code == 130
    first = Path(NAMES[0]).stat()
    assert [name for name in NAMES if Path(name).exists()] == NAMES[:1]
    assert grid(digits, *GRID).code == 0
    assert Path(NAMES[0]).stat().st_mtime_ns == first.st_mtime_ns
    assert all(same_weights(name, whole / name) for name in NAMES)


def test_a_finished_student_of_another_recipe_stops_the_grid_before_anything_is_trained(digits):
    assert grid(digits, *GRID, "--epochs", 1).code == 0
    for name in NAMES[1:]:
        Path(name).unlink()
    before = chain.files_under()
    complaint = grid(digits, *GRID).complaint
    assert NAMES[0] in complaint and "schedule.epochs: 1, now 2" in complaint and "--force" in complaint
    assert chain.files_under() == before


def test_force_trains_the_whole_grid_anew(digits):
    assert grid(digits, *GRID, "--epochs", 1).code == 0
    before = [Path(name).stat().st_mtime_ns for name in NAMES]
    assert grid(digits, *GRID, "--epochs", 1, "--force").code == 0
    assert all(Path(name).stat().st_mtime_ns > then for name, then in zip(NAMES, before, strict=True))


def test_a_grid_begun_with_force_is_resumed_without_it(digits, whole, monkeypatch):
    monkeypatch.setattr(loop, "SAVING_SHARE", float("inf"))
    arguments = ("--tau", 3, "--seed", 0, 1)
    assert grid(digits, *arguments, "--set", "optimizer.lr=0.01").code == 0
    forced = (*arguments, "--force")
    with chain.stopped_at(2 * 13 + 13 + 5):  # in the second epoch of the second student
        stopped = grid(digits, *forced)
    assert stopped.code == 130 and "interrupted; the same command without --force resumes" in stopped.err
    written = Path(NAMES[0]).stat().st_mtime_ns
    assert grid(digits, *arguments).code == 0
    assert Path(NAMES[0]).stat().st_mtime_ns == written and not list(Path().glob("*.state"))
    assert all(same_weights(name, whole / name) for name in NAMES[:2])


@pytest.mark.parametrize("before", [("--set", "optimizer.lr=0.01"), ()])
def test_students_that_a_forced_grid_had_not_begun_are_trained_when_it_is_resumed(digits, whole, before):
    """Whether their earlier results are of another recipe or of the same."""
    arguments = ("--tau", 3, "--seed", 0, 1)
    assert grid(digits, *arguments, *before).code == 0
    earlier = Path(NAMES[1]).stat().st_mtime_ns
    with chain.stopped_at(5):  # in the first epoch of the first student
        assert grid(digits, *arguments, "--force").code == 130
    assert Path(NAMES[1]).stat().st_mtime_ns == earlier
    assert grid(digits, *arguments).code == 0
    assert Path(NAMES[1]).stat().st_mtime_ns > earlier and not list(Path().glob("*.state"))
    assert all(same_weights(name, whole / name) for name in NAMES[:2])


def test_what_a_forced_grid_announced_is_of_no_use_beside_its_result(digits):
    """Killed between the last two moves, before any epoch was saved."""
    arguments = ("--tau", 3, "--seed", 0, 1, "--epochs", 1)
    assert grid(digits, *arguments, "--set", "optimizer.lr=0.01").code == 0
    with chain.stopped_at(5):
        assert grid(digits, *arguments, "--force").code == 130
    announced = Path(NAMES[0]).with_suffix(".state").read_bytes()
    assert grid(digits, *arguments).code == 0
    Path(NAMES[0]).with_suffix(".state").write_bytes(announced)
    written = Path(NAMES[0]).stat().st_mtime_ns
    assert grid(digits, *arguments).code == 0
    assert Path(NAMES[0]).stat().st_mtime_ns == written and not list(Path().glob("*.state"))


def test_a_damaged_state_beside_a_finished_student_stops_no_grid(digits):
    arguments = ("--tau", 3, "--seed", 0, 1, "--epochs", 1)
    assert grid(digits, *arguments).code == 0
    damaged = Path(NAMES[0]).with_suffix(".state")
    damaged.write_bytes(Path(NAMES[0]).read_bytes()[:-9])
    before = chain.files_under()
    assert grid(digits, *arguments).code == 0
    assert chain.files_under() == before


@pytest.mark.parametrize("options", [(), ("--eval-every", 1)])
def test_a_student_whose_logits_are_not_finite_fails_alone(digits, options, monkeypatch):
    """Its last step took its weights beyond float32, after a loss that was finite."""
    real = Run.end_epoch

    def overflowed(self: Run) -> None:
        if self.spec.seed == 0:
            for parameter in self.network.parameters():
                parameter.data.fill_(torch.inf)
        real(self)

    monkeypatch.setattr(Run, "end_epoch", overflowed)
    done = grid(digits, "--tau", 3, "--seed", 0, 1, "--epochs", 1, *options)
    assert done.code == 1 and done.err.splitlines()[-1].startswith(
        f"dive: {NAMES[0]}: after epoch 1 the network's logits of 359 of 359 images are not finite"
    )
    assert done.err.splitlines()[-1].endswith("with --force to start over")
    assert [path.name for path in Path().glob("*.pt")] == [NAMES[1]]


def test_a_value_given_twice_is_trained_once(digits):
    assert grid(digits, "--tau", 3, 3, "--epochs", 1).code == 0
    assert Path("student.pt").exists()


def test_eval_names_the_students_of_a_grid_where_there_is_none_of_the_recipes_own_name(digits):
    Path("checkpoints/digits_lt_bbn").mkdir(parents=True)
    for kind in ("teacher", "student"):
        place = Path(f"checkpoints/digits_lt_bbn/{kind}{'-t1' * (kind == 'student')}.pt")
        place.write_bytes(getattr(digits, kind).read_bytes())
    done = chain.succeed("eval", "--config", "digits_lt/bbn")
    folder = "checkpoints/digits_lt_bbn"
    told = f"there is no {folder}/student.pt yet; to evaluate others, give them: {folder}/student-t1.pt"
    assert told in done.err


def test_split_says_where_it_has_no_effect(digits):
    told = "warning: --split has no effect here: it is for several students under torchrun\n"
    for taus in ((3,), (1, 3)):
        assert told in grid(digits, "--tau", *taus, "--epochs", 1, "--split").err


def test_auto_stands_alone(digits):
    for arguments in (("--tau", "auto", 3), ("--tau", "auto", "--power", 1)):
        complaint = grid(digits, *arguments).complaint
        assert "--tau auto chooses" in complaint
    for key in ("tau", "power"):
        complaint = grid(digits, "--tau", "auto", "--set", f"distillation.{key}=0.5").complaint
        assert "leave distillation.tau and distillation.power out" in complaint


FAILING = ("--student-tau", 1e-6, 3, 2e-6, "--seed", 1)  # the first and last make steps of 10⁶
FAILED = [f"student-t3-p0.5-w0.5-st{tau}-s1.pt" for tau in ("1e-06", "2e-06")]
SURVIVOR = "student-t3-p0.5-w0.5-st3-s1.pt"


def test_a_student_that_fails_does_not_stop_the_others(digits, whole):
    assert grid(digits, *FAILING).code == 1
    assert [path.name for path in Path().glob("*.pt")] == [SURVIVOR]
    assert same_weights(SURVIVOR, whole / NAMES[1])


def test_every_student_that_fails_is_told_on_a_line_of_its_own(digits):
    lines = grid(digits, *FAILING).err.splitlines()
    expected = [f"dive: {name}: the loss is nan at epoch 1" for name in FAILED]
    assert [line.partition(", step")[0] for line in lines] == expected


def test_the_students_that_do_not_fail_are_shown_in_the_table(digits):
    outcome = grid(digits, *FAILING)
    accuracy = json.loads(Path(SURVIVOR).with_suffix(".json").read_text())["accuracy"]["all"]
    (row,) = [line for line in outcome.out.splitlines() if "student (" in line]
    assert "(τ=3, p=0.5, w=0.5)" in row and row.split()[-2] == f"{100 * accuracy:.2f}"


def test_the_students_that_do_not_fail_are_in_the_json_document(digits):
    outcome = grid(digits, *FAILING, "--json")
    assert outcome.code == 1 and len(outcome.err.splitlines()) == 2
    assert [student["checkpoint"] for student in outcome.document["students"]] == [SURVIVOR]


@pytest.mark.parametrize("as_json", [(), ("--json",)], ids=["table", "json"])
@pytest.mark.parametrize("taus", [(1e-6,), (1e-6, 2e-6)], ids=["one", "two"])
def test_where_every_student_fails_nothing_is_printed_but_their_errors(digits, taus, as_json):
    outcome = grid(digits, "--student-tau", *taus, "--seed", 1, *as_json)
    assert outcome.code == 1 and outcome.out == ""
    lines = outcome.err.splitlines()
    assert len(lines) == len(taus) and all(line.startswith("dive: student") for line in lines)


def settings() -> list[object]:
    """What torch computes with, as a program that calls dive sees it."""
    return [torch.get_num_threads(), torch.backends.cudnn.allow_tf32, *tf32_settings()]


def test_a_resumed_student_keeps_its_threads_and_the_next_one_does_not_take_them(digits, whole, monkeypatch):
    monkeypatch.setattr(loop, "SAVING_SHARE", float("inf"))
    before = torch.get_num_threads()
    arguments = ("--tau", 3, "--seed", 0, 1)
    try:
        with chain.stopped_at(13 + 5):
            assert grid(digits, *arguments).code == 130
        torch.set_num_threads(before + 1)
        own = settings()
        with chain.stopped_at(5):  # an exception puts them back too
            assert grid(digits, *arguments).code == 130
        assert settings() == own
        assert grid(digits, *arguments).code == 0
        assert settings() == own
    finally:
        torch.set_num_threads(before)
    records = [json.loads(Path(name).with_suffix(".json").read_text()) for name in NAMES[:2]]
    assert [record["threads"] for record in records] == [before, before + 1]
    assert [record["device"].rsplit(", ")[-1] for record in records] == [
        f"{count} thread{'s' * (count > 1)}" for count in (before, before + 1)
    ]
    assert same_weights(NAMES[0], whole / NAMES[0])


@pytest.mark.parametrize(
    ("values", "named"),
    [
        (("--tau", "3", "3.0000000000001"), "distillation.tau: 3.0, now 3.0000000000001"),
        (("--weight", "0.3", "0.30000000000000004"), "distillation.weight: 0.3, now 0.30000000000000004"),
        (("--tau", "auto", "--weight", "0.3", "0.30000000000000004"), "distillation.weight: 0.3, now 0.3000"),
    ],
)
def test_students_that_would_have_one_name_are_refused_naming_what_differs(digits, values, named):
    complaint = grid(digits, *values).complaint
    assert named in complaint and "two students would be written to student-t3-p0.5-w0." in complaint
    assert chain.files_under() == {}
