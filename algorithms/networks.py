"""Network blocks that the methods share, and the tanh-squashed Gaussian in one place."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

LARGEST_ACTION = 0.999  # whose density is asked for; at 1 it has none


class EnsembleLinear(nn.Module):
    """`members` independent linear layers as one batched product: (members, batch, in) -> (members, batch, out).

    Weights and biases start as in `torch.nn.Linear`, uniform within 1 / sqrt(in).
    """

    def __init__(self, members: int, in_features: int, out_features: int):
        super().__init__()
        bound = 1 / math.sqrt(in_features)
        self.weight = nn.Parameter(torch.empty(members, in_features, out_features).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(members, 1, out_features).uniform_(-bound, bound))

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, inputs, self.weight)


class ReLUNetwork(nn.Sequential):
    """Linear layers, or ensembles of them, with ReLU between; differentiable once.

    Computes what its layers do one after the other, to the bit, as one operation of autograd, whose work per layer a
    small network would feel.
    """

    def forward(self, inputs: Tensor) -> Tensor:
        layers = [layer for layer in self if not isinstance(layer, nn.ReLU)]
        parameters = [value for layer in layers for value in (layer.weight, layer.bias)]
        if isinstance(layers[0], EnsembleLinear):
            return _ReLUNetwork.apply(inputs, *parameters)
        return _ReLUNetwork.apply(inputs.flatten(0, -2), *parameters).unflatten(0, inputs.shape[:-1])


class _ReLUNetwork(torch.autograd.Function):
    """`parameters` are weight and bias of each layer, of `nn.Linear` or `EnsembleLinear`."""

    @staticmethod
    def forward(ctx, inputs: Tensor, *parameters: Tensor) -> Tensor:
        layers = list(zip(parameters[::2], parameters[1::2], strict=True))
        units = [inputs]
        for weight, bias in layers[:-1]:
            units.append(_affine(units[-1], weight, bias).relu_())
        ctx.save_for_backward(*units, *parameters)
        return _affine(units[-1], *layers[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        depth = len(saved) // 3
        units, weights = saved[:depth], saved[depth::2]
        found: list[Tensor | None] = [None] * len(ctx.needs_input_grad)
        for layer in reversed(range(depth)):
            if layer < depth - 1:
                where_active_(gradient, units[layer + 1])
            if ctx.needs_input_grad[1 + 2 * layer]:
                found[1 + 2 * layer : 3 + 2 * layer] = _parameter_gradients(gradient, units[layer])
            if layer or ctx.needs_input_grad[0]:
                gradient = _input_gradient(gradient, weights[layer])
        found[0] = gradient if ctx.needs_input_grad[0] else None
        return tuple(found)


def _affine(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    if inputs.ndim == 3:
        return torch.baddbmm(bias, inputs, weight)
    return torch.addmm(bias, inputs, weight.t())


def _parameter_gradients(gradient: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
    if inputs.ndim == 3:
        return torch.bmm(inputs.mT, gradient), gradient.sum(1, keepdim=True)
    return torch.mm(gradient.t(), inputs), gradient.sum(0)


def _input_gradient(gradient: Tensor, weight: Tensor) -> Tensor:
    return torch.bmm(gradient, weight.mT) if gradient.ndim == 3 else torch.mm(gradient, weight)


def ensemble_mlp(members: int, in_features: int, hidden: Sequence[int], out_features: int) -> nn.Sequential:
    """`members` independent ReLU networks evaluated together: (members, batch, in) -> (members, batch, out)."""
    return _stack(lambda i, o: EnsembleLinear(members, i, o), in_features, hidden, out_features)


def some_members(network: nn.Sequential, members: Tensor, inputs: Tensor) -> Tensor:
    """The networks `members` (n,) of an ensemble on inputs (n, batch, in): (n, batch, out)."""
    for layer in network:
        if isinstance(layer, EnsembleLinear):
            inputs = torch.baddbmm(layer.bias[members], inputs, layer.weight[members])
        else:
            inputs = layer(inputs)
    return inputs


def mlp(in_features: int, hidden: Sequence[int], out_features: int) -> nn.Sequential:
    """A ReLU network: (..., in) -> (..., out)."""
    return _stack(nn.Linear, in_features, hidden, out_features)


def _stack(layer, in_features, hidden, out_features) -> ReLUNetwork:
    widths = [in_features, *hidden, out_features]
    layers = []
    for i, o in zip(widths, widths[1:], strict=False):
        layers += [layer(i, o), nn.ReLU(inplace=True)]
    return ReLUNetwork(*layers[:-1])


@torch.no_grad()
def initialize_like_rlkit(network: nn.Sequential, last: float) -> None:
    """The initialisation of PEARL and the authors' FOCAL program.

    Hidden weights are uniform within 1 / sqrt(out), with the layer's output width (their slip), and hidden biases 0.1;
    weights and biases of the last layer are uniform within `last`.
    """
    *hidden, output = [layer for layer in network if not isinstance(layer, nn.ReLU)]
    for layer in hidden:
        bound = 1 / math.sqrt(layer.bias.shape[-1])
        layer.weight.uniform_(-bound, bound)
        layer.bias.fill_(0.1)
    output.weight.uniform_(-last, last)
    output.bias.uniform_(-last, last)


def input_gradient(network: nn.Sequential, inputs: Tensor, columns: slice) -> Tensor:
    """Gradient of a scalar ReLU network with respect to some of its inputs, differentiable in the weights.

    inputs (batch, in) -> (batch, len(columns)), of an ensemble with its members in front of both. The product of the
    weights masked by the active units is what `torch.autograd.grad(..., create_graph=True)` gives, at about half the
    cost, since ReLU has no second derivative.
    """
    *hidden, output = [layer for layer in network if not isinstance(layer, nn.ReLU)]
    units = []
    with torch.no_grad():
        for layer in hidden:
            inputs = _affine(inputs, layer.weight, layer.bias).relu_()
            units.append(inputs)
    first, *others, last = [_out_first(layer) for layer in (*hidden, output)]
    gradient = last.expand(*inputs.shape[:-1], -1)
    for weight, active in zip(reversed(others), reversed(units[1:]), strict=True):
        gradient = where_active(gradient, active) @ weight
    return where_active(gradient, units[0]) @ first[..., columns]


def _out_first(layer: nn.Linear | EnsembleLinear) -> Tensor:
    """The layer's weights (..., out, in)."""
    return layer.weight.mT if isinstance(layer, EnsembleLinear) else layer.weight


