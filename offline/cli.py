"""`intarsia convert`, `extract` and `export`: their arguments. What they do is in `commands.py`.

That is imported when a command runs, since torch takes seconds to load: help and mistakes in
arguments are answered at once.
"""

from pathlib import Path

import click

FORMATS = ("mttl", "spiel", "lt-sft", "diablo", "paca", "neuroada")
KINDS = ("element", "block", "row_block", "low_rank")
EXPORTS = ("peft-shira", "peft-lora", "merged", "compeft")
EXISTING = click.Path(exists=True, path_type=Path)
NEW = click.Path(path_type=Path)
CHECKPOINT = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.argument("source", type=EXISTING)
@click.option("--from", "kind", type=click.Choice(FORMATS), required=True, help="whose format")
@click.option("--base", type=CHECKPOINT, required=True, help="checkpoint that it was trained on")
@click.option("--out", type=NEW, required=True, help="the intarsia-adapter/1 file to write")
@click.option("--mask", type=EXISTING, help="mttl: the *_mask.npz, if it is not beside the source")
def convert(source: Path, kind: str, base: Path, out: Path, mask: Path | None) -> None:
    """Turn another project's adapter file into one of ours."""
    from offline import commands

    with commands.errors_shown():
        commands.convert_file(source, kind, base, out, mask)


@click.command()
@click.argument("finetuned", type=CHECKPOINT)
@click.option("--base", type=CHECKPOINT, required=True, help="checkpoint before fine-tuning")
@click.option("--out", type=NEW, required=True, help="the intarsia-adapter/1 file to write")
@click.option("--kind", type=click.Choice(KINDS), default="element", show_default=True)
@click.option(
    "--keep", type=click.FloatRange(0, 1, min_open=True), help="share of the entries to keep"
)
@click.option("--exact", is_flag=True, help="keep every entry that changed")
@click.option("--rank", type=click.IntRange(min=1), help="of low_rank")
@click.option(
    "--scope",
    type=click.Choice(("layer", "model")),
    default="layer",
    show_default=True,
    help="keep the largest changes of each layer, or of all together",
)
@click.option("--targets", help="ends of layer names, with commas between; all layers unless told")
def extract(
    finetuned: Path,
    base: Path,
    out: Path,
    kind: str,
    keep: float | None,
    exact: bool,
    rank: int | None,
    scope: str,
    targets: str | None,
) -> None:
    """Keep the difference of a fine-tuned checkpoint to its base as an adapter."""
    amounts = {"--keep": keep is not None, "--exact": exact, "--rank": rank is not None}
    given = [flag for flag, is_given in amounts.items() if is_given]
    wanted = ["--rank"] if kind == "low_rank" else ["--keep", "--exact"]
    if len(given) != 1 or given[0] not in wanted:
        raise click.UsageError(f"--kind {kind} wants {' or '.join(wanted)}")
    from offline import commands

    with commands.errors_shown():
        amount = rank if rank is not None else keep
        ends = targets.split(",") if targets else None
        commands.extract_file(finetuned, base, out, kind, amount, scope == "model", ends)


@click.command()
@click.argument("adapter", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--to", "form", type=click.Choice(EXPORTS), required=True)
@click.option("--out", type=NEW, required=True, help="directory, or for compeft file, to write")
@click.option("--base", type=CHECKPOINT, help="merged: the checkpoint to add to")
@click.option("--weight", type=float, default=1.0, show_default=True, help="merged: times this")
@click.option("--per-tensor", is_flag=True, help="compeft: a scale for each tensor")
def export(
    adapter: Path, form: str, out: Path, base: Path | None, weight: float, per_tensor: bool
) -> None:
    """Write an adapter for PEFT, into a merged checkpoint, or compressed to signs."""
    if (form == "merged") != (base is not None):
        raise click.UsageError("--base goes with --to merged, and --to merged with --base")
    if form != "compeft" and out.exists() and any(out.iterdir() if out.is_dir() else [out]):
        raise click.UsageError(f"{out} is there already")
    from offline import commands

    with commands.errors_shown():
        commands.export_file(adapter, form, out, base, weight, per_tensor)
