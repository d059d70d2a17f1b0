"""What computes the scores of an engine: C, PyTorch's operators, or the model's own forward pass; and why.

In: a model, and how an engine is to work. Out: `Backend`, decided for the model as it is now.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch

from kiara_cli.core.generate.compiled import Compiled, load, unfit
from kiara_cli.core.generate.step import Weights, weights_of
from kiara_cli.core.generate.verify import disagreement
from kiara_cli.core.model.cache import Cache
from kiara_cli.core.model.fastpath import why_plain
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.quantize.apply import in_dtype, pack_all
from kiara_cli.core.runtime.device import DTYPES, Runtime
from kiara_cli.core.runtime.native import CompilerError
from kiara_cli.errors import KiaraError

log = logging.getLogger("kiara.generate")
SWITCHED_OFF = "the fast paths are switched off"


@dataclass(frozen=True)
class Backend:
    """`model` reads prompts; `compiled` makes decode steps, or `decode_step` does, or the model where it must."""

    model: Transformer
    weights: Weights
    compiled: Compiled | None
    plain_because: str | None  # None: there are decode steps
    name: str  # for people: what makes the decode steps, and why nothing faster does

    @property
    def fast(self) -> bool:
        return self.plain_because is None


def choose(model: Transformer, runtime: Runtime, cache: Cache, fast: bool, native: bool | str) -> Backend:
    """Decide how scores are computed. In bf16 the fast paths work on a bf16 copy of the weights as they are now.

    Raises KiaraError if the decode step must be C (`native` is True) and the compiler fails.
    """
    why = why_plain(model) if fast else SWITCHED_OFF
    if why is not None:
        _warn(native, why)
        return Backend(model, dict(model.named_parameters()), None, why, f"plain PyTorch, because {why}")
    dtype = DTYPES[runtime.dtype]
    model = model if dtype == torch.float32 else in_dtype(model, dtype)
    weights = weights_of(model)
    why = "runtime.native=false" if native is False else unfit(weights, cache)
    if why is not None:
        _warn(native, why)
    else:
        try:
            library = load()
            why = disagreement(library, model.config, weights, dtype, cache.dtype)
            if why is None:
                compiled = Compiled(library, model.config, weights, cache, runtime.threads)
                return Backend(model, weights, compiled, None, f"C ({library.compiler})")
        except CompilerError as error:
            why = str(error)
        if native is True:
            cause, remedy = (
                f"runtime.native=true cannot be honoured: {why}",
                "install gcc or clang, or set runtime.native=auto",
            )
            raise KiaraError(cause, remedy)
    pack_all(model)
    return Backend(model, weights_of(model), None, None, f"PyTorch's operators, because {why}")


def _warn(native: bool | str, why: str) -> None:
    if native is True:
        log.warning("runtime.native=true cannot be honoured in decoding: %s", why)