def where_active(gradient: Tensor, units: Tensor) -> Tensor:
    """`gradient` where the ReLU outputs `units`, of the same shape, are above 0, and 0 elsewhere."""
    return torch.ops.aten.threshold_backward(gradient, units, 0)


def where_active_(gradient: Tensor, units: Tensor) -> None:
    """`where_active` in place."""
    torch.ops.aten.threshold_backward.grad_input(gradient, units, 0, grad_input=gradient)


def squash(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Action tanh(u), u = mean + std * noise, and its log-density (the last axis summed away).

    log pi(a) = log N(u; mean, std) - sum log(1 - tanh(u)^2), the last term in the form
    2 (log 2 - u - softplus(-2u)) that does not lose digits at the borders (Haarnoja et al. 2018, appendix C).
    """
    pre_tanh = mean + log_std.exp() * noise
    log_normal = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
    log_slope = 2 * (math.log(2) - pre_tanh - F.softplus(-2 * pre_tanh))
    return pre_tanh.tanh(), (log_normal - log_slope).sum(-1)


def squashed_log_density(mean: Tensor, log_std: Tensor, action: Tensor) -> Tensor:
    """Log-density of given actions under `squash`, the last axis summed away; actions beyond 0.999 count as that."""
    pre_tanh = action.clamp(-LARGEST_ACTION, LARGEST_ACTION).atanh()
    return squash(mean, log_std, (pre_tanh - mean) / log_std.exp())[1]


@torch.no_grad()
def polyak_update(target: nn.Module, online: nn.Module, rate: float) -> None:
    """target <- (1 - rate) * target + rate * online."""
    torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), rate)


@contextmanager
def frozen(*networks: nn.Module) -> Iterator[None]:
    """Inside, losses send gradients through the networks but not to their weights."""
    for network in networks:
        network.requires_grad_(False)
    try:
        yield
    finally:
        for network in networks:
            network.requires_grad_(True)


def adam(network: nn.Module, learning_rate: float) -> torch.optim.Optimizer:
    return torch.optim.Adam(network.parameters(), lr=learning_rate, fused=True)


def step(loss: Tensor, *optimizers: torch.optim.Optimizer) -> None:
    """One step of all `optimizers` down the gradient of `loss`, which reaches each of their parameters."""
    parameters = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        parameter.grad = gradient
    for optimizer in optimizers:
        optimizer.step()
