"""The table of runs: every training run, logit cache and tune table behind RESULTS.md, as data.

Names are those that `make reproduce` takes: `bbn/teacher` is the run whose record is
results/cifar100_lt_bbn/teacher.json. A run names its cache, and a cache the runs that are its teachers,
so the table says what each run needs. Another run is another line.
"""

from dataclasses import dataclass
from pathlib import Path

SET = "cifar100_lt"  # the folder of its recipes, and how their names begin
OWN = Path(__file__).with_name("recipes")  # those that dive does not ship


@dataclass(frozen=True)
class Run:
    """A training run.

    name: its recipe and its file. words: its command without recipe, data, cache and output. cache: the
    name of the cache that a student learns from. weights: whether they are kept with the record.
    """

    name: str
    words: tuple[str, ...]
    cache: str | None = None
    weights: bool = False

    @property
    def kind(self) -> str:
        """`teacher` or `student`."""
        return self.words[0]

    @property
    def config(self) -> str:
        """Its recipe, as `--config` takes it."""
        return _config(self.name)

    def file(self, folder: Path, suffix: str) -> Path:
        """One of its files below results/ or checkpoints/: `.json`, `.history.jsonl` or `.pt`."""
        return _below(folder, self.name, suffix)


@dataclass(frozen=True)
class Cache:
    """A logit cache.

    name: its recipe, and what distinguishes it from other caches of the recipe. teachers: names of runs;
    several form an ensemble. views: all, clean or a number. store: its encoding. foreign: the recipe that
    gives the teacher as a foreign one, if the teacher was trained on another draw.
    """

    name: str
    teachers: tuple[str, ...]
    views: str = "all"
    store: str = "float16"
    foreign: Path | None = None

    @property
    def config(self) -> str:
        """The recipe of its images and views."""
        return _config(self.name)

    @property
    def path(self) -> Path:
        """Its path; that of `bbn` is the path that dive gives the recipe's cache."""
        return Path("cache") / f"{SET}_{self.name.replace('/', '-')}.h5"


@dataclass(frozen=True)
class Tune:
    """A tune table among the results. caches: their names. words: for `dive tune-tau`. figure: its file."""

    name: str
    caches: tuple[str, ...]
    words: tuple[str, ...] = ()
    figure: Path | None = None

    def file(self, folder: Path) -> Path:
        """Its document below results/."""
        return _below(folder, self.name, ".json")


def _config(name: str) -> str:
    recipe = name.partition("/")[0]
    own = OWN / f"{recipe}.yaml"
    return str(own) if own.exists() else f"{SET}/{recipe}"


def _below(folder: Path, name: str, suffix: str) -> Path:
    recipe, _, file = name.partition("/")
    return folder / f"{SET}_{recipe}" / f"{file}{suffix}"


def _pair(tau: str, power: str) -> tuple[str, ...]:
    return ("student", "--tau", tau, "--power", power)


PAPERS = _pair("3", "0.5")
TEACHER = ("teacher",)
FP32, BF16 = ("--precision", "fp32"), ("--precision", "bf16")
AUTOAUG_TEACHERS = tuple(f"bbn_autoaug/teacher{end}" for end in ("", "-s1", "-s2"))
BBN_TEACHERS = tuple(f"bbn/teacher{end}" for end in ("", "-s1", "-s2"))

