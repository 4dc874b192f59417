"""The demo base's weights for llama.cpp: its GGUF file written anew in F32 or Q8_0.

    python -m loadtests.rivals.gguf_files SOURCE OUT {F32,Q8_0}

The source's matrices are dequantized, as Intarsia does for its own base, and then kept or quantized
by the format's own library: so every side has the same weights, down to the bit in F32.
"""

import argparse
from pathlib import Path
from typing import Any

from gguf import GGUFReader, GGUFValueType, GGUFWriter
from gguf.constants import GGMLQuantizationType, LlamaFileType
from gguf.quants import dequantize, quantize

FILE_TYPES = {"F32": LlamaFileType.ALL_F32, "Q8_0": LlamaFileType.MOSTLY_Q8_0}
OF_THE_FORM = ("GGUF.", "general.architecture", "general.file_type")  # the writer's own


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a GGUF file with other numbers.")
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("type", choices=FILE_TYPES)
    asked = parser.parse_args()
    rewrite(asked.source, asked.out, asked.type)


def rewrite(source: Path, out: Path, kind: str) -> None:
    """Write `source` to `out`, matrices in `kind`; `out` appears when it is whole."""
    reader = GGUFReader(source)
    unfinished = out.with_suffix(".unfinished")
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(unfinished, reader.fields["general.architecture"].contents())
    writer.add_file_type(FILE_TYPES[kind])
    for name, field in reader.fields.items():
        if not name.startswith(OF_THE_FORM):
            _copy(writer, name, field)
    for tensor in reader.tensors:
        _add(writer, tensor, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    unfinished.rename(out)


def _copy(writer: GGUFWriter, name: str, field: Any) -> None:
    kind, *inner = field.types
    sub_type = inner[0] if kind == GGUFValueType.ARRAY else None
    writer.add_key_value(name, field.contents(), kind, sub_type)


def _add(writer: GGUFWriter, tensor: Any, kind: str) -> None:
    """Vectors stay in F32, as llama.cpp's own quantizer leaves them."""
    values = dequantize(tensor.data, tensor.tensor_type)
    if values.ndim == 1 or kind == "F32":
        writer.add_tensor(tensor.name, values)
    else:
        target = GGMLQuantizationType[kind]
        writer.add_tensor(tensor.name, quantize(values, target), raw_dtype=target)


if __name__ == "__main__":
    main()
