"""The demo base as a Phi-3 checkpoint: this server's own, converted by its first start."""

from pathlib import Path

from loadtests.servers import running_server

DATA = Path("data")
BASE = DATA / "demo-base"


def demo_base(log: Path) -> Path:
    """Its directory; if need be a server is started once to make it, its output in `log`."""
    if not (BASE / "model.safetensors").exists():
        with running_server(log, "--data-dir", str(DATA), "--device", "cpu"):
            pass
    return BASE
