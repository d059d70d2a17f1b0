"""Every setting Kiara has: its name, type, default and range.

In: nothing. Out: frozen dataclasses, one per section of a config file; `Config` holds them all.
What each setting is for stands beside it in configs/default.yaml, which spells out the same defaults.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, TypeAlias

from kiara_cli.errors import KiaraError

VERSION = 1  # of the config's keys; load.py migrates older ones

Device: TypeAlias = Literal["auto", "cpu", "cuda", "mps"]
Dtype: TypeAlias = Literal["auto", "fp32", "bf16", "fp16"]
Kind: TypeAlias = Literal[
    "char", "word", "bpe", "gpt2", "r50k_base", "p50k_base", "p50k_edit", "cl100k_base", "o200k_base", "o200k_harmony"
]
WRITERS = ("tensorboard", "wandb")


def knob(default: Any, low: float | None = None, high: float | None = None, above: float | None = None) -> Any:
    """Declare a setting with its range: low <= value <= high, or above < value."""
    return field(default=default, metadata={"low": low, "high": high, "above": above})


class Section:
    """Check every value against the range its field declares. Raises KiaraError."""

    section: ClassVar[str]

    def __post_init__(self) -> None:
        for item in fields(self):  # type: ignore[arg-type]
            value = getattr(self, item.name)
            if isinstance(value, int | float) and item.metadata:
                self._check(item.name, value, **item.metadata)

    def _check(self, key: str, value: float, low: float | None, high: float | None, above: float | None) -> None:
        path = f"{self.section}.{key}"
        if not math.isfinite(value):
            raise KiaraError(f"{path}={value} is not a finite number", "give a finite value", key=path)
        if above is not None and value <= above:
            raise KiaraError(f"{path}={value} is out of range", f"it must be above {above}", key=path)
        nearest = max(value, low) if low is not None else value
        nearest = min(nearest, high) if high is not None else nearest
        if nearest != value:
            limits = f"from {low} to {high}" if high is not None else f"at least {low}"
            raise KiaraError(
                f"{path}={value} is out of range", f"it must be {limits}, the nearest is {nearest}", key=path
            )


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
    val_source: str | None = None
    name: str | None = None
    field: str = "text"
    val_fraction: float = knob(0.1, low=0.0001, high=0.9)
    shard_tokens: int = knob(100_000_000, low=1)
    output: str | None = None
    sampling: Literal["windows", "blocks"] = "windows"
    stride: int | None = knob(None, low=1)
    corpus_bytes: int = knob(6_000_000, low=20_000)
    corpus_seed: int = knob(0, low=0)


@dataclass(frozen=True)
class ModelConfig(Section):
    section: ClassVar[str] = "model"

    vocab_size: int | None = knob(None, low=1)
    context_length: int = knob(384, low=2)
    emb_dim: int = knob(128, low=1)
    n_heads: int = knob(4, low=1)
    n_kv_heads: int | None = knob(None, low=1)
    head_width: int | None = knob(None, low=1)
    n_layers: int = knob(4, low=1)
    ffn_dim: int | None = knob(None, low=1)
    drop_rate: float = knob(0.0, low=0, high=1)
    positions: Literal["rotary", "learned", "sinusoidal"] = "rotary"
    rope_theta: float = knob(10_000.0, above=0)
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    norm_eps: float | None = knob(None, above=0)
    feedforward: Literal["swiglu", "gelu", "relu2"] = "swiglu"
    qk_norm: bool = True
    tied_head: bool = False
    bias: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head_width is None and self.emb_dim % self.n_heads:
            nearest = nearest_multiple(self.emb_dim, self._width_step)
            raise KiaraError(
                f"model.emb_dim={self.emb_dim} is not divisible by model.n_heads={self.n_heads}",
                f"the nearest valid value is model.emb_dim={nearest}",
                key="model.emb_dim",
            )
        if self.n_heads % self.kv_heads:
            divisors = [d for d in range(1, self.n_heads + 1) if self.n_heads % d == 0]
            nearest = min(divisors, key=lambda d: abs(d - self.kv_heads))
            raise KiaraError(
                f"model.n_heads={self.n_heads} is not divisible by model.n_kv_heads={self.kv_heads}",
                f"the nearest valid value is model.n_kv_heads={nearest}",
                key="model.n_kv_heads",
            )
        if self.positions == "rotary" and self.head_width is not None and self.head_width % 2:
            raise KiaraError(
                f"model.positions=rotary turns pairs of channels, and model.head_width={self.head_width} is odd",
                f"the nearest valid value is model.head_width={self.head_width + 1}",
                key="model.head_width",
            )
        needs_even = self.head_dim if self.positions == "rotary" else self.emb_dim
        if self.positions != "learned" and needs_even % 2:
            raise KiaraError(
                f"model.positions={self.positions} turns pairs of channels, and "
                f"model.emb_dim={self.emb_dim} with model.n_heads={self.n_heads} leaves {needs_even} of them",
                f"the nearest valid value is model.emb_dim={nearest_multiple(self.emb_dim, self._width_step)}",
                key="model.emb_dim",
            )

    @property
    def _width_step(self) -> int:
        """What emb_dim must be a multiple of: whole heads, and pairs of channels where positions turn them."""
        pairs = {"rotary": 2 * self.n_heads, "sinusoidal": math.lcm(2, self.n_heads)}
        return pairs.get(self.positions, self.n_heads)

    @property
    def head_dim(self) -> int:
        """Channels per head, C."""
        return self.head_width if self.head_width is not None else self.emb_dim // self.n_heads

    @property
    def kv_heads(self) -> int:
        """Key and value heads, K; fewer than n_heads means grouped-query attention."""
        return self.n_kv_heads if self.n_kv_heads is not None else self.n_heads

    @property
    def epsilon(self) -> float:
        """What the norms add before they divide; by default that of Llama or of GPT-2."""
        if self.norm_eps is not None:
            return self.norm_eps
        return 1e-6 if self.norm == "rmsnorm" else 1e-5

    @property
    def hidden_dim(self) -> int:
        """Width inside the feed-forward; by default 4 D, or 8/3 D where a gate adds a third matrix."""
        if self.ffn_dim is not None:
            return self.ffn_dim
        if self.feedforward == "swiglu":
            return max(32, round(self.emb_dim * 8 / 3 / 32) * 32)
        return 4 * self.emb_dim


@dataclass(frozen=True)
class TrainConfig(Section):
    section: ClassVar[str] = "train"

    max_steps: int = knob(1350, low=1)
    max_epochs: float | None = knob(None, above=0)
    batch_size: int = knob(11, low=1)
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


@dataclass(frozen=True)
class EvalConfig(Section):
    section: ClassVar[str] = "eval"

    batch_size: int = knob(32, low=1)
    max_tokens: int | None = knob(None, low=1)
    sample_prompt: str = ""
    sample_tokens: int = knob(160, low=0)


@dataclass(frozen=True)
class GenerateConfig(Section):
    section: ClassVar[str] = "generate"

    max_new_tokens: int = knob(200, low=1)
    temperature: float = knob(0.8, low=0)
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
    fused: bool | str = "auto"
    seed: int = knob(1337, low=0, high=2**63 - 1)
    deterministic: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in (("compile", self.compile), ("fused", self.fused)):
            if isinstance(value, str) and value != "auto":
                raise KiaraError(
                    f"runtime.{name}={value} is no choice",
                    "choose one of: auto, true, false",
                    key=f"runtime.{name}",
                )
        if self.compile is True and self.fused is True:
            raise KiaraError(
                "runtime.compile=true and runtime.fused=true exclude each other",
                "leave one of the two out",
                key="runtime.fused",
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
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    generate: GenerateConfig = field(default_factory=GenerateConfig)
    chat: ChatConfig = field(default_factory=ChatConfig)
    serve: ServeConfig = field(default_factory=ServeConfig)
    quantize: QuantizeConfig = field(default_factory=QuantizeConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)


def nearest_multiple(value: int, of: int) -> int:
    """Return the positive multiple of `of` closest to `value`."""
    return max(of, round(value / of) * of)
