"""The families of models that `transformers` has a class for and Kiara can compute: their config.json, both ways.

In: a config.json. Out: the model config that computes the same, or an error naming the option that Kiara lacks. And
back: a model config as config.json.

| model_type | what it is made of                                                                              |
|------------|-------------------------------------------------------------------------------------------------|
| llama      | rotary positions, RMSNorm, gate by SiLU, grouped heads (Llama, TinyLlama, SmolLM2)              |
| mistral    | the same; attends to the last `sliding_window` tokens, which is the same up to that context     |
| qwen2      | the same with biases of queries, keys and values                                                |
| qwen3      | the same with normalised queries and keys                                                       |
| gemma      | the same with a gate by GELU, norms of 1 + weight, scaled embeddings                            |
| gpt2       | learned positions, LayerNorm, GELU, biases                                                      |
| gpt_neox   | a share of the channels rotated, LayerNorm, GELU, biases, parallel residual (Pythia)            |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kiara_cli.config.load import from_mapping
from kiara_cli.config.model import ModelConfig
from kiara_cli.errors import KiaraError

Values = Mapping[str, Any]
Refuse = Callable[[Mapping[str, bool]], None]

REMEDY = "Kiara imports Llama, Mistral, Qwen 2 and 3, Gemma, GPT-2 and GPT-NeoX with their usual options"
GELUS = {"gelu_new": "gelu", "gelu_pytorch_tanh": "gelu", "gelu_fast": "gelu", "gelu": "gelu_erf", "relu2": "relu2"}
WRITTEN_GELUS = {"gelu": "gelu_new", "gelu_erf": "gelu", "relu2": "relu2"}
WINDOW = 4096  # of a Mistral whose config.json does not say


@dataclass(frozen=True)
class Family:
    """One model_type."""

    name: str  # of the class in transformers
    read: Callable[[Values, Refuse], dict[str, Any]]  # config.json → model options
    write: Callable[[ModelConfig], dict[str, Any]]


def read_config(values: Values, origin: str, context_length: int | None = None) -> ModelConfig:
    """Turn a config.json into a model config, with a shorter context if one is given.

    Raises KiaraError naming an option that Kiara does not have.
    """

    def refuse(wrong: Mapping[str, bool]) -> None:
        if found := [option for option, is_wrong in wrong.items() if is_wrong]:
            raise KiaraError(f"{origin}: Kiara's models cannot have {', '.join(found)}", REMEDY)

    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise KiaraError(f"{origin}: model_type {kind!r} is not one that Kiara can compute", REMEDY)
    if "auto_map" in values:
        raise KiaraError(f"{origin}: auto_map asks to run code of its own, which is never done", REMEDY)
    try:
        refuse({"quantization_config": "quantization_config" in values})
        options = FAMILIES[kind].read(values, refuse)
        window = _window(values)
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise KiaraError(f"{origin}: no usable {error}", REMEDY) from None
    model = from_mapping({"model": options}, origin).config.model
    if context_length is not None:
        model = _shortened(model, context_length)
    if window is not None and model.context_length > window:
        raise KiaraError(
            f"{origin}: it attends to the last {window} tokens alone and reads {model.context_length}; "
            "Kiara's models attend to all they read",
            f"give model.context_length={window}, within which that is the same",
        )
    return model


def _shortened(model: ModelConfig, context_length: int) -> ModelConfig:
    if model.positions == "learned" or context_length > model.context_length:
        raise KiaraError(
            f"model.context_length={context_length}: this model reads {model.context_length} tokens"
            + (", by a table of positions" if model.positions == "learned" else ""),
            "leave it out" if model.positions == "learned" else "give less, or leave it out",
        )
    return model.replace(context_length=context_length)


def _window(values: Values) -> int | None:
    """Return how many tokens some layer attends to at most; None: all that it reads."""
    if values["model_type"] == "mistral" or (
        values.get("use_sliding_window") and values.get("max_window_layers", 0) < values["num_hidden_layers"]
    ):
        window = values.get("sliding_window", WINDOW)
    else:
        window = None
    return None if window is None else int(window)


def _read_llama(values: Values, refuse: Refuse) -> dict[str, Any]:
    kind, heads, width = values["model_type"], values["num_attention_heads"], values["hidden_size"]
    activation = values.get("hidden_act", "silu")
    refuse({f"hidden_act={activation}": activation not in ("silu", "swish")})
    head_dim = values.get("head_dim") or (128 if kind == "qwen3" else width // heads)
    context = values.get("max_position_embeddings", 2048)
    attention_bias = "qkv" if kind == "qwen2" else "all" if values.get("attention_bias") else "none"
    bias = bool(values.get("mlp_bias"))
    return _rope(values, context, refuse) | dict(
        vocab_size=values["vocab_size"],
        context_length=context,
        emb_dim=width,
        n_heads=heads,
        n_kv_heads=_unless(values.get("num_key_value_heads"), heads),
        head_dim=None if head_dim * heads == width else head_dim,
        n_layers=values["num_hidden_layers"],
        hidden_dim=values["intermediate_size"],
        positions="rotary",
        norm="rmsnorm",
        norm_eps=float(values.get("rms_norm_eps", 1e-6)),
        feedforward="swiglu",
        qk_norm=kind == "qwen3",
        tied_head=bool(values.get("tie_word_embeddings", False)),
        bias=bias,
        attention_bias=_unless(attention_bias, "all" if bias else "none"),
    )


def _read_gemma(values: Values, refuse: Refuse) -> dict[str, Any]:
    activation = values.get("hidden_activation") or values.get("hidden_act", "gelu_pytorch_tanh")
    known = ("gelu", "gelu_pytorch_tanh", "gelu_new")  # transformers too takes gelu for its tanh form here
    refuse({f"hidden_act={activation}": activation not in known,
            "use_bidirectional_attention": bool(values.get("use_bidirectional_attention"))})  # fmt: skip
    usual = {"head_dim": 256, "tie_word_embeddings": True, "max_position_embeddings": 8192}
    options = _read_llama(usual | {**values, "hidden_act": "silu"}, refuse)
    return options | {"norm": "rmsnorm_1p", "feedforward": "geglu", "scale_embeddings": True}


def _read_gpt2(values: Values, refuse: Refuse) -> dict[str, Any]:
    activation = values.get("activation_function", "gelu_new")
    refuse(
        {
            f"activation_function={activation}": activation not in GELUS,
            "scale_attn_weights=false": not values.get("scale_attn_weights", True),
            "scale_attn_by_inverse_layer_idx": bool(values.get("scale_attn_by_inverse_layer_idx")),
            "add_cross_attention": bool(values.get("add_cross_attention")),
        }
    )
    return dict(
        vocab_size=values["vocab_size"],
        context_length=values["n_positions"],
        emb_dim=values["n_embd"],
        n_heads=values["n_head"],
        n_layers=values["n_layer"],
        hidden_dim=values.get("n_inner") or 4 * values["n_embd"],
        positions="learned",
        norm="layernorm",
        norm_eps=float(values.get("layer_norm_epsilon", 1e-5)),
        feedforward=GELUS[activation],
        qk_norm=False,
        tied_head=bool(values.get("tie_word_embeddings", True)),
        bias=True,
    )


def _read_neox(values: Values, refuse: Refuse) -> dict[str, Any]:
    activation = values.get("hidden_act", "gelu")
    refuse({f"hidden_act={activation}": activation not in GELUS})
    context = values.get("max_position_embeddings", 2048)
    share = _rope_values(values).get("partial_rotary_factor", values.get("rotary_pct", 0.25))
    theta = values.get("rotary_emb_base", 10_000.0)
    return _rope({"rope_theta": theta, **values}, context, refuse, share) | dict(
        vocab_size=values["vocab_size"],
        context_length=context,
        emb_dim=values["hidden_size"],
        n_heads=values["num_attention_heads"],
        n_layers=values["num_hidden_layers"],
        hidden_dim=values["intermediate_size"],
        positions="rotary",
        rotary_share=float(share),
        norm="layernorm",
        norm_eps=float(values.get("layer_norm_eps", 1e-5)),
        feedforward=GELUS[activation],
        residual="parallel" if values.get("use_parallel_residual", True) else "sequential",
        qk_norm=False,
        tied_head=bool(values.get("tie_word_embeddings", False)),
        bias=True,
        attention_bias=None if values.get("attention_bias", True) else "none",
    )


def _rope(values: Values, context: int, refuse: Refuse, share: float = 1.0) -> dict[str, Any]:
    """Read how rotary frequencies are scaled. `share` of the channels is what the family can rotate."""
    rope = _rope_values(values)
    kind = rope.get("rope_type", rope.get("type", "default"))
    betas = (rope.get("beta_fast") or 32, rope.get("beta_slow") or 1, rope.get("truncate", True))
    sharpened = any(rope.get(key) for key in ("attention_factor", "mscale", "mscale_all_dim"))
    refuse(
        {
            # dynamic: scaled only beyond the context that is read here
            f"rope_type={kind}": kind not in ("default", "dynamic", "linear", "llama3", "yarn"),
            "partial_rotary_factor": rope.get("partial_rotary_factor", share) != share,
            "yarn with attention_factor or mscale": kind == "yarn" and sharpened,
            "yarn with other betas": kind == "yarn" and betas != (32, 1, True),
        }
    )
    options: dict[str, Any] = {"rope_theta": float(rope.get("rope_theta", values.get("rope_theta", 10_000.0)))}
    if kind in ("linear", "llama3", "yarn"):
        options |= {"rope_scaling": kind, "rope_factor": float(rope["factor"])}
    if kind in ("llama3", "yarn"):
        options["rope_original_context"] = int(rope.get("original_max_position_embeddings") or context)
    if kind == "llama3":
        options["rope_low_freq"] = float(rope["low_freq_factor"])
        options["rope_high_freq"] = float(rope["high_freq_factor"])
    return options


def _rope_values(values: Values) -> Values:
    """Look where transformers writes it now, then where it did before version 5."""
    return values.get("rope_parameters") or values.get("rope_scaling") or {}


def _unless(value: Any, default: Any) -> Any:
    """Return a value, or None where it is what the schema takes by itself."""
    return None if value in (None, default) else value


def _write_llama(config: ModelConfig) -> dict[str, Any]:
    return _write_rope(config) | {
        "hidden_size": config.emb_dim,
        "intermediate_size": config.hidden_dim,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": config.norm_eps,
        "attention_bias": config.attention_biases == "all",
        "mlp_bias": config.bias,
        "attention_dropout": config.drop_rate,
    }


def _write_mistral(config: ModelConfig) -> dict[str, Any]:
    return _without(_write_llama(config), "attention_bias", "mlp_bias") | {"sliding_window": None}


def _write_qwen2(config: ModelConfig) -> dict[str, Any]:
    return _without(_write_llama(config), "attention_bias", "mlp_bias") | {"use_sliding_window": False}


def _write_qwen3(config: ModelConfig) -> dict[str, Any]:
    return _without(_write_llama(config), "mlp_bias")


def _write_gemma(config: ModelConfig) -> dict[str, Any]:
    act = {"hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh"}
    return _without(_write_llama(config), "mlp_bias") | act


def _write_gpt2(config: ModelConfig) -> dict[str, Any]:
    return {
        "n_embd": config.emb_dim,
        "n_inner": config.hidden_dim,
        "n_layer": config.n_layers,
        "n_head": config.n_heads,
        "n_positions": config.context_length,
        "activation_function": WRITTEN_GELUS[config.feedforward],
        "layer_norm_epsilon": config.norm_eps,
        "embd_pdrop": config.drop_rate,
        "attn_pdrop": config.drop_rate,
        "resid_pdrop": config.drop_rate,
        "scale_attn_weights": True,
    }


def _write_neox(config: ModelConfig) -> dict[str, Any]:
    rope = _write_rope(config)
    rope["rope_parameters"]["partial_rotary_factor"] = config.rotary_share
    return rope | {
        "hidden_size": config.emb_dim,
        "intermediate_size": config.hidden_dim,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "hidden_act": WRITTEN_GELUS[config.feedforward],
        "max_position_embeddings": config.context_length,
        "layer_norm_eps": config.norm_eps,
        "rotary_pct": config.rotary_share,
        "rotary_emb_base": config.rope_theta,
        "use_parallel_residual": config.residual == "parallel",
        "attention_bias": config.attention_biases == "all",
        "attention_dropout": config.drop_rate,
        "hidden_dropout": config.drop_rate,
    }


def _write_rope(config: ModelConfig) -> dict[str, Any]:
    """Write the scaling of rotary frequencies where transformers looks now, and where it did before version 5."""
    theta = {"rope_theta": config.rope_theta}
    if config.rope_scaling == "none":
        return theta | {"rope_parameters": {"rope_type": "default", **theta}}
    scaling: dict[str, Any] = {"rope_type": config.rope_scaling, "factor": config.rope_factor}
    if config.rope_scaling != "linear":
        scaling["original_max_position_embeddings"] = config.rope_original_context
    if config.rope_scaling == "llama3":
        scaling |= {"low_freq_factor": config.rope_low_freq, "high_freq_factor": config.rope_high_freq}
    return theta | {"rope_parameters": scaling | theta, "rope_scaling": scaling}


def _without(values: dict[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in names}


FAMILIES = {
    "llama": Family("LlamaForCausalLM", _read_llama, _write_llama),
    "mistral": Family("MistralForCausalLM", _read_llama, _write_mistral),
    "qwen2": Family("Qwen2ForCausalLM", _read_llama, _write_qwen2),
    "qwen3": Family("Qwen3ForCausalLM", _read_llama, _write_qwen3),
    "gemma": Family("GemmaForCausalLM", _read_gemma, _write_gemma),
    "gpt2": Family("GPT2LMHeadModel", _read_gpt2, _write_gpt2),
    "gpt_neox": Family("GPTNeoXForCausalLM", _read_neox, _write_neox),
}
