"""Every setting Kiara has: its name, type, default and range.

In: nothing. Out: frozen dataclasses, one per section of a config file; `Config` holds them all.
What each setting is for stands beside it in configs/default.yaml, which spells out the same defaults.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeAlias

from kiara_cli.config.model import ModelConfig
from kiara_cli.config.section import Section, knob
from kiara_cli.errors import KiaraError

VERSION = 2  # of the config's keys; load.py migrates older ones
RENAMED = {  # old key → new key; an entry here keeps old files and checkpoints loading
    "model.head_width": "model.head_dim",
    "model.ffn_dim": "model.hidden_dim",
    "runtime.fused": "runtime.native",
    "data.more_sources": "data.sources",
}

Device: TypeAlias = Literal["auto", "cpu", "cuda", "mps"]
Dtype: TypeAlias = Literal["auto", "fp32", "bf16", "fp16"]
Kind: TypeAlias = Literal[
    "char", "word", "bpe", "gpt2", "r50k_base", "p50k_base", "p50k_edit", "cl100k_base", "o200k_base", "o200k_harmony"
]
WRITERS = ("tensorboard", "wandb")


@dataclass(frozen=True)
class TokenizerConfig(Section):
    section: ClassVar[str] = "tokenizer"

    kind: Kind = "bpe"
    vocab_size: int = knob(2048, low=300, high=1_000_000)
    alphabet: Literal["fitted", "ascii"] = "fitted"
    fit_bytes: int = knob(100_000_000, low=1)


@dataclass(frozen=True)
class DataConfig(Section):
    section: ClassVar[str] = "data"

    source: str = "tales"
    sources: tuple[str, ...] = ()
    replay: float = knob(0.0, low=0, high=0.9)
    replay_source: str | None = None
    val_source: str | None = None
    name: str | None = None
    field: str = "text"
    prompt_field: str | None = None
    reply_field: str | None = None
    encoding: str | None = None
    val_fraction: float = knob(0.1, low=0.0001, high=0.9)
    shard_tokens: int = knob(100_000_000, low=1)
    output: str | None = None
    sampling: Literal["windows", "blocks"] = "windows"
    stride: int | None = knob(None, low=1)
    corpus_bytes: int = knob(8_000_000, low=20_000)
    corpus_seed: int = knob(0, low=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.prompt_field is None) != (self.reply_field is None):
            key = "data.reply_field" if self.prompt_field else "data.prompt_field"
            raise KiaraError("data.prompt_field and data.reply_field go together", f"set {key} too", key=key)
        if self.encoding is not None:
            try:
                b"a".decode(self.encoding)
            except (LookupError, ValueError):
                raise KiaraError(
                    f"data.encoding={self.encoding} is no encoding of text",
                    "give a name that Python knows, such as utf-8, cp1252, gb18030 or shift_jis",
                    key="data.encoding",
                ) from None


DEFAULT_STEPS = 1350  # of a training where neither max_steps nor max_epochs is set


@dataclass(frozen=True)
class LoraConfig(Section):
    section: ClassVar[str] = "train.lora"

    rank: int = knob(0, low=0)
    alpha: float = knob(16.0, above=0)
    dropout: float = knob(0.0, low=0, high=0.9)
    targets: tuple[str, ...] = ("*",)
    lr: float = knob(0.003, above=0)


@dataclass(frozen=True)
class PreferenceConfig(Section):
    section: ClassVar[str] = "train.preference"

    beta: float | None = knob(None, above=0)
    margin: float = knob(1.0, low=0)


@dataclass(frozen=True)
class TrainConfig(Section):
    section: ClassVar[str] = "train"

    max_steps: int | None = knob(None, low=1)
    max_epochs: float | None = knob(None, above=0)
    batch_size: int = knob(8, low=1)
    accumulation: int = knob(1, low=1)
    batch_tokens: int | None = knob(None, low=1)
    optimizer: Literal["muon", "adamw", "lion", "sgd"] = "muon"
    lr: float = knob(0.012, above=0)
    schedule: Literal["cosine", "linear", "wsd", "constant"] = "cosine"
    min_lr_ratio: float = knob(0.1, low=0, high=1)
    warmup_steps: int = knob(50, low=0)
    decay_share: float = knob(0.2, low=0, high=1)
    weight_decay: float = knob(0.1, low=0)
    beta1: float = knob(0.9, low=0, high=0.9999)
    beta2: float = knob(0.99, low=0, high=0.9999)
    grad_clip: float = knob(1.0, low=0)
    z_loss: float = knob(0.0, low=0)
    label_smoothing: float = knob(0.0, low=0, high=0.9)
    loss_chunk: int | None = knob(None, low=1)
    recompute: bool = False
    ema_decay: float = knob(0.0, low=0, high=0.99999)
    patience: int | None = knob(None, low=1)
    skip_batches: int = knob(3, low=0)
    log_interval: int = knob(10, low=1)
    eval_interval: int = knob(675, low=1)
    checkpoint_interval: int = knob(675, low=1)
    keep_last: int = knob(2, low=2)
    save_safetensors: bool = False
    loss_on: Literal["assistant", "all"] = "assistant"
    primer: bool = True
    objective: Literal["next_token", "dpo", "simpo"] = "next_token"
    preference: PreferenceConfig = field(default_factory=PreferenceConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)

    @property
    def highest_lr(self) -> float:
        """The rate of what is trained: of adapters their own."""
        return self.lora.lr if self.lora.rank else self.lr


@dataclass(frozen=True)
class EvalConfig(Section):
    section: ClassVar[str] = "eval"

    batch_size: int = knob(32, low=1)
    max_tokens: int | None = knob(None, low=1)
    stride: int | None = knob(None, low=1)
    sample_prompt: str = ""
    sample_tokens: int = knob(160, low=0)


@dataclass(frozen=True)
class GenerateConfig(Section):
    section: ClassVar[str] = "generate"

    max_new_tokens: int = knob(200, low=1)
    temperature: float = knob(0.8, low=0, high=100)
    top_k: int | None = knob(None, low=1)
    top_p: float = knob(1.0, low=0, high=1)
    min_p: float = knob(0.0, low=0, high=1)
    repetition_penalty: float = knob(1.0, low=0.01, high=100)
    presence_penalty: float = knob(0.0, low=-100, high=100)
    frequency_penalty: float = knob(0.0, low=-100, high=100)
    no_repeat_ngram: int | None = knob(None, low=1)
    stop: tuple[str, ...] = ()
    seed: int | None = knob(None, low=0, high=2**63 - 1)
    speculate: int = knob(0, low=0, high=64)
    streams: int = knob(16, low=1, high=4096)
    cache_dtype: Literal["auto", "fp32", "bf16", "int8"] = "auto"
    cache_bytes: int = knob(1_000_000_000, low=1)
    prefix_bytes: int = knob(64_000_000, low=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if "" in self.stop:
            raise KiaraError("generate.stop holds an empty text", "leave it out", key="generate.stop")


@dataclass(frozen=True)
class ChatConfig(Section):
    section: ClassVar[str] = "chat"

    system: str | None = None
    max_new_tokens: int = knob(200, low=1)
    history: bool = True


@dataclass(frozen=True)
class ServeConfig(Section):
    section: ClassVar[str] = "serve"

    host: str = "127.0.0.1"
    port: int = knob(8000, low=0, high=65_535)
    model_name: str | None = None
    queue: int = knob(64, low=0, high=1_000_000)
    connections: int = knob(512, low=1, high=1_000_000)
    max_choices: int = knob(16, low=1, high=4096)
    max_inputs: int = knob(256, low=1)
    max_messages: int = knob(512, low=1)
    max_tokens: int = knob(4096, low=1)
    max_body_bytes: int = knob(5_000_000, low=1)
    max_seconds: float = knob(300.0, above=0)
    shutdown_seconds: float = knob(20.0, low=0)
    stream_interval_ms: float = knob(50.0, low=0, high=10_000)
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    access_log: Literal["off", "text", "json"] = "text"
    log_prompts: bool = False


@dataclass(frozen=True)
class RetrieveConfig(Section):
    section: ClassVar[str] = "retrieve"

    knowledge: str | None = None
    passages: int = knob(4, low=1, high=100)
    embedder: str = "auto"
    embedding_model: str | None = None
    embedding_key_file: str | None = None
    dimensions: int = knob(256, low=2, high=4096)
    chunk_chars: int = knob(600, low=80, high=100_000)
    overlap_chars: int = knob(100, low=0)
    search: Literal["auto", "exact", "hnsw"] = "auto"
    hnsw_above: int = knob(200_000, low=0)
    pdf_command: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.overlap_chars > self.chunk_chars // 2:
            raise KiaraError(
                f"retrieve.overlap_chars={self.overlap_chars} is more than half of "
                f"retrieve.chunk_chars={self.chunk_chars}",
                f"set it to at most {self.chunk_chars // 2}",
                key="retrieve.overlap_chars",
            )


@dataclass(frozen=True)
class QuantizeConfig(Section):
    section: ClassVar[str] = "quantize"

    method: Literal["gptq", "rtn"] = "gptq"
    group_size: int = knob(32, low=2)
    embedding_bits: int | None = knob(None, low=4, high=16)
    head_bits: int | None = knob(None, low=4, high=16)
    calibration_tokens: int = knob(65_536, low=1)
    tune_passes: int = knob(2, low=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("embedding_bits", "head_bits"):
            bits = getattr(self, key)
            if bits not in (None, 4, 8, 16):
                path = f"quantize.{key}"
                raise KiaraError(f"{path}={bits} is no choice", "choose one of: 4, 8, 16, null", key=path)


@dataclass(frozen=True)
class RuntimeConfig(Section):
    section: ClassVar[str] = "runtime"

    device: Device = "auto"
    dtype: Dtype = "auto"
    threads: int | str = knob("auto", low=1)
    compile: bool | str = "auto"
    native: bool | str = "auto"
    parallel: Literal["auto", "ddp", "fsdp"] = "auto"
    seed: int = knob(1337, low=0, high=2**63 - 1)
    deterministic: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in (("compile", self.compile), ("native", self.native)):
            if isinstance(value, str) and value != "auto":
                raise KiaraError(
                    f"runtime.{name}={value} is no choice",
                    "choose one of: auto, true, false",
                    key=f"runtime.{name}",
                )
        if self.compile is True and self.native is True:
            raise KiaraError(
                "runtime.compile=true and runtime.native=true exclude each other",
                "leave one of the two out",
                key="runtime.native",
            )
        if isinstance(self.threads, str) and self.threads != "auto":
            raise KiaraError(
                f"runtime.threads={self.threads} is not a number",
                "give a number of threads, or auto",
                key="runtime.threads",
            )


@dataclass(frozen=True)
class LoggingConfig(Section):
    section: ClassVar[str] = "logging"

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"
    file: str | None = None
    file_bytes: int = knob(10_000_000, low=1000)
    files: int = knob(3, low=1, high=1000)
    writers: tuple[str, ...] = ()
    wandb_project: str = "kiara"
    wandb_mode: Literal["offline", "online"] = "offline"

    def __post_init__(self) -> None:
        super().__post_init__()
        for writer in self.writers:
            if writer not in WRITERS:
                raise KiaraError(
                    f"logging.writers={writer}: no such writer",
                    f"choose among: {', '.join(WRITERS)}",
                    key="logging.writers",
                )


@dataclass(frozen=True)
class Config:
    version: int = VERSION
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    hooks: dict[str, Any] = field(default_factory=dict)  # name → settings: see hooks.py
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    generate: GenerateConfig = field(default_factory=GenerateConfig)
    chat: ChatConfig = field(default_factory=ChatConfig)
    serve: ServeConfig = field(default_factory=ServeConfig)
    retrieve: RetrieveConfig = field(default_factory=RetrieveConfig)
    quantize: QuantizeConfig = field(default_factory=QuantizeConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