RUNS = (
    Run("bbn/teacher", TEACHER, weights=True),
    Run("bbn/ce", ("teacher", "--loss", "ce"), weights=True),
    Run("bbn/student", PAPERS, "bbn", weights=True),
    Run("bbn/student-t2-p0.5", _pair("2", "0.5"), "bbn"),
    Run("bbn/student-t6-p1", _pair("6", "1"), "bbn"),
    Run("bbn/student-clean", (*PAPERS, "--free-views"), "bbn/clean"),
    Run("bbn/student-features-int8", PAPERS, "bbn/features-int8"),
    Run("bbn/student-auto", ("student", "--tau", "auto"), "bbn"),
    # AutoAugment: the pairs of the paper and of the reproduction, and the one that the crossing recommends
    Run("bbn_autoaug/teacher", TEACHER, weights=True),
    Run("bbn_autoaug/student", PAPERS, "bbn_autoaug"),
    Run("bbn_autoaug/student-t6-p1", _pair("6", "1"), "bbn_autoaug"),
    Run("bbn_autoaug/student-auto", ("student", "--tau", "auto"), "bbn_autoaug"),
    # whether more stored views help: 200 instead of 50, for the best student with 50
    Run("bbn_autoaug/student-t6-p1-k200", _pair("6", "1"), "bbn_autoaug/k200"),
    # the effect, as in the reproduction, of training a student on another draw than its teacher's
    Run("bbn_autoaug_other_draw/student-t6-p1", _pair("6", "1"), "bbn_autoaug_other_draw"),
    # three seeds of the paper's pair, in the precision of seed 0
    Run("bbn/teacher-s1", (*TEACHER, *BF16, "--seed", "1"), weights=True),
    Run("bbn/student-s1", (*PAPERS, *BF16, "--seed", "1"), "bbn/s1"),
    Run("bbn/teacher-s2", (*TEACHER, *BF16, "--seed", "2"), weights=True),
    Run("bbn/student-s2", (*PAPERS, *BF16, "--seed", "2"), "bbn/s2"),
    # started with --precision auto, which chose fp32
    Run("bbn/teacher-s1-fp32", (*TEACHER, *FP32, "--seed", "1")),
    # the record attempt: a student of three teachers, with the pair of the best student of one teacher
    Run("bbn_autoaug/teacher-s1", (*TEACHER, *BF16, "--seed", "1"), weights=True),
    Run("bbn_autoaug/teacher-s2", (*TEACHER, *BF16, "--seed", "2"), weights=True),
    Run("bbn_autoaug/student-ensemble", _pair("6", "1"), "bbn_autoaug/ensemble", weights=True),
    Run(
        "bbn_autoaug/student-ensemble-e400",
        (*_pair("6", "1"), "--epochs", "400"),
        "bbn_autoaug/ensemble",
        weights=True,
    ),
    # three teachers of crop and flip, one student
    Run("bbn/student-ensemble", PAPERS, "bbn/ensemble"),
    # a teacher pretrained on ImageNet-1k
    Run("efficientnet_lite0/teacher", TEACHER),
    Run("efficientnet_lite0/student", PAPERS, "efficientnet_lite0", weights=True),
    Run("efficientnet_lite0/student-auto", ("student", "--tau", "auto"), "efficientnet_lite0"),
    # other imbalances
    Run("bbn_if50/teacher", TEACHER, weights=True),
    Run("bbn_if50/student", PAPERS, "bbn_if50"),
    Run("bbn_if10/teacher", TEACHER, weights=True),
    Run("bbn_if10/student", PAPERS, "bbn_if10"),
)

CACHES = (
    Cache("bbn", ("bbn/teacher",)),
    Cache("bbn/clean", ("bbn/teacher",), "clean"),
    Cache("bbn/ce-clean", ("bbn/ce",), "clean"),
    Cache("bbn/student-clean", ("bbn/student",), "clean"),
    Cache("bbn/features-int8", ("bbn/teacher",), store="features-int8"),
    Cache("bbn/s1", ("bbn/teacher-s1",)),
    Cache("bbn/s2", ("bbn/teacher-s2",)),
    Cache("bbn/ensemble", BBN_TEACHERS, store="int8"),
    Cache("bbn_autoaug", ("bbn_autoaug/teacher",), "50"),
    Cache("bbn_autoaug/k200", ("bbn_autoaug/teacher",), "200", "features-int8"),
    Cache("bbn_autoaug/ensemble", AUTOAUG_TEACHERS, "200", "int8"),
    Cache("bbn_autoaug_other_draw", ("bbn_autoaug/teacher",), "50", foreign=OWN / "bbn_autoaug_teacher.yaml"),
    Cache("efficientnet_lite0", ("efficientnet_lite0/teacher",)),
    Cache("bbn_if50", ("bbn_if50/teacher",)),
    Cache("bbn_if10", ("bbn_if10/teacher",)),
)

FIGURES = Path("docs/figures")
TUNES = (
    Tune(
        "bbn/models",
        ("bbn/ce-clean", "bbn/clean", "bbn/student-clean"),
        ("--clean", "--tau", "1", "--power", "1"),
        FIGURES / "models.png",
    ),
    Tune("bbn/temperatures", ("bbn/clean",), ("--clean", "--power", "1"), FIGURES / "temperatures.png"),
    Tune("bbn/tune", ("bbn",)),
    Tune("bbn/tune-s1", ("bbn/s1",)),
    Tune("bbn/tune-s2", ("bbn/s2",)),
    Tune("bbn/tune-ensemble", ("bbn/ensemble",)),
    Tune("bbn_autoaug/tune", ("bbn_autoaug",)),
    Tune("bbn_autoaug/tune-k200", ("bbn_autoaug/k200",)),
    Tune("bbn_autoaug/tune-ensemble", ("bbn_autoaug/ensemble",)),
    Tune("bbn_autoaug_other_draw/tune", ("bbn_autoaug_other_draw",)),
    Tune("efficientnet_lite0/tune", ("efficientnet_lite0",)),
    Tune("bbn_if50/tune", ("bbn_if50",)),
    Tune("bbn_if10/tune", ("bbn_if10",)),
)

RUN = {run.name: run for run in RUNS}
CACHE = {cache.name: cache for cache in CACHES}
