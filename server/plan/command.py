"""`intarsia plan`: its arguments. What it works out is in the files beside it."""

import json
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console

from server.plan import devices
from server.plan.adapters import KINDS, AdapterShape, Kind
from server.plan.devices import CPU, GPUS, Device
from server.plan.errors import PlanError
from server.plan.models import MODELS, find_model
from server.plan.plan import Plan, make_plan
from server.plan.report import as_json, say
from server.plan.workload import DTYPE_BYTES, Dtype, Quantization, Workload

TARGETS = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
FORMS = {".png": "png", ".svg": "svg"}
POSITIVE = click.FloatRange(0, min_open=True)
MODEL_HELP = f"{', '.join(MODELS)}, or a path to a config.json or to the base's directory"
DEVICE_HELP = f"{', '.join(GPUS)} or {CPU}; several times to compare"


def _picture(context: click.Context, param: click.Parameter, path: Path | None) -> Path | None:
    if path is not None and path.suffix not in FORMS:
        raise click.BadParameter(f"{path} ends neither in .png nor in .svg")
    return path


@click.command(epilog=f"MODEL: {MODEL_HELP}.")
@click.argument("model")
@click.option("--device", "names", multiple=True, required=True, help=DEVICE_HELP)
@click.option("--adapters", type=click.IntRange(0), default=32, show_default=True)
@click.option("--kind", type=click.Choice(KINDS), default="element", show_default=True)
@click.option(
    "--keep",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.01,
    show_default=True,
    help="share of the entries of each target; of low_rank, as many numbers",
)
@click.option("--rank", type=click.IntRange(1), help="of low_rank, in place of --keep")
@click.option(
    "--target",
    "targets",
    multiple=True,
    type=click.Choice(TARGETS),
    default=("qkv_proj",),
    show_default=True,
    help="layers that adapters change; several times for several",
)
@click.option("--batch", type=click.IntRange(1), default=32, show_default=True, help="sequences")
@click.option(
    "--context", type=click.IntRange(1), default=1024, show_default=True, help="tokens of each"
)
@click.option(
    "--dtype", type=click.Choice(tuple(DTYPE_BYTES)), help="fp32 on a CPU, bf16 elsewhere"
)
@click.option("--quantization", type=click.Choice(("none", "int8")), default="none")
@click.option("--bandwidth", type=POSITIVE, help="cpu: GB/s; measured unless given")
@click.option("--gflops", type=POSITIVE, help="cpu: fp32 GFLOP/s; measured unless given")
@click.option("--memory", type=POSITIVE, help="cpu: GiB; this machine's unless given")
@click.option("--kernels", is_flag=True, help="list every kernel of a step")
@click.option("--json", "is_json", is_flag=True, help="print everything, for programs")
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=_picture,
    help="picture of tok/s over adapters to write, .png or .svg",
)
def plan(
    model: str,
    names: Sequence[str],
    adapters: int,
    kind: Kind,
    keep: float,
    rank: int | None,
    targets: tuple[str, ...],
    batch: int,
    context: int,
    dtype: Dtype | None,
    quantization: Quantization,
    bandwidth: float | None,
    gflops: float | None,
    memory: float | None,
    kernels: bool,
    is_json: bool,
    plot: Path | None,
) -> None:
    """Foretell memory and speed of a model with adapters on a device."""
    if rank is not None and kind != "low_rank":
        raise click.UsageError("--rank goes with --kind low_rank")
    if CPU not in names and (bandwidth, gflops, memory) != (None, None, None):
        raise click.UsageError("--bandwidth, --gflops and --memory go with --device cpu")
    adapter = AdapterShape(kind, keep, tuple(dict.fromkeys(targets)), rank)
    try:
        shape = find_model(model)
        plans = [
            make_plan(
                Workload(
                    model=shape,
                    device=device,
                    adapter=adapter,
                    adapters=adapters,
                    batch=batch,
                    context=context,
                    dtype=dtype or ("float32" if device.is_cpu else "bfloat16"),
                    quantization=quantization,
                )
            )
            for device in (_device(name, bandwidth, gflops, memory) for name in names)
        ]
    except PlanError as error:
        raise click.ClickException(str(error)) from error
    _tell(plans, kernels, is_json)
    if plot is not None:
        _draw(plans, plot)


def _device(name: str, gb_per_s: float | None, gflops: float | None, gib: float | None) -> Device:
    if name != CPU:
        return devices.find_device(name)
    return devices.cpu_device(
        bandwidth=gb_per_s * 1e9 if gb_per_s else devices.measure_bandwidth(),
        flops=gflops * 1e9 if gflops else devices.measure_flops(),
        memory_bytes=round(gib * (1 << 30)) if gib else devices.this_memory(),
    )


def _tell(plans: Sequence[Plan], kernels: bool, is_json: bool) -> None:
    if is_json:
        click.echo(json.dumps([as_json(own) for own in plans], indent=2))
    else:
        say(plans, Console(markup=False, emoji=False, highlight=False, soft_wrap=True), kernels)


def _draw(plans: Sequence[Plan], path: Path) -> None:
    try:
        from server.plan import plot
    except ImportError as error:
        raise click.ClickException("a plot needs matplotlib: install intarsia[plot]") from error
    plot.write(plans, FORMS[path.suffix], path)
    click.echo(f"{path}: tok/s over adapters", err=True)
