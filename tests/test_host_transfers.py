"""Host transfers that `refuse_host_transfers` refuses, in every form that code can give them, and what it lets pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import host_transfers
import numpy as np
import pytest
import torch
from host_transfers import HostTransferError, refuse_host_transfers
from torch import Tensor
from torch.nn import functional

from torso.agents.optim.optimizers import make_optimizer
from torso.nets import InputSpec
from torso.nets.modules.layers import InputScaling

META = torch.device("meta")
Case = Callable[[Tensor], object]  # of a vector of 4 numbers on the device
SCALAR, VECTOR, PLACES = torch.tensor(2.0), torch.ones(4), torch.tensor([0, 1])  # on the CPU, as a forgotten buffer is

ON_THE_CPU: dict[str, Case] = {
    "made of a number": lambda x: torch.tensor(0.5),
    "made of a list": lambda x: torch.as_tensor([0.5]),
    "made of an array": lambda x: torch.from_numpy(np.ones(4)),
    "made by arange": lambda x: torch.arange(4),
    "made by zeros, of rank 0": lambda x: torch.zeros(()),
    "made by linspace": lambda x: torch.linspace(0, 1, 4),
    "drawn": lambda x: torch.rand(4, generator=torch.Generator()),
    "drawn in place": lambda x: VECTOR.clone().uniform_(generator=torch.Generator()),
    "a permutation": lambda x: torch.randperm(4),
    "a factor of rank 0": lambda x: x * SCALAR,
    "added in place, of rank 0": lambda x: x.add_(SCALAR),
    "a bound of rank 0": lambda x: x.clamp(min=SCALAR),
    "a choice of rank 0": lambda x: torch.where(x > 0, x, SCALAR),
    "a fill of rank 0": lambda x: x.masked_fill(x > 0, SCALAR),
    "a value set in a slice": lambda x: x.__setitem__(slice(0, 2), SCALAR),
    "a list's factor of rank 0": lambda x: torch._foreach_mul_([x], SCALAR),
    "an index": lambda x: x[PLACES],
    "moved to the device": lambda x: VECTOR.to(x.device),
    "moved to the device without blocking": lambda x: VECTOR.to(x.device, non_blocking=True),
    "copied to the device": lambda x: x.copy_(VECTOR),
    "used alone": lambda x: SCALAR + 1,
    "read alone": lambda x: SCALAR.item(),
}
MADE_OF_VALUES: dict[str, Case] = {
    "tensor": lambda x: torch.tensor(0.5, device=x.device),
    "tensor of a list": lambda x: torch.tensor([0.5, 1.0], device="meta"),
    "as_tensor": lambda x: torch.as_tensor([0.5], device=x.device),
    "as_tensor of an array": lambda x: torch.as_tensor(np.ones(4), device=x.device),
    "asarray": lambda x: torch.asarray([0.5], device=x.device),
    "new_tensor": lambda x: x.new_tensor([0.5]),
    "an index of a list": lambda x: x[[0, 1]],
    "an index of an array": lambda x: x[np.array([0, 1])],
    "a column of a list": lambda x: x.view(2, 2)[:, [0]],
    "values set by a list": lambda x: x.__setitem__([0, 1], 0.0),
}
READ_IN_A_KERNEL: dict[str, Case] = {
    "multinomial": lambda x: x.multinomial(1),
    "histc": lambda x: x.histc(),
    "inv": lambda x: torch.linalg.inv(x.view(2, 2)),
    "values set by a mask": lambda x: x.__setitem__(x > 0, 0.0),
    "values put by a mask": lambda x: x.index_put((x > 0,), x[0]),
}
READ_ON_THE_HOST: dict[str, Case] = {  # which the meta device refuses
    "item": lambda x: x[0].item(),
    "float": lambda x: float(x.sum()),
    "int": lambda x: int(x.argmax()),
    "a place in a list": lambda x: [1, 2, 3, 4][x.argmax()],
    "a row by its place": lambda x: x[x.argmax()],
    "a branch": lambda x: 1 if x[0] > 0 else 2,
    "a check of all": lambda x: bool(x.isfinite().all()),
    "tolist": lambda x: x.tolist(),
    "numpy": lambda x: x.numpy(),
    "an array": lambda x: np.asarray(x),
    "a product with an array": lambda x: x * np.ones(4),
    "cpu": lambda x: x.cpu(),
    "to": lambda x: x.to("cpu"),
    "to without blocking": lambda x: x.to("cpu", non_blocking=True),
    "copied to the CPU": lambda x: torch.empty_like(x, device="cpu").copy_(x),
    "nonzero": lambda x: x.nonzero(),
    "where with one argument": lambda x: torch.where(x > 0),
    "masked_select": lambda x: x.masked_select(x > 0),
    "a boolean index": lambda x: x[x > 0],
    "equal": lambda x: torch.equal(x, x),
    "allclose": lambda x: torch.allclose(x, x),
    "unique": lambda x: x.unique(),
    "bincount": lambda x: x.long().bincount(),
    "repeats": lambda x: x.repeat_interleave(x.long()),
    "one_hot of unknown size": lambda x: functional.one_hot(x.long()),
}
ON_THE_DEVICE: dict[str, Case] = {
    "a number": lambda x: 1.0 - 0.9 ** (x * 2.0 + np.float64(1.0)),
    "a number as a choice": lambda x: torch.where(x > 0, x, 0.0),
    "a number as a fill": lambda x: x.masked_fill(x > 0, -torch.inf),
    "a number in a slice": lambda x: x.__setitem__(slice(0, 2), 0.0),
    "made there": lambda x: torch.arange(4, device=x.device) + torch.full((), 0.5, device=x.device),
    "made like another": lambda x: torch.zeros_like(x) + x.new_zeros(4),
    "drawn there": lambda x: torch.rand(4, generator=torch.Generator(), device=x.device),
    "as it was": lambda x: torch.as_tensor(x),
    "indexed": lambda x: x[torch.zeros(3, dtype=torch.int64, device=x.device)],
    "put": lambda x: x.__setitem__(torch.zeros(3, dtype=torch.int64, device=x.device), 1.0),
    "sliced": lambda x: x.view(2, 2)[:, None, 1:],
    "one_hot of known size": lambda x: functional.one_hot(x.long(), 5),
    "searched": lambda x: torch.searchsorted(x.cumsum(0), x),
    "to another type": lambda x: x.to(torch.bfloat16).float(),
}


def cases(*kinds: dict[str, Case]) -> Any:
    return pytest.mark.parametrize(
        "case", [pytest.param(case, id=name) for kind in kinds for name, case in kind.items()]
    )


@cases(ON_THE_CPU, MADE_OF_VALUES, READ_IN_A_KERNEL)
def test_a_transfer_is_refused(case: Case) -> None:
    with refuse_host_transfers(), pytest.raises(HostTransferError):
        case(torch.empty(4, device=META))


@cases(READ_ON_THE_HOST)
def test_a_value_cannot_be_read(case: Case) -> None:
    with refuse_host_transfers(), pytest.raises((HostTransferError, RuntimeError, TypeError)) as error:
        case(torch.empty(4, device=META))
    assert isinstance(error.value, HostTransferError) or "meta" in str(error.value).lower()


@cases(ON_THE_DEVICE)
def test_what_stays_on_the_device_is_not_refused(case: Case) -> None:
    with refuse_host_transfers():
        case(torch.empty(4, device=META))


def test_the_meta_device_alone_would_let_a_scalar_pass() -> None:
    x = torch.empty(4, device=META)
    assert (x * SCALAR).is_meta
    with refuse_host_transfers():
        pass
    assert (x * SCALAR).is_meta  # the refusal ends with its block


def test_a_transfer_in_a_backward_pass_is_refused() -> None:
    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x * 2.0

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Tensor:
            return gradients[0] * SCALAR

    x = torch.empty(4, device=META, requires_grad=True)
    with refuse_host_transfers():
        (x * 2.0).sum().backward()
        with pytest.raises(HostTransferError, match="aten::mul"):
            Doubled.apply(x).sum().backward()


def copied_without_blocking(x: Tensor) -> None:
    x.copy_(torch.tensor([0.5] * 4) * SCALAR, non_blocking=True)
    torch.zeros(4).to(x.device, non_blocking=True)


def copied(x: Tensor) -> None:
    x.copy_(VECTOR)


def moved(x: Tensor) -> None:
    VECTOR.to(x.device)


def multiplied(x: Tensor) -> None:
    x.mul_(SCALAR)


def test_an_exception_is_one_for_what_does_not_block() -> None:
    x = torch.empty(4, device=META)
    with refuse_host_transfers(copied_without_blocking):
        copied_without_blocking(x)
        with pytest.raises(HostTransferError, match="CPU"):
            copied(x)
    for blocking in (copied, moved, multiplied):
        with refuse_host_transfers(blocking), pytest.raises(HostTransferError, match="waits for a tensor on the CPU"):
            blocking(x)


def adam_step() -> Callable[[], object]:
    layer = torch.nn.Linear(3, 2, device=META)
    layer(torch.empty(4, 3, device=META)).sum().backward()
    return make_optimizer(layer, "adam").step


def statistics_set() -> Callable[[], object]:
    scaling = InputScaling(InputSpec(shape=(2,), mean=(0.0, 0.0), std=(1.0, 1.0))).to(META)
    return lambda: scaling.set_statistics((1.0, 2.0), (3.0, 4.0))


@pytest.mark.parametrize("build", [adam_step, statistics_set])
def test_each_exception_is_needed_and_is_enough(
    build: Callable[[], Callable[[], object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with_exceptions, without = build(), build()
    with refuse_host_transfers():
        with_exceptions()
    monkeypatch.setattr(host_transfers, "ON_THE_HOST", ())
    with refuse_host_transfers(), pytest.raises(HostTransferError, match="CPU"):
        without()
