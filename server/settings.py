"""The only reader of the environment. Frozen; every field is also a flag of `intarsia serve`."""

from pathlib import Path
from typing import Literal

from pydantic import ByteSize, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

DEMO = "demo"


class SettingsConflict(Exception):
    """The setting `key` holds `value`, which cannot be had: `reason`."""

    def __init__(self, key: str, value: object, reason: str) -> None:
        self.key, self.value, self.reason = key, value, reason
        super().__init__(f"INTARSIA_{key.upper()}={value}: {reason}")


class Settings(BaseSettings):
    """Set by flags (--max-num-seqs 8), then by INTARSIA_MAX_NUM_SEQS, else the defaults."""

    model_config = SettingsConfigDict(
        env_prefix="INTARSIA_",
        frozen=True,
        cli_kebab_case=True,
        cli_prog_name="intarsia serve",
        cli_hide_none_type=True,
        cli_avoid_json=True,
    )

    host: str = Field("127.0.0.1", description="address to listen on; loopback unless told")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on")
    api_key: SecretStr | None = Field(None, description="if set, every route but health wants it")
    base_model: str = Field(DEMO, description="'demo', a local checkpoint directory, or a hub name")
    served_model_name: str | None = Field(None, description="name of the base in requests")
    data_dir: Path = Field(Path("data"), description="adapters, registry and the demo base")
    registry_url: SecretStr | None = Field(
        None, description="postgresql://… of a shared registry; else SQLite in the data_dir"
    )
    publish_dir: Path | None = Field(
        None, description="publish every *.safetensors of this directory, by its stem, at start"
    )
    blob_url: str | None = Field(
        None, description="where adapter files are kept: s3://bucket/prefix; else in the data_dir"
    )
    max_blob_cache_bytes: ByteSize = Field(
        ByteSize(10 << 30), gt=0, description="local copies of files that are kept elsewhere"
    )
    trusted_keys: str | None = Field(
        None,
        description="base64 Ed25519 public keys, with commas between, or a file with one to a "
        "line; if set, only adapters signed by one of them are taken",
    )
    adapter_sources: str | None = Field(
        None,
        description="where load_lora_adapter may read, with commas between: dir:/absolute/path, "
        "s3://bucket/prefix, hub:org/name@<revision of 40 hex digits>; else from nowhere",
    )
    hub_file_hosts: str | None = Field(
        None,
        description="hosts, with commas between, that a hub may redirect to for its files; one "
        "that begins with a dot stands for all below it; else none but the hub's own",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where to compute")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="of weights and activations; auto: fp32 on CPU, bf16 on CUDA"
    )
    kernels: Literal["auto", "reference", "cpu", "gpu"] = Field(
        "auto",
        description="what computes; auto: gpu on CUDA, cpu for fp32 on a CPU, else plain torch",
    )
    quantization: Literal["none", "int8"] = Field(
        "none", description="of the base; int8: a byte to a weight, on a CPU, adapters in full"
    )
    mode: Literal["batched", "fused", "auto"] = Field(
        "batched",
        description="how requests are computed that name no mode; batched: all of them, and "
        "nothing is ever fused into the base's weights",
    )
    max_model_len: int | None = Field(
        None, gt=0, description="longest sequence, prompt and output; else what model and KV allow"
    )
    device_cache_bytes: ByteSize | None = Field(
        None,
        gt=0,
        description="memory for KV pages and adapters, beside the model; 2 GiB unless told, on "
        "CUDA all that remains",
    )
    page_size: int = Field(32, gt=0, description="tokens per KV page")
    max_num_seqs: int = Field(64, gt=0, description="sequences in one step")
    max_num_batched_tokens: int = Field(512, gt=0, description="tokens in one step")
    speculation: int = Field(
        0,
        ge=0,
        le=64,
        description="most tokens of a sequence to guess in one step, from what followed its last "
        "ones before; answers stay the same; 0: none",
    )
    max_queued_requests: int = Field(1024, gt=0, description="waiting requests before a 429")
    max_adapter_bytes_device: ByteSize | None = Field(
        None, gt=0, description="of device_cache_bytes, most for adapters; half unless told"
    )
    max_adapter_bytes_host: ByteSize = Field(
        ByteSize(2 << 30), gt=0, description="host memory for adapters that may be wanted soon"
    )
    max_upload_bytes: ByteSize = Field(ByteSize(1 << 30), gt=0, description="largest adapter file")
    max_adapter_nnz: int = Field(1 << 30, gt=0, description="most entries of one adapter")
    max_merge_bytes: ByteSize = Field(
        ByteSize(8 << 30), gt=0, description="most memory that one merge may be predicted to take"
    )
    max_merge_seconds: float = Field(
        600, gt=0, description="longest that one merge may be predicted to take"
    )
    max_merge_cache_bytes: ByteSize = Field(
        ByteSize(1 << 30), gt=0, description="merged layers kept for merges that share them"
    )
    max_dataset_bytes: ByteSize = Field(
        ByteSize(256 << 20), gt=0, description="largest data set to be uploaded"
    )
    max_request_bytes: ByteSize = Field(ByteSize(16 << 20), gt=0, description="largest JSON body")

    @field_validator("api_key")
    @classmethod
    def _not_empty(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None and not key.get_secret_value():
            raise ValueError("must not be empty; unset it to serve without a key")
        return key
