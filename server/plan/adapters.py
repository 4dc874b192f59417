"""What an adapter takes: entries, bytes in the layouts that are multiplied, operations per token.

An adapter changes the same kinds of matrix in every layer. Values have 16 bits. Knows nothing of
devices beyond whether a layout is a CPU's.
"""

from dataclasses import dataclass
from typing import Literal

from server.plan.models import Matrix, ModelShape

Kind = Literal["element", "block", "low_rank"]
KINDS: tuple[Kind, ...] = ("element", "block", "low_rank")

VALUE_BYTES = 2
COLUMN_BYTES = 2  # uint16
TILE = 16  # rows and columns
TILE_INDEX_BYTES = 4
PADDING = 0.04  # of sparse rows sorted within their window and laid side by side


@dataclass(frozen=True, slots=True)
class AdapterShape:
    """`keep_ratio` of the entries of each of `targets`; for low_rank `rank`, or as many numbers."""

    kind: Kind
    keep_ratio: float
    targets: tuple[str, ...] = ("qkv_proj",)
    rank: int | None = None

    @property
    def can_fuse(self) -> bool:
        """Whether it changes single entries, which can be put back to the bit."""
        return self.kind != "low_rank"

    def rank_of(self, matrix: Matrix) -> int:
        """r, so that r * (rows + columns) is nearest to keep_ratio * rows * columns, 1 or more."""
        return self.rank or max(
            1, round(self.keep_ratio * matrix.size / (matrix.rows + matrix.columns))
        )

    def entries(self, matrix: Matrix) -> int:
        """Numbers that the adapter has for `matrix`.

        element: keep * rows * columns; block: so many whole tiles of 16 x 16;
        low_rank: r * (rows + columns).
        """
        match self.kind:
            case "element":
                return round(self.keep_ratio * matrix.size)
            case "block":
                return round(self.keep_ratio * matrix.size / TILE**2) * TILE**2
            case "low_rank":
                return self.rank_of(matrix) * (matrix.rows + matrix.columns)

    def matrix_bytes(self, matrix: Matrix, on_cpu: bool) -> int:
        """Bytes on the device.

        element: entries * (2 value + 2 column) * 1.04 + rows;
        block: entries * 2 + an index, of 2 bytes for each run of 16 on a CPU (+ rows), of 4 bytes
        for each tile on a GPU; low_rank: entries * 2. `rows` is `row_bytes`.
        """
        entries = self.entries(matrix)
        match self.kind:
            case "element":
                sparse = entries * (VALUE_BYTES + COLUMN_BYTES) * (1 + PADDING)
                return round(sparse) + row_bytes(matrix, on_cpu)
            case "block" if on_cpu:
                runs = entries // TILE
                return entries * VALUE_BYTES + runs * COLUMN_BYTES + row_bytes(matrix, on_cpu)
            case "block":
                return entries * VALUE_BYTES + entries // TILE**2 * TILE_INDEX_BYTES
            case "low_rank":
                return entries * VALUE_BYTES

    def num_bytes(self, model: ModelShape, on_cpu: bool) -> int:
        """Bytes on the device over all layers."""
        own = (self.matrix_bytes(model.linears[name], on_cpu) for name in self.targets)
        return model.layers * sum(own)


def row_bytes(matrix: Matrix, on_cpu: bool) -> int:
    """Where sorted rows are: an order of 1 (CPU) or 2 bytes a row, and 4 bytes for each slice of
    16 (CPU) or 32 rows."""
    order, lanes = (1, 16) if on_cpu else (2, 32)
    return matrix.rows * order + -(-matrix.rows // lanes) * 4
