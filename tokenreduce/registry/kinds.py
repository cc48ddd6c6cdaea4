"""The kinds of things that a plugin can offer: one table, from which hooks, registry, listing and checks follow."""

from __future__ import annotations

from dataclasses import dataclass

from .spec import AdapterSpec, LoaderSpec, PresetSpec, ReducerSpec, ReproductionSpec, Spec, TaskSpec


@dataclass(frozen=True)
class Kind:
    """One kind.

    Args:
        name: ``"reducer"``.
        spec: the class of its specs.
        offers: what its hook yields, in a sentence.
        example: a spec, as code.
        base: ``"module:attribute"`` of the class that a target must be a subclass of; "" where it is a function.
        expected: what a target must be, in words.
    """

    name: str
    spec: type[Spec]
    offers: str
    example: str
    base: str
    expected: str

    @property
    def plural(self) -> str:
        """``"reducers"``."""
        return f"{self.name}s"

    @property
    def hook(self) -> str:
        """The function of a plugin that yields its specs: ``"tokenreduce_reducers"``."""
        return f"tokenreduce_{self.plural}"


_ALL = (
    Kind(
        "reducer",
        ReducerSpec,
        "Yield the reducers of this plugin.",
        'ReducerSpec("key-norm", "my_package.method:KeyNorm", "keep tokens with long keys")',
        "tokenreduce.methods.reducer:BaseReducer",
        "a subclass of tokenreduce.Reducer",
    ),
    Kind(
        "adapter",
        AdapterSpec,
        "Yield the adapters of this plugin.",
        'AdapterSpec("my-vit", "my_package.adapter:MyViT", "my own ViT", library="my_models")',
        "tokenreduce.backbones.adapter:Adapter",
        "a subclass of tokenreduce.backbones.Adapter",
    ),
    Kind(
        "task",
        TaskSpec,
        "Yield the tasks of this plugin: a model, data and a metric, for ablations.",
        'TaskSpec("flowers", "my_package.task:flowers", "102 kinds of flowers with a small ViT")',
        "",
        "a function that returns a tokenreduce.Task",
    ),
    Kind(
        "preset",
        PresetSpec,
        "Yield the named ablations of this plugin, for ``tokenreduce ablate --preset NAME``.",
        'PresetSpec("key-norm-paper", "my_package.presets:paper", "the ablation table of the paper")',
        "",
        "a function that returns the mapping of a request",
    ),
    Kind(
        "reproduction",
        ReproductionSpec,
        "Yield published numbers to compare with, for ``tokenreduce reproduce NAME``.",
        'ReproductionSpec("key-norm-vit", "my_package.tables:vit", "table 2 of the paper, ViT-B/16")',
        "",
        "a function that returns the mapping of a publication",
    ),
    Kind(
        "loader",
        LoaderSpec,
        "Yield the loaders of this plugin: what turns ``--model NAME --data FILE`` into a task.",
        'LoaderSpec("my-zoo", "my_package.loader:Zoo", "models of my zoo", library="my_models")',
        "tokenreduce.tasks.loader:Loader",
        "a subclass of tokenreduce.tasks.Loader",
    ),
)

KINDS: dict[str, Kind] = {kind.name: kind for kind in _ALL}
"""By name, in the order in which they are listed."""

HOOKS: dict[str, Kind] = {kind.hook: kind for kind in _ALL}
"""By hook."""
