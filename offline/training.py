"""`intarsia train`: its flags, made of the fields of `TrainConfig`.

What it does is in `train_files.py`, which is imported when it runs: torch takes seconds to load.
"""

from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import click
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from adapters_store.training.config import TrainConfig, build, read_fields
from adapters_store.training.failures import ConfigRefused

EXTRA = ("accelerate", "matplotlib", "peft", "rouge_score", "tensorboard")
C = TypeVar("C", bound=Callable[..., None])


def config_options(command: C) -> C:
    """Adds a flag for each field of `TrainConfig`; what is not given stays None or empty."""
    for name, field in reversed(TrainConfig.model_fields.items()):
        command = _option(name, field)(command)
    return command


def _option(name: str, field: FieldInfo) -> Callable[[C], C]:
    kinds = _kinds(field.annotation)
    flag, told = name.replace("_", "-"), _help(field)
    if kinds == {bool}:
        return click.option(f"--{flag}/--no-{flag}", name, help=told, default=None)
    multiple = get_origin(field.annotation) is tuple
    kind = _click_type(kinds)
    return click.option(f"--{flag}", name, type=kind, multiple=multiple, help=told, default=None)


def _kinds(annotation: Any) -> set[Any]:
    """The plain types and the texts that an annotation allows, without None."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kinds(inner[0])
    if origin is Literal:
        return set(inner)
    if inner:  # a union, or a tuple of any length
        return {kind for each in inner if each is not Ellipsis for kind in _kinds(each)}
    return set() if annotation is NoneType else {annotation}


def _click_type(kinds: set[Any]) -> Any:
    if all(isinstance(kind, str) for kind in kinds):
        return click.Choice(sorted(kinds))
    (kind,) = kinds
    return click.Path(path_type=Path) if kind is Path else click.types.convert_type(kind)


def _help(field: FieldInfo) -> str:
    default = field.default
    told = "" if default in (None, (), PydanticUndefined) else f"  [default: {default}]"
    return f"{field.description}{told}"


@click.command()
@click.option(
    "--config",
    "file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="TOML or JSON with the fields below, as `keep_ratio = 0.01`; flags come first",
)
@config_options
@click.option("--api-key", envvar="INTARSIA_API_KEY", help="of the server to publish to")
def train(file: Path | None, api_key: str | None, **flags: Any) -> None:
    """Train an adapter on rows of prompt and target."""
    given = {name: value for name, value in flags.items() if value not in (None, ())}
    try:
        config = build({**(read_fields(file) if file else {}), **given})
    except ConfigRefused as error:
        raise click.ClickException("\n  ".join(error.reasons)) from error
    _refuse_missing(EXTRA)
    from offline import commands, train_files

    with commands.errors_shown():
        train_files.train_files(config, api_key)


def _refuse_missing(packages: Iterable[str]) -> None:
    if missing := [name for name in packages if find_spec(name) is None]:
        told = f"training wants {', '.join(missing)}: pip install 'intarsia[train]'"
        raise click.ClickException(told)
