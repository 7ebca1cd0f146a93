"""dive: distil virtual examples for long-tailed recognition from a logit cache.

The names below are the public interface. Each is imported when it is first used, and torch only with those
that need it. docs/python-api.md introduces them with examples.
"""

TYPE_CHECKING = False  # true for a type checker; typing itself would cost a third of the import
if TYPE_CHECKING:
    from dive.cache.reader import LogitCache as LogitCache
    from dive.cache.reader import open_cache as open_cache
    from dive.data.images import LabelledImages as LabelledImages
    from dive.errors import DiveError as DiveError
    from dive.feeds.cached_views import CachedViews as CachedViews
    from dive.method.advice import recommend as recommend
    from dive.method.crossing import find_crossing as find_crossing
    from dive.method.objectives import BalancedSoftmaxLoss as BalancedSoftmaxLoss
    from dive.method.objectives import DiVELoss as DiVELoss
    from dive.method.virtual_examples import virtual_examples as virtual_examples
    from dive.models.load import load_model as load_model
    from dive.recipe.recipe import Recipe as Recipe
    from dive.version import __version__ as __version__
    from dive.workflows.convert import ConvertOptions as ConvertOptions
    from dive.workflows.convert import convert as convert
    from dive.workflows.data import load_recipe as load_recipe
    from dive.workflows.data import open_images as open_images
    from dive.workflows.drawn_views import DrawnViews as DrawnViews
    from dive.workflows.evaluate import evaluate as evaluate
    from dive.workflows.export import ExportOptions as ExportOptions
    from dive.workflows.export import export_logits as export_logits
    from dive.workflows.export_model import ModelExportOptions as ModelExportOptions
    from dive.workflows.export_model import export_model as export_model
    from dive.workflows.import_logits import ImportOptions as ImportOptions
    from dive.workflows.import_logits import import_logits as import_logits
    from dive.workflows.merge import MergeOptions as MergeOptions
    from dive.workflows.merge import merge_caches as merge_caches
    from dive.workflows.merge_shards import merge_shards as merge_shards
    from dive.workflows.predict import predict as predict
    from dive.workflows.report import ReportOptions as ReportOptions
    from dive.workflows.report import write_report as write_report
    from dive.workflows.results import TrainOptions as TrainOptions
    from dive.workflows.student import StudentOptions as StudentOptions
    from dive.workflows.student import train_student as train_student
    from dive.workflows.teacher import train_teacher as train_teacher
    from dive.workflows.tune import TuneOptions as TuneOptions
    from dive.workflows.tune import tune as tune

_HOMES = {
    "__version__": "dive.version",
    "BalancedSoftmaxLoss": "dive.method.objectives",
    "CachedViews": "dive.feeds.cached_views",
    "ConvertOptions": "dive.workflows.convert",
    "DiVELoss": "dive.method.objectives",
    "DiveError": "dive.errors",
    "DrawnViews": "dive.workflows.drawn_views",
    "ExportOptions": "dive.workflows.export",
    "ImportOptions": "dive.workflows.import_logits",
    "LabelledImages": "dive.data.images",
    "LogitCache": "dive.cache.reader",
    "MergeOptions": "dive.workflows.merge",
    "ModelExportOptions": "dive.workflows.export_model",
    "Recipe": "dive.recipe.recipe",
    "ReportOptions": "dive.workflows.report",
    "StudentOptions": "dive.workflows.student",
    "TrainOptions": "dive.workflows.results",
    "TuneOptions": "dive.workflows.tune",
    "convert": "dive.workflows.convert",
    "evaluate": "dive.workflows.evaluate",
    "export_logits": "dive.workflows.export",
    "export_model": "dive.workflows.export_model",
    "find_crossing": "dive.method.crossing",
    "import_logits": "dive.workflows.import_logits",
    "load_model": "dive.models.load",
    "load_recipe": "dive.workflows.data",
    "merge_caches": "dive.workflows.merge",
    "merge_shards": "dive.workflows.merge_shards",
    "open_cache": "dive.cache.reader",
    "open_images": "dive.workflows.data",
    "predict": "dive.workflows.predict",
    "recommend": "dive.method.advice",
    "train_student": "dive.workflows.student",
    "train_teacher": "dive.workflows.teacher",
    "tune": "dive.workflows.tune",
    "virtual_examples": "dive.method.virtual_examples",
    "write_report": "dive.workflows.report",
}
__all__ = [name for name in _HOMES if name != "__version__"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'dive' has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
