"""Heads: loss, probabilities and readout of an output, against numbers worked by hand in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from torso.nets import (
    InputSpec,
    LabelHead,
    LogitsHeadSpec,
    MLPSpec,
    NetworkSpec,
    OneVsRestHeadSpec,
    Prediction,
    RegressionHeadSpec,
    ScalarHeadSpec,
    SigmoidHeadSpec,
    StepHeadSpec,
    build_network,
)
from torso.nets.modules import losses
from torso.nets.modules.label_heads import LogitsHead, OneVsRestHead, RegressionHead, SigmoidHead, StepHead
from torso.nets.modules.value_heads import ScalarHead

Q_T = [[1.0, 4.0, 2.0], [-1.0, -3.0, -2.0], [5.0, 5.0, 8.0]]
LOGITS = [[math.log(2), math.log(3), math.log(5)], [0.0, -2.0, 1.0]]


def tensor(*values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def leaf(*values: object) -> Tensor:
    return tensor(*values).requires_grad_()


def gradient(loss: Tensor, by: Tensor) -> Tensor:
    (result,) = torch.autograd.grad(loss.sum(), by)
    return result


def equal(got: Tensor, expected: Tensor, atol: float = 1e-15) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-14, atol=atol)


# -- values ------------------------------------------------------------------------------------------------------------


def test_scalar_heads_loss_and_gradient_by_hand() -> None:
    head = ScalarHead(ScalarHeadSpec(num_actions=3), num_features=2).double()
    q = leaf(*Q_T)
    target = tensor(3.0, -1.25, 5.0)
    loss, priority = head.loss(Prediction(q), torch.tensor([1, 0, 2]), target)
    # TD errors: 3 - 4 = -1; -1.25 + 1 = -0.25; 5 - 8 = -3, beyond delta = 1
    equal(loss, tensor(0.5, 0.25**2 / 2, 2.5))
    equal(priority, tensor(1.0, 0.25, 3.0))
    assert not priority.requires_grad
    equal(gradient(loss, q), tensor([0, 1, 0], [0.25, 0, 0], [0, 0, 1]).double())


def test_scalar_head_without_delta_takes_the_squared_error() -> None:
    head = ScalarHead(ScalarHeadSpec(num_actions=3, huber_delta=None), num_features=2)
    q = leaf(*Q_T)
    loss, _ = head.loss(Prediction(q), torch.tensor([1, 0, 2]), tensor(3.0, -1.25, 5.0))
    equal(loss, tensor(0.5, 0.25**2 / 2, 4.5))
    equal(gradient(loss, q), tensor([0, 1, 0], [0.25, 0, 0], [0, 0, 3]).double())


def test_scalar_heads_delta_is_its_specs() -> None:
    head = ScalarHead(ScalarHeadSpec(num_actions=1, huber_delta=2.0), num_features=2)
    loss, _ = head.loss(Prediction(tensor([0.0])), torch.tensor([0]), tensor(5.0))
    equal(loss, tensor(8.0))


def test_scalar_heads_target_is_of_the_next_prediction() -> None:
    head = ScalarHead(ScalarHeadSpec(num_actions=3), num_features=2)
    policy = tensor([0, 1, 0], [1, 0, 0], [0, 0, 1]).double()
    target = head.target(tensor(1.0, -1.0, 0.5), tensor(0.5, 0.9, 0.0), Prediction(leaf(*Q_T)), policy)
    equal(target, tensor(3.0, -1.9, 0.5))
    assert not target.requires_grad


# -- dueling -----------------------------------------------------------------------------------------------------------


def test_a_head_that_does_not_duel_is_one_linear_layer() -> None:
    head = ScalarHead(ScalarHeadSpec(num_actions=3), num_features=2)
    assert list(head.state_dict()) == ["linear.weight", "linear.bias"]
    features = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(head.mixed(features, None).output, head.predict(features, None).output)


def test_a_dueling_head_by_hand() -> None:
    head = ScalarHead(ScalarHeadSpec(num_actions=2, dueling=True), num_features=2).double()
    values = {
        "value.linear.weight": [[1.0, 2.0]],
        "value.linear.bias": [0.5],
        "advantage.linear.weight": [[1.0, 0.0], [0.0, -1.0]],
        "advantage.linear.bias": [0.0, 4.0],
    }
    head.load_state_dict({name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()})
    # (3, 1): V = 3 + 2 + 0.5, A = (3, -1 + 4), of mean 3; (0, 2): V = 4.5, A = (0, 2), of mean 1
    q = head.predict(tensor([3.0, 1.0], [0.0, 2.0]), None).output
    equal(q, tensor([5.5, 5.5], [3.5, 5.5]))


def test_a_dueling_heads_streams_have_hidden_layers_of_their_own() -> None:
    head = ScalarHead(ScalarHeadSpec(num_actions=3, dueling=True, hidden=(5, 4)), num_features=6).double()
    expected = {
        f"{stream}.{layer}.{kind}": shape
        for stream, num_outputs in (("value", 1), ("advantage", 3))
        for layer, width, fan_in in (("dense.layers.0", 5, 6), ("dense.layers.2", 4, 5), ("linear", num_outputs, 4))
        for kind, shape in (("weight", (width, fan_in)), ("bias", (width,)))
    }
    w = head.state_dict()
    assert {name: tuple(t.shape) for name, t in w.items()} == expected
    features = torch.randn(7, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    outputs = {}
    for stream in ("value", "advantage"):
        x = features
        for layer in ("dense.layers.0", "dense.layers.2"):
            x = (x @ w[f"{stream}.{layer}.weight"].T + w[f"{stream}.{layer}.bias"]).clamp(min=0)
        outputs[stream] = x @ w[f"{stream}.linear.weight"].T + w[f"{stream}.linear.bias"]
    by_hand = outputs["value"] + outputs["advantage"] - outputs["advantage"].mean(dim=1, keepdim=True)
    equal(head.predict(features, None).output, by_hand, atol=1e-14)


def test_a_dueling_heads_gradients_are_those_of_finite_differences() -> None:
    head = ScalarHead(ScalarHeadSpec(num_actions=3, dueling=True, hidden=(3,)), num_features=2).double()
    with torch.no_grad():
        for index, parameter in enumerate(head.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index)))
    names = [name for name, _ in head.named_parameters()]
    features = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(9), requires_grad=True)
    actions, target, weight = torch.tensor([0, 2, 1, 2]), tensor(9.0, -9.0, 0.1, 0.2), tensor(1.0, 0.5, 2.0, 0.0)

    def loss(x: Tensor, *values: Tensor) -> Tensor:
        prediction = Prediction(torch.func.functional_call(head, dict(zip(names, values, strict=True)), (x,)))
        return head.loss(prediction, actions, target)[0] * weight

    head.forward = lambda x: head.predict(x, None).output  # type: ignore[method-assign]
    _, priority = head.loss(head.predict(features, None), actions, target)
    assert (priority > 1).any(), "there should be errors in the linear branch"
    assert (priority < 1).any(), "and in the other"
    assert torch.autograd.gradcheck(loss, (features, *(p.detach().requires_grad_() for p in head.parameters())))


def test_a_dueling_heads_hidden_layers_are_in_bfloat16_and_its_outputs_are_not() -> None:
    head = ScalarHead(ScalarHeadSpec(num_actions=3, dueling=True, hidden=(128,)), num_features=256)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(16, 256, generator=generator)
    with torch.no_grad():
        head.value.linear.bias.fill_(12_700.3)  # which bfloat16 would hold as 12,672
    streams = []
    for stream in (head.value, head.advantage):
        layer: Any = stream.dense.layers[0]
        rounded = (features.bfloat16() @ layer.weight.bfloat16().T).float() + layer.bias
        streams.append(stream.linear(rounded.relu()))
    mixed = head.mixed(features, None).output
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, losses.dueling(*streams), rtol=1e-6, atol=1e-4)
    exact = head.predict(features, None).output
    torch.testing.assert_close(mixed, exact, rtol=0, atol=0.02)
    assert not torch.equal(mixed - mixed.mean(dim=1, keepdim=True), exact - exact.mean(dim=1, keepdim=True))


# -- labels ------------------------------------------------------------------------------------------------------------


def test_logits_head_reads_its_logits_as_probabilities() -> None:
    head = LogitsHead(LogitsHeadSpec(num_classes=3), num_features=2)
    prediction = Prediction(leaf(*LOGITS[:1]))
    equal(head.probabilities(prediction), tensor([0.2, 0.3, 0.5]))
    assert head.readout(prediction) is prediction.output
    equal(head.loss(prediction, torch.tensor([0])), tensor(-math.log(0.2)))


def test_a_sigmoid_heads_one_output_is_read_as_two_classes() -> None:
    head = SigmoidHead(SigmoidHeadSpec(), num_features=2).double()
    assert head.linear.weight.shape == (1, 2)
    z = leaf(math.log(3), -math.log(4), 0.0, 1000.0, -1000.0)
    equal(head.readout(Prediction(z)), torch.stack((torch.zeros_like(z), z), dim=1))
    expected = tensor([0.25, 0.75], [0.8, 0.2], [0.5, 0.5], [0.0, 1.0], [1.0, 0.0])
    equal(head.probabilities(Prediction(z)), expected)
    loss = head.loss(Prediction(z), torch.tensor([1, 1, 0, 0, 0]))
    equal(loss, tensor(-math.log(0.75), -math.log(0.2), math.log(2), 1000.0, 0.0))
    features = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    equal(head.predict(features, None).output, features @ head.linear.weight[0] + head.linear.bias)


def test_a_sigmoid_heads_two_losses_are_one() -> None:
    one, other = (SigmoidHead(SigmoidHeadSpec(loss=loss), num_features=2) for loss in ("cross-entropy", "logistic"))
    z, labels = leaf(3.0, -2.0, 0.5), torch.tensor([1, 1, 0])
    equal(one.loss(Prediction(z), labels), other.loss(Prediction(z), labels))
    equal(other.loss(Prediction(z), labels), losses.logistic(z, torch.tensor([1, 1, -1])))


def test_one_vs_rests_probabilities_are_normalised_sigmoids() -> None:
    head = OneVsRestHead(OneVsRestHeadSpec(num_classes=3), num_features=2)
    z = leaf([0.0, math.log(3), -math.log(4)], [-1000.0, -1000.0, -1000.0 - math.log(2)], [1000.0, -1000.0, 1000.0])
    sigmoids = tensor([0.5, 0.75, 0.2])
    expected = torch.cat((sigmoids / sigmoids.sum(), tensor([0.4, 0.4, 0.2], [0.5, 0.0, 0.5])))
    equal(head.probabilities(Prediction(z)), expected, atol=1e-12)  # a logit of -1000 has but 13 digits after the point
    torch.testing.assert_close(head.readout(Prediction(z))[0], sigmoids[0].log(), rtol=1e-12, atol=0)
    equal(head.loss(Prediction(z), torch.tensor([1, 0, 0])), losses.one_vs_rest(z, torch.tensor([1, 0, 0])))


def test_a_step_unit_says_0_or_1() -> None:
    head = StepHead(StepHeadSpec(), num_features=2).double()
    assert head.linear.weight.shape == (1, 2)
    z = leaf(0.01, 0.0, -0.01, 1000.0, -1000.0)
    assert head.probabilities(Prediction(z)).tolist() == [[0, 1], [1, 0], [1, 0], [0, 1], [1, 0]]
    readout = head.readout(Prediction(z))
    assert readout.argmax(dim=1).tolist() == [1, 0, 0, 1, 0]
    assert readout[:, 1].tolist() == z.tolist()
    loss = head.loss(Prediction(z), torch.tensor([1, 1, 1, 0, 0]))
    assert loss.tolist() == [0, 0, 0.01, 1000, 0]
    assert gradient(loss, z).tolist() == [0, -1, -1, 1, 0]


@pytest.mark.parametrize(
    ("spec", "output", "training"),
    [
        # -0.9 log p of the label's class, and the smoothed rest
        (LogitsHeadSpec(num_classes=2, label_smoothing=0.2), [[0.0, math.log(3)]], (0.9, 0.1)),
        (SigmoidHeadSpec(label_smoothing=0.2), [math.log(3)], (0.9, 0.1)),
    ],
)
def test_labels_are_smoothed_in_training_alone(spec: Any, output: Any, training: tuple[float, float]) -> None:
    head = {LogitsHeadSpec: LogitsHead, SigmoidHeadSpec: SigmoidHead}[type(spec)](spec, num_features=2)
    prediction, label = Prediction(tensor(*output)), torch.tensor([1])
    on, off = training
    equal(head.train().loss(prediction, label), tensor(-on * math.log(0.75) - off * math.log(0.25)))
    equal(head.eval().loss(prediction, label), tensor(-math.log(0.75)))


def test_one_vs_rests_labels_are_smoothed_in_training_alone() -> None:
    head = OneVsRestHead(OneVsRestHeadSpec(num_classes=3, label_smoothing=0.2), num_features=2)
    z, labels = tensor(*LOGITS), torch.tensor([1, 2])
    equal(head.train().loss(Prediction(z), labels), losses.one_vs_rest(z, labels, 0.2))
    equal(head.eval().loss(Prediction(z), labels), losses.one_vs_rest(z, labels))
    assert not torch.equal(losses.one_vs_rest(z, labels, 0.2), losses.one_vs_rest(z, labels))


LABELLING = [
    LogitsHeadSpec(num_classes=2),
    SigmoidHeadSpec(),
    SigmoidHeadSpec(loss="logistic"),
    OneVsRestHeadSpec(num_classes=2),
    StepHeadSpec(),
]


@pytest.mark.parametrize("spec", LABELLING)
def test_every_head_that_labels_does_so_for_networks(spec: Any) -> None:
    network_spec = NetworkSpec(input=InputSpec(shape=(3,)), torso=MLPSpec(hidden=(4,)), head=spec)
    assert (network_spec.kind, network_spec.num_outputs) == ("classifier", 2)
    assert network_spec.probabilistic is not isinstance(spec, StepHeadSpec)
    network = build_network(network_spec, torch.Generator().manual_seed(0)).double()
    assert isinstance(network.head, LabelHead)
    obs = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    prediction, _ = network(obs)
    readout, probabilities = network.head.readout(prediction), network.head.probabilities(prediction)
    assert readout.shape == probabilities.shape == (6, 2)
    equal(probabilities.sum(dim=1), torch.ones(6).double())
    assert torch.equal(readout.argmax(dim=1), probabilities.argmax(dim=1))
    if network_spec.probabilistic:
        equal(readout.softmax(dim=1), probabilities)
    assert network.head.loss(prediction, torch.tensor([0, 1, 0, 1, 1, 0])).shape == (6,)


# -- numbers -----------------------------------------------------------------------------------------------------------


def test_a_regressor_learns_deviations_and_answers_in_the_targets_units() -> None:
    head = RegressionHead(RegressionHeadSpec(num_targets=2, mean=(10.0, -1.0), std=(5.0, 0.5)), num_features=2)
    output = leaf([0.0, 0.0], [2.0, -1.0])
    equal(head.readout(Prediction(output)), tensor([10.0, -1.0], [20.0, -1.5]))
    loss = head.loss(Prediction(output), tensor([15.0, -1.0], [10.0, 0.0]))
    equal(loss, tensor(1.0, 2.0**2 + 3.0**2))
    equal(gradient(loss, output), tensor([-2.0, 0.0], [4.0, -6.0]))
    equal(head.loss(Prediction(output), head.readout(Prediction(output))), tensor(0.0, 0.0))


def test_a_regressor_without_units_takes_targets_as_they_are() -> None:
    head = RegressionHead(RegressionHeadSpec(num_targets=2), num_features=2)
    output = tensor([3.0, -1.0])
    assert head.readout(Prediction(output)).tolist() == [[3.0, -1.0]]
    equal(head.loss(Prediction(output), tensor([1.0, 1.0])), tensor(8.0))


def test_a_regressors_units_are_within_the_network_and_not_in_its_weights() -> None:
    spec = RegressionHeadSpec(num_targets=2, mean=(10.0, -1.0), std=(5.0, 0.5))
    network_spec = NetworkSpec(input=InputSpec(shape=(3,)), torso=MLPSpec(hidden=()), head=spec)
    assert (network_spec.kind, network_spec.num_outputs, network_spec.probabilistic) == ("regressor", 2, False)
    network = build_network(network_spec, torch.Generator().manual_seed(0))
    assert set(network.state_dict()) == {"head.linear.weight", "head.linear.bias"}
    with torch.no_grad():
        network.head.linear.weight.zero_()  # type: ignore[union-attr,operator]
        network.head.linear.bias.zero_()  # type: ignore[union-attr,operator]
    assert network.readout(torch.randn(4, 3)).tolist() == [[10.0, -1.0]] * 4
    assert network.double().readout(torch.randn(4, 3)).dtype == torch.float32
    targets = torch.tensor([[15.0, -1.0]])  # float32 from a data set, whatever the network's precision
    prediction, _ = network(torch.zeros(1, 3))
    equal(network.head.loss(prediction, targets), tensor(1.0))  # type: ignore[operator]
